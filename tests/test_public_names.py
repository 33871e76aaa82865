"""Public names: what tests/public_names.yaml records is what there is. The names of a run are in tests/test_pipeline.py.

A difference is a decision: users' scripts, dashboards and served models hold on to these names. Where one is meant to
change, change the record with it, and say so in CHANGELOG.md.
"""

from support.public_names import differences, names_without_run, recorded_names


def test_parameters_and_commands_are_the_recorded_ones() -> None:
    recorded, _ = recorded_names()
    assert differences(recorded, names_without_run()) == []


def test_record_has_every_kind_of_name() -> None:
    without_run, of_run = recorded_names()
    assert {"params.yaml", "sar-search", "sar-search check"} <= without_run.keys()
    assert {"results/search/trials.csv", "results/search/best.yaml", "results/evaluate/metrics.json"} <= of_run.keys()
    for kind in ("search", "trial", "retrain", "evaluation"):
        assert all(of_run[f"MLflow {kind} run, {part}"] for part in ("tags", "metrics", "params")), kind
    assert of_run["registered model, inputs"]
    assert of_run["registered model, outputs"]
    assert of_run["registered version, tags"]


def test_added_and_lost_names_are_told_apart() -> None:
    recorded, present = {"trials.csv": ["a", "b"], "old.csv": ["x"]}, {"trials.csv": ["b", "c"], "new.csv": ["y"]}
    assert differences(recorded, present) == [
        "new.csv: added y",
        "old.csv: lost x",
        "trials.csv: lost a",
        "trials.csv: added c",
    ]

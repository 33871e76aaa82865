"""The whole line, with the real engines, in a temporary clone on a tiny setting."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from ruamel.yaml import YAML
from support.checkout import TINY, Checkout
from support.public_names import differences, names_of_run, recorded_names

STAGES = ["prepare", "split", "search", "retrain", "evaluate", "report", "register"]


SETTINGS = {"search.max_concurrent_trials": 1, "tracking.on_finished": "env | grep ^SAR_ > told.txt"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A clone in which `dvc repro` has run once, with two trials one after the other."""
    checkout = Checkout(tmp_path_factory.mktemp("clone"), TINY | SETTINGS)
    said = checkout.repro().stdout
    assert [stage for stage in STAGES if f"Running stage '{stage}'" in said] == STAGES
    return checkout


def _client(checkout: Checkout) -> MlflowClient:
    uri = f"sqlite:///{checkout.root / 'mlflow.db'}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _json(checkout: Checkout, path: str) -> Any:
    return json.loads((checkout.root / "results" / path).read_text())


def test_search_leaves_its_trials_controls_and_best_setting(done: Checkout) -> None:
    summary = _json(done, "search/summary.json")
    best = YAML(typ="safe", pure=True).load((done.root / "results/search/best.yaml").read_text())
    assert sum(summary["trials"].values()) == 2
    assert set(summary["controls"]) == {"baseline", "paper"}
    assert set(best["best"]) == {f"regularizer.spatial_entropy.{name}" for name in ("weight", "layers", "threshold")}
    assert best["trial"] in ("t0000", "t0001")
    (kept,) = done.root.glob("state/searches/*/best.yaml")  # for `status`, when results/ are of another search
    assert kept.read_bytes() == (done.root / "results/search/best.yaml").read_bytes()


def test_study_is_a_file_that_optuna_opens(done: Checkout) -> None:
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{done.root / 'results/search/study.db'}")
    name = optuna.get_all_study_names(storage)[0]
    study = optuna.load_study(study_name=name, storage=storage)
    assert len(study.trials) == 2
    storage.remove_session()
    storage.engine.dispose()


def test_mlflow_has_one_parent_with_its_trials_nested_and_nothing_left_running(done: Checkout) -> None:
    client = _client(done)
    experiment = client.get_experiment_by_name("sar-search/digits")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} <= {"FINISHED", "FAILED"}
    parents = [run for run in runs if run.data.tags.get("sar.kind") == "search"]
    assert len(parents) == 1
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    trials = {run.data.tags["sar.trial"]: run for run in nested if "sar.trial" in run.data.tags}
    confirms = {name: run.data.tags["sar.confirms"] for name, run in trials.items() if "sar.confirms" in run.data.tags}
    assert set(trials) - set(confirms) == {"baseline", "paper", "t0000", "t0001"}
    assert {"baseline", "paper"} < set(confirms.values())
    assert all(name.startswith(f"{confirmed}-seed") for name, confirmed in confirms.items())
    control = trials["baseline"]
    assert control.data.params["regularizer.spatial_entropy.weight"] == "0.0"
    assert len(client.get_metric_history(control.info.run_id, "val/accuracy")) == 3
    for tag in ("sar.commit", "sar.code_hash", "sar.data_hash", "sar.fingerprint"):
        assert control.data.tags[tag]
    assert [file.path for file in client.list_artifacts(control.info.run_id, "attention")]


def test_runs_read_well_in_a_list_and_are_filtered_by_tags(done: Checkout) -> None:
    client = _client(done)
    experiment = client.get_experiment_by_name("sar-search/digits").experiment_id

    def found(**tags: str) -> list[Any]:
        return client.search_runs([experiment], " and ".join(f"tags.`sar.{key}` = '{each}'" for key, each in tags.items()))  # fmt: skip

    (best,) = found(best="true")
    assert best.data.tags["sar.trial"] in best.info.run_name
    assert best.info.run_name.startswith("w=")
    assert {run.data.tags["sar.trial"] for run in found(control="true")} == {"baseline", "paper"}
    assert {run.info.run_name for run in found(control="true")} >= {"baseline w=0"}
    rungs = {run.data.tags["sar.rung"] for run in found(role="trial")}
    assert rungs <= {"0", "1"}
    (search,) = found(kind="search")
    note = search.data.tags["mlflow.note.content"]
    assert "**what** 2 trials over" in note
    assert "make repro" in note
    for kind, context in (("retrain", "training"), ("evaluation", "test")):
        for run in found(kind=kind):
            assert run.data.tags["sar.search_run"] == search.info.run_id
            (used,) = client.get_run(run.info.run_id).inputs.dataset_inputs
            assert run.data.tags["sar.data_hash"].startswith(used.dataset.digest)
            assert used.tags[0].value == context
            assert run.info.end_time > run.info.start_time


def test_attention_of_every_setting_is_logged_with_its_arrays(done: Checkout, tmp_path: Path) -> None:
    client = _client(done)
    experiment = client.get_experiment_by_name("sar-search/digits").experiment_id
    (search,) = client.search_runs([experiment], "tags.`sar.kind` = 'search'")
    names = {file.path for file in client.list_artifacts(search.info.run_id, "attention")}
    assert names == {"attention/settings.png"}
    assert [file.path for file in client.list_artifacts(search.info.run_id, "report")] == ["report/index.html"]
    chosen = "tags.`sar.best` = 'true'", "tags.`sar.control` = 'true'"
    drawn = [run for each in chosen for run in client.search_runs([experiment], each)]
    assert len(drawn) == 3
    for run in drawn:
        path = client.download_artifacts(run.info.run_id, "attention/validation_images.npz", str(tmp_path))
        with np.load(path) as arrays:
            assert arrays["similarity"].shape == arrays["components"].shape == (2, 2, 6, 6)


def test_hook_was_told_that_the_search_has_finished(done: Checkout) -> None:
    told = dict(line.split("=", 1) for line in (done.root / "told.txt").read_text().splitlines())
    assert told["SAR_EVENT"] == "finished"
    summary = _json(done, "search/summary.json")
    assert told["SAR_FINGERPRINT"] == summary["fingerprint"]
    assert told["SAR_BEST"] == summary["best"]["trial"]


def test_evaluation_is_kept_and_compared(done: Checkout) -> None:
    said = done.search("compare")
    assert said.returncode == 0, said.stderr
    fingerprint = _json(done, "search/summary.json")["fingerprint"]
    assert fingerprint[:8] in said.stdout
    assert "the same 359 test images; the latest of these evaluations was look 1 at them." in said.stdout
    evaluation = _json(done, "evaluate/evaluation.json")
    assert f"{100 * evaluation['arms']['best']['accuracy']:.2f}" in said.stdout


def test_evaluation_counts_looks_and_compares_the_arms(done: Checkout) -> None:
    evaluation = _json(done, "evaluate/evaluation.json")
    metrics = _json(done, "evaluate/metrics.json")
    assert evaluation["test_images"] == 359
    assert (evaluation["look"], evaluation["margin"]) == (1, 0.01)
    assert not evaluation["verdict"].startswith("Look")
    difference = metrics["test"]["difference"]
    assert difference["low"] <= difference["accuracy"] <= difference["high"]
    assert set(evaluation["baselines"]) == {"random", "uniform", "centre", "all_on"}
    with np.load(done.root / "results/evaluate/predictions.npz") as archive:
        split = json.loads((done.root / "data/split.json").read_text())
        assert archive["ids"].tolist() == split["test"]
        accuracy = (archive["best-seed1"].argmax(1) == archive["labels"]).mean()
    assert accuracy == evaluation["arms"]["best"]["accuracies"][0]


def test_report_is_one_page_that_fetches_nothing(done: Checkout) -> None:
    page = (done.root / "results/report/index.html").read_text()
    evaluation = _json(done, "evaluate/evaluation.json")
    assert evaluation["verdict"].split("(")[0].strip() in page
    assert 'src="http' not in page
    assert page.count("data:image/png;base64,") >= 5


@pytest.mark.slow
def test_registered_model_answers_in_a_folder_without_the_checkout(done: Checkout, tmp_path: Path) -> None:
    script = """
import sys, json, numpy as np, mlflow
assert not any((__import__("pathlib").Path(p) / "pipeline").is_dir() for p in sys.path if p and "site-packages" not in p)
model = mlflow.pyfunc.load_model("models:/sar-digits@challenger")
answer = model.predict(np.load("images.npy"))
print(json.dumps([list(answer["name"]), [list(p.values()) for p in answer["probabilities"]]]))
"""
    images = np.load(done.root / "data/prepared/images.npy")
    ids = json.loads((done.root / "data/split.json").read_text())["test"][:5]
    np.save(tmp_path / "images.npy", images[ids])
    answer = done.run(
        "env", "-C", str(tmp_path), "-u", "PYTHONPATH", sys.executable, "-P", "-c", script,
        env={"MLFLOW_TRACKING_URI": f"sqlite:///{done.root / 'mlflow.db'}"},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-3000:]
    names, probabilities = json.loads(answer.stdout.strip().splitlines()[-1])
    with np.load(done.root / "results/evaluate/predictions.npz") as archive:
        expected = archive["best-seed1"][:5]
    np.testing.assert_allclose(np.array(probabilities), expected, atol=1e-5)
    assert names == [str(label) for label in expected.argmax(1)]


def test_names_in_results_runs_and_model_are_the_recorded_ones(done: Checkout) -> None:
    _, recorded = recorded_names()
    assert differences(recorded, names_of_run(done.root)) == []


def test_second_repro_runs_nothing(done: Checkout) -> None:
    said = done.repro().stdout
    assert "Running stage" not in said
    assert "up to date" in said


@pytest.mark.slow
def test_a_gate_that_says_no_ends_with_status_3_and_moves_nothing(done: Checkout) -> None:
    done.set({"promote.min_accuracy": 1.0})
    for arguments in (["promote"], ["promote", "--dry-run"]):
        said = done.search(*arguments)
        assert said.returncode == 3, said.stderr
        assert "failed      accuracy: " in said.stdout
        assert "\n  failed: accuracy" in said.stderr
    assert "champion" not in _client(done).get_registered_model("sar-digits").aliases


@pytest.mark.slow
def test_promote_moves_the_champion(done: Checkout) -> None:
    done.set({"promote.min_accuracy": 0.0, "promote.control": "any", "promote.max_ece": None})
    said = done.search("promote", "--reason", "a test")
    assert said.returncode == 0, said.stderr
    client = _client(done)
    version = client.get_model_version_by_alias("sar-digits", "champion")
    assert version.version == client.get_model_version_by_alias("sar-digits", "challenger").version
    assert version.tags["sar.promoted.reason"] == "a test"
    for tag in ("data_hash", "split_hash", "commit", "search_run", "evaluation_run", "fingerprint", "licence"):
        assert version.tags[f"sar.{tag}"], tag
    accuracy = _json(done, "evaluate/evaluation.json")["arms"]["best"]["accuracies"][0]
    assert json.loads(version.tags["sar.promoted.gate"])["accuracy_value"] == round(accuracy, 4)
    assert version.tags["sar.own_accuracy"] == f"{accuracy:.4f}"
    assert _json(done, "evaluate/evaluation.json")["look"] == 1
    assert "@challenger  @champion" in done.search("models").stdout.replace("@champion  @challenger", "@challenger  @champion")  # fmt: skip
    refused = done.search("rollback")
    assert refused.returncode == 2
    assert "no champion before version 1" in refused.stderr


@pytest.mark.slow
def test_evaluating_the_same_networks_again_is_no_further_look(done: Checkout) -> None:
    before = _json(done, "evaluate/evaluation.json")
    said = done.run("dvc", "repro", "--single-item", "--force", "evaluate")
    assert "This is look 1 at these test images." in said.stdout, said.stderr
    after = _json(done, "evaluate/evaluation.json")
    assert [after[key] for key in ("look", "networks", "mlflow_run")] == [before[key] for key in ("look", "networks", "mlflow_run")]  # fmt: skip
    assert len((done.root / "state" / "looks.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_predict_gives_picture_files_the_probabilities_of_evaluate(done: Checkout, tmp_path: Path) -> None:
    ids = json.loads((done.root / "data/split.json").read_text())["test"][:5]
    for place, image in enumerate(np.load(done.root / "data/prepared/images.npy")[ids]):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{place}.png")
    said = done.search("predict", "--json", str(tmp_path))
    assert said.returncode == 0, said.stderr
    found = [list(row["probabilities"].values()) for row in json.loads(said.stdout)]
    with np.load(done.root / "results/evaluate/predictions.npz") as archive:
        np.testing.assert_allclose(found, archive["best-seed1"][:5], rtol=0, atol=1e-5)


def test_a_column_more_in_status_makes_no_stage_run_again(done: Checkout) -> None:
    code = done.root / "pipeline" / "commands" / "status.py"
    before = code.read_text()
    code.write_text(before + '\nANOTHER_COLUMN = "hours"\n')
    try:
        said = done.run("dvc", "status").stdout
    finally:
        code.write_text(before)
    assert "up to date" in said


@pytest.mark.slow
def test_a_column_more_in_trials_csv_trains_nothing_again_and_asks_nothing(done: Checkout) -> None:
    """Last, since what follows the search is stale afterwards."""
    (journal,) = (done.root / "state" / "searches").glob("*/journal.jsonl")
    trained = journal.read_text().count('"event": "epoch"')
    code = done.root / "pipeline" / "tune" / "selection" / "result_files.py"
    column = '        "trial": trial.id,\n        "role"'
    before = code.read_text()
    assert before.count(column) == 1
    code.write_text(
        before.replace(column, '        "trial": trial.id,\n        "nodes": len(trial.nodes),\n        "role"')
    )
    try:
        said = done.repro("search").stdout
    finally:
        code.write_text(before)
    assert "Running stage 'search'" in said
    assert (done.root / "results" / "search" / "trials.csv").read_text().startswith("trial,nodes,role,")
    assert trained == journal.read_text().count('"event": "epoch"') > 0

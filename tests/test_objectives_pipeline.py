"""Several objectives, constraints and warm starts through the real commands, with the real engines, in a clone."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support.checkout import TINY, Checkout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

WEIGHT, KWARGS = "regularizer.spatial_entropy.weight", "model.kwargs"
SMALL = {"patch_size": 2, "embed_dim": 16, "depth": 3, "num_heads": 2}
LARGE = {**SMALL, "embed_dim": 32}
SPACE = {
    "parameters": {
        WEIGHT: {"type": "float", "low": 0.01, "high": 1.0, "log": True},
        KWARGS: {"type": "categorical", "choices": [SMALL, LARGE]},
    },
    "controls": {"baseline": {WEIGHT: 0.0}},
}
GOALS = ["val/accuracy", "val/attention/jaccard", "images_per_s"]
SETTINGS: dict[str, Any] = {
    "search.space": "search_spaces/mine.yaml",
    "search.trials": 4,
    "search.max_concurrent_trials": 1,
    "search.sampler.startup_trials": 1,
    "search.scheduler.name": "none",
    "search.objectives": GOALS,
    "search.constraints.max_parameters": 15_000,
    "search.constraints.max_latency_ms": 10_000,
    "search.points": {"large": {KWARGS: LARGE, WEIGHT: 0.1}, "small": {KWARGS: SMALL}},
    "search.warm_start": "mine.csv",
    "search.confirm.top": 1,
    "search.confirm.seeds": 1,
    "retrain.seeds": 1,
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A clone in which everything up to the report has run once."""
    checkout = Checkout(tmp_path_factory.mktemp("clone"), TINY | SETTINGS)
    (checkout.root / "search_spaces" / "mine.yaml").write_text(json.dumps(SPACE))
    with (checkout.root / "mine.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([WEIGHT, KWARGS, *GOALS, "latency_ms"])
        for weight, accuracy in ((0.02, 0.2), (0.2, 0.4), (0.9, 0.1)):
            writer.writerow([weight, SMALL, accuracy, 0.3, 5000, 2.0])
    for stage in ("search", "report"):
        checkout.repro(stage)
    return checkout


def test_plan_says_what_is_searched_for_and_within_what(done: Checkout) -> None:
    said = done.search("check")
    assert said.returncode == 0, said.stderr
    assert (
        "objectives maximize val/accuracy, maximize val/attention/jaccard, maximize images_per_s; the " in said.stdout
    )
    assert "within    max_parameters 15,000, max_latency_ms 1e+04" in said.stdout
    assert "; first large, small; warm start with 3 results of mine.csv" in said.stdout


def test_setting_that_breaks_a_constraint_is_not_trained_and_told_as_such(done: Checkout) -> None:
    trials = {row["trial"]: row for row in rows(done.root / "results/search/trials.csv")}
    large = trials["t0000"]  # the first point
    assert (large["state"], large["epochs"], large["breaks"]) == ("infeasible", "0", "parameters")
    assert float(large["parameters"]) > 15_000
    assert "search.constraints.max_parameters: parameters is" in large["reason"]
    trained = [row for row in trials.values() if row["state"] == "complete"]
    assert trials["t0001"] in trained
    assert all(float(row["parameters"]) <= 15_000 and float(row["latency_ms"]) > 0 for row in trained)
    assert all(0 < float(row["val/attention/jaccard"]) < 1 and float(row["images_per_s"]) > 0 for row in trained)
    status = done.search("status").stdout
    identity = status.splitlines()[1].split()[0].lstrip("*")
    listed = done.search("status", identity).stdout
    assert "not trained since they break a constraint" in listed
    assert "infeasible" in next(line for line in listed.splitlines() if line.startswith("t0000"))
    assert "max_parameters" in done.search("logs", "t0000").stdout


def test_front_is_in_a_table_a_figure_the_summary_and_the_report(done: Checkout) -> None:
    folder = done.root / "results" / "search"
    summary = json.loads((folder / "summary.json").read_text())
    table = rows(folder / "pareto.csv")
    front = [row["trial"] for row in table if row["front"] == "true"]
    assert sorted(front) == sorted(each["trial"] for each in summary["front"])
    (chosen,) = [row for row in table if row["chosen"] == "true"]
    assert chosen["trial"] == summary["best"]["trial"]
    assert float(chosen["val/accuracy"]) == max(float(row["val/accuracy"]) for row in table if row["front"] == "true")
    assert "baseline" in [row["trial"] for row in table]
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
    page = (done.root / "results/report/index.html").read_text()
    assert "Pareto front over val/accuracy, val/attention/jaccard, images_per_s" in page
    assert "The best configuration meets search.constraints (max_parameters 15,000" in page


def test_mlflow_has_the_measures_the_states_and_the_figure(done: Checkout) -> None:
    uri = f"sqlite:///{done.root / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("sar-search/digits")
    runs = client.search_runs([experiment.experiment_id])
    trials = {run.data.tags["sar.trial"]: run for run in runs if "sar.trial" in run.data.tags}
    assert trials["t0000"].data.tags["sar.state"] == "infeasible"
    assert trials["t0000"].data.metrics["parameters"] > 15_000
    assert trials["t0001"].data.tags["sar.keeps_constraints"] == "true"
    assert {"latency_ms", "images_per_s", "val/attention/jaccard"} <= set(trials["t0001"].data.metrics)
    (search,) = [run for run in runs if run.data.tags.get("sar.kind") == "search"]
    assert search.data.metrics["pareto_front"] >= 1
    assert "pareto.png" in [file.path for file in client.list_artifacts(search.info.run_id)]


def test_study_is_one_of_several_objectives_with_its_constraints(done: Checkout) -> None:
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{done.root / 'results/search/study.db'}")
    study = optuna.load_study(study_name=optuna.get_all_study_names(storage)[0], storage=storage)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE"] * 3
    assert study.trials[0].constraints["parameters"] > 0
    assert study.trials[1].constraints["latency_ms"] < 0
    assert study.best_trials
    storage.remove_session()
    storage.engine.dispose()


def test_later_search_learns_from_an_earlier_one_and_another_space_is_refused_by_the_parameter(done: Checkout) -> None:
    first = done.search("status").stdout.splitlines()[1].split()[0].lstrip("*")
    done.set({"search.warm_start": first, "search.trials": 2, "search.points": {}, "train.lr": 0.0021})
    said = done.search("check")
    assert said.returncode == 0, said.stderr
    kept = json.loads((done.root / "results/search/summary.json").read_text())["trials"]["complete"]
    assert f"; warm start with {kept} results of {first}" in said.stdout
    done.repro("search")
    newest = max((done.root / "state" / "searches").glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime)
    header = json.loads(newest.read_text().splitlines()[0])
    assert len(header["known"]) == kept
    assert {"val/attention/jaccard", "images_per_s", "parameters", "latency_ms"} == set(header["known"][0]["metrics"])
    done.set({"search.space": "search_spaces/sar.yaml", "train.lr": 0.0022})
    refused = done.search("check")
    assert refused.returncode == 2
    assert (
        f"search.warm_start: {first}: it varied model.kwargs, which search_spaces/sar.yaml does not" in refused.stderr
    )


def test_constraint_that_nothing_keeps_is_refused_before_and_told_after(done: Checkout) -> None:
    back = {"search.space": "search_spaces/mine.yaml", "search.warm_start": None, "search.trials": 2}
    done.set(back | {"search.constraints.max_parameters": 1000})
    refused = done.search("check")
    assert refused.returncode == 2
    assert "max_parameters: given 1,000, but the smallest network of search_spaces/mine.yaml" in refused.stderr
    done.set({"search.constraints.max_parameters": None, "search.constraints.max_latency_ms": 0.0001})
    failed = done.run(sys.executable, "-m", "pipeline.stages.search")
    assert failed.returncode == 2, failed.stderr[-2000:]
    assert "no configuration that the search tried meets search.constraints: 2 were not trained" in failed.stderr
    assert "latency_ms: the lowest was" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "0/0/0/0 2 inf" in done.search("status").stdout

"""A search, and what follows from it, for another metric than accuracy, through the real commands in a clone."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from support.checkout import TINY, Checkout

from pipeline.tune.journal.image_scores import read_scores

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SETTINGS: dict[str, Any] = {
    "search.trials": 4,
    "search.max_concurrent_trials": 1,
    "search.sampler.startup_trials": 1,
    "search.confirm.top": 1,
    "search.confirm.seeds": 3,
    "search.objectives": ["val/metric"],
    "search.choose.then": "val/loss",
    "evaluate.metric": "mine:even",
    "retrain.seeds": "auto",
    "retrain.max_seeds": 3,
}
FUNCTION = """
def even(probabilities, labels):
    right = probabilities.argmax(axis=1) == labels
    return right[labels % 2 == 0].mean()


even.margin = 0.03
even.in_points = True
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A clone in which everything up to the report has run once."""
    checkout = Checkout(tmp_path_factory.mktemp("clone"), TINY | SETTINGS)
    (checkout.root / "mine.py").write_text(FUNCTION)
    checkout.repro("report")
    return checkout


def folder_of(done: Checkout) -> Path:
    (folder,) = (done.root / "state" / "searches").iterdir()
    return folder


def test_the_search_is_for_the_function_from_the_plan_to_the_report(done: Checkout) -> None:
    summary = json.loads((done.root / "results/search/summary.json").read_text())
    assert summary["objective"] == "val/metric"
    assert summary["choice"]["metric"]["label"] == "even"
    said = done.search("check").stdout
    assert "objective maximize val/metric" in said
    assert "among those whose mean even lies within" in said
    status = done.search("status", folder_of(done).name[:8]).stdout
    assert "val/metric" in next(line for line in status.splitlines() if line.startswith("trial "))
    page = (done.root / "results/report/index.html").read_text()
    assert "validation, your metric" in page
    assert "its validation even was" in page


def test_what_images_count_for_is_kept_and_has_the_value_as_its_mean(done: Checkout) -> None:
    folder, found = folder_of(done), read_scores(folder_of(done))
    assert '"scores": "float32:' in (folder / "image_scores.jsonl").read_text()
    with (done.root / "results/search/trials.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["state"] == "complete"]
    assert len(rows) >= 5
    for row in rows:
        scores = found.at(row["trial"], int(row["epochs"]))
        assert scores is not None
        assert np.mean(scores) == pytest.approx(float(row["val/metric"]), abs=1e-5)


def test_seeds_are_chosen_by_what_the_search_foretells_of_it(done: Checkout) -> None:
    seeds = json.loads((done.root / "results/retrain/seeds.json").read_text())
    assert seeds["asked"] == "auto"
    assert 2 <= seeds["chosen"] <= 3
    assert "validation images of the search" in seeds["why"]
    evaluation = json.loads((done.root / "results/evaluate/evaluation.json").read_text())
    assert evaluation["metric"]["label"] == "even"


def test_mlflow_has_the_value_of_the_best_and_the_control(done: Checkout) -> None:
    uri = f"sqlite:///{done.root / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("sar-search/digits")
    runs = client.search_runs([experiment.experiment_id])
    (search,) = [run for run in runs if run.data.tags.get("sar.kind") == "search"]
    assert {"best/val/metric", "control/val/metric", "best/val/accuracy"} <= set(search.data.metrics)


def test_a_search_for_the_lowest_loss_takes_the_lowest(done: Checkout) -> None:
    done.set({"search.objectives": ["val/loss"], "evaluate.metric": "log_loss", "search.choose.then": "none"})
    done.repro("search")
    summary = json.loads((done.root / "results/search/summary.json").read_text())
    assert summary["choice"]["metric"]["lower_is_better"]
    with (done.root / "results/search/trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = {
        name: [float(row["val/loss"]) for row in rows if row["trial"] == name or row["trial"].startswith(f"{name}-")]
        for name in summary["choice"]["confirmed"]
    }
    assert min(losses, key=lambda name: np.mean(losses[name])) == summary["best"]["trial"]
    metrics = json.loads((done.root / "results/search/metrics.json").read_text())
    assert metrics["val_loss"]["best"] == summary["best"]["val_loss"]

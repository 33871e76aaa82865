"""The whole line with folds, with the real engines, in a clone on a tiny setting: left alone, and killed in between."""

import csv
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kills.clone import Clone, wait_until
from mlflow import MlflowClient
from support.checkout import TINY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

FOLDS = 2
SETTINGS = TINY | {
    "search.max_concurrent_trials": 1,
    "search.confirm.top": 1,
    "search.confirm.seeds": 1,
    "evaluate.folds": FOLDS,
    "promote.max_ece": None,
    "promote.min_accuracy": 0.0,
    "promote.control": "any",
}
REPRO = [sys.executable, "-m", "pipeline.cli", "repro"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which everything has run once, undisturbed."""
    clone = Clone(tmp_path_factory.mktemp("folds") / "alone", SETTINGS)
    assert clone.run(REPRO) == 0, clone.log.read_text()[-4000:]
    return clone


def content(clone: Clone, path: str) -> Any:
    return json.loads((clone.root / "results" / path).read_text())


def said(clone: Clone, *arguments: str, status: int = 0) -> str:
    """What a command prints."""
    before = clone.log.stat().st_size
    assert clone.run([sys.executable, "-m", "pipeline.cli", *arguments]) == status
    return clone.log.read_bytes()[before:].decode()


def epochs_reported(clone: Clone) -> int:
    """Epochs that the journals of all searches have."""
    journals = (clone.root / "state" / "searches").glob("*/journal.jsonl")
    return sum(journal.read_text().count('"event": "epoch"') for journal in journals)


def test_every_image_is_tested_once_by_networks_that_had_not_seen_it(done: Clone) -> None:
    split = json.loads((done.root / "data" / "split.json").read_text())
    assert sorted(image for fold in split["folds"] for image in fold["test"]) == list(range(1797))
    assert split["test"] == []
    with np.load(done.root / "results" / "evaluate" / "predictions.npz") as archive:
        assert archive["ids"].tolist() == list(range(1797))
        for number, fold in enumerate(split["folds"]):
            assert np.flatnonzero(archive["folds"] == number).tolist() == fold["test"]
    for number, fold in enumerate(split["folds"], start=1):
        for folder in sorted((done.root / "models" / "folds" / str(number)).iterdir()):
            sidecar = json.loads((folder / "checkpoint.json").read_text())
            assert sidecar["seed"] - 10_000 * number in (1, 2)
            assert sidecar["trained_on"] == "train+val"
            hashed = next(path for path in (done.root / "state" / "folds").iterdir() if sidecar["split_hash"][:16] in path.name)  # fmt: skip
            assert json.loads(hashed.read_text())["test"] == fold["test"]


def test_each_fold_has_a_search_and_both_arms_and_what_is_registered_is_of_all_images(done: Clone) -> None:
    retrained, searches = content(done, "retrain/retrain.json"), content(done, "search/folds/searches.json")["folds"]
    assert [row["fold"] for row in searches] == [1, 2]
    assert [row["fingerprint"] for row in retrained["folds"]] == [row["fingerprint"] for row in searches]
    assert len({retrained["fingerprint"], *(row["fingerprint"] for row in searches)}) == 1 + FOLDS
    assert [run["folder"] for run in retrained["runs"]] == ["best-seed1"] == [retrained["to_register"]]
    for row in retrained["folds"]:
        assert sorted((run["arm"], run["seed"] % 10_000) for run in row["runs"]) == [("baseline", 1), ("baseline", 2), ("best", 1), ("best", 2)]  # fmt: skip
    sidecar = json.loads((done.root / "models" / "best-seed1" / "checkpoint.json").read_text())
    assert sidecar["split_hash"] == json.loads((done.root / "data" / "split.json").read_text())["split_hash"]


def test_verdict_report_and_registry_speak_of_the_procedure(done: Clone) -> None:
    evaluation = content(done, "evaluate/evaluation.json")
    assert (evaluation["comparison"]["folds"], evaluation["comparison"]["images"]) == (FOLDS, 1797)
    assert "2 searches with retraining, each on 1/2 of these 1,797 images" in evaluation["verdict"]
    weighted = sum(row["difference"] * row["images"] for row in evaluation["folds"]) / 1797
    assert evaluation["comparison"]["difference"] == pytest.approx(weighted)
    page = (done.root / "results" / "report" / "index.html").read_text()
    assert "Fold by fold" in page
    assert "It has seen every test image" in page
    results = said(done, "results")
    assert "fold 1 " in results
    assert "best of each fold     test accuracy" in results
    assert "was trained on all images, so none is left to test it" in " ".join(results.split())
    log = done.log.read_text()
    for number in range(1, FOLDS + 1):
        assert log.count(f"\nfold {number} of {FOLDS}: best t0") == 1
    assert log.count("\nhealth: Nothing was found") <= 1  # the block of lines is of all images alone
    lines = [line for line in log.splitlines() if "  train/accuracy" in line]
    assert len({line.index("train/accuracy") for line in lines}) == 1
    uri = f"sqlite:///{done.root / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    tags = client.get_model_version_by_alias("sar-digits", "challenger").tags
    procedure = json.loads(tags["sar.procedure"])
    assert procedure == {"folds": FOLDS, "images": 1797, "folds_hash": evaluation["folds_hash"], "holdout": 0}
    experiment = client.get_experiment_by_name("sar-search/digits").experiment_id
    runs = client.search_runs([experiment], "tags.`sar.kind` = 'search'")
    assert {run.data.tags["sar.part"] for run in runs} == {"all images", "fold 1 of 2", "fold 2 of 2"}
    assert {run.info.status for run in client.search_runs([experiment])} == {"FINISHED"}


def test_nothing_runs_again_and_promotion_says_by_what_it_judges(done: Clone) -> None:
    again = said(done, "repro")
    assert "Running stage" not in again
    assert "expected  nothing of the search, nor of retraining" in again
    promoted = said(done, "promote", "--reason", "a test")
    assert "1,797 images out of fold, by the networks of 2 folds that its procedure made" in promoted
    assert "champion is version 1 now, the first" in promoted


def test_folds_killed_three_times_give_the_table_of_folds_left_alone(done: Clone, tmp_path: Path) -> None:
    """Whatever is at work is killed: once while all images are searched, once while a fold is, once in retraining."""
    killed, chance = Clone(tmp_path / "killed", SETTINGS), random.Random(26)
    total = epochs_reported(done)
    first, second = chance.randrange(2, total // 3), chance.randrange(total // 2, total - 2)

    def run_to(reached: Any) -> None:
        process = killed.start(REPRO)
        assert wait_until(lambda: reached() or process.poll() is not None, 900), killed.log.read_text()[-3000:]
        assert process.poll() is None, killed.log.read_text()[-3000:]
        killed.end_all()
        process.wait()
        assert wait_until(lambda: not killed.processes(), 60)

    run_to(lambda: epochs_reported(killed) >= first)
    run_to(lambda: epochs_reported(killed) >= second)
    kept = killed.root / "state" / "retrain"
    run_to(lambda: sum(path.name != "ray" for path in kept.glob("*")) >= chance.randrange(1, 4))
    before = epochs_reported(killed)
    assert killed.run(REPRO) == 0, killed.log.read_text()[-4000:]
    assert epochs_reported(killed) == before  # searches had ended, and nothing of them was trained again
    for folder in ("search", "search/folds/1", "search/folds/2"):
        for name in ("trials.csv", "curves.csv", "best.yaml"):
            one, other = (clone.root / "results" / folder / name for clone in (done, killed))
            assert one.read_text() == other.read_text(), f"{folder}/{name}"
    one, other = (content(clone, "evaluate/evaluation.json") for clone in (done, killed))
    for key in ("folds", "comparison", "endpoints", "verdict", "networks", "arms"):
        assert one[key] == other[key], key
    arrays = [np.load(clone.root / "results" / "evaluate" / "predictions.npz") for clone in (done, killed)]
    for name in arrays[0].files:
        np.testing.assert_array_equal(arrays[0][name], arrays[1][name])
    with (killed.root / "results" / "search" / "folds" / "2" / "trials.csv").open() as file:
        assert {row["state"] for row in csv.DictReader(file)} <= {"complete", "pruned"}


def test_images_kept_apart_test_the_registered_network(tmp_path: Path) -> None:
    """With `evaluate.holdout` no image of it is in a fold or was trained on, and promotion judges by it."""
    clone = Clone(tmp_path / "holdout", SETTINGS | {"evaluate.holdout": 0.2})
    assert clone.run(REPRO) == 0, clone.log.read_text()[-4000:]
    split = json.loads((clone.root / "data" / "split.json").read_text())
    apart = set(split["test"])
    assert len(apart) == pytest.approx(0.2 * 1797, abs=10)
    in_folds = [image for fold in split["folds"] for image in fold["test"]]
    assert sorted([*in_folds, *apart]) == list(range(1797))
    assert not apart & {*split["train"], *split["val"]}
    with np.load(clone.root / "results" / "evaluate" / "predictions.npz") as archive:
        assert set(archive["ids"].tolist()) == set(in_folds)
        assert set(archive["holdout_ids"].tolist()) == apart
    assert content(clone, "evaluate/evaluation.json")["test_images"] == len(in_folds)
    assert "images kept apart from its folds (evaluate.holdout)" in said(clone, "promote")

"""Claims about evaluation fold by fold: every image has the answers of the networks that had not seen it."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.partial_results import filled

from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.retraining import FoldRetraining, RetrainedRun, Retraining
from pipeline.assembly import TrainingData
from pipeline.config import Params, fold_seed
from pipeline.data.prepared.prepared import Prepared
from pipeline.data.splits.folds import make_folds
from pipeline.data.splits.split import write_split
from pipeline.inputs.procedure import read_parts
from pipeline.score.comparison import compare_arms
from pipeline.score.locate import location_scores
from pipeline.score.metrics.metric import METRICS
from pipeline.stages.evaluate import fold_scores as module
from pipeline.stages.evaluate.fold_scores import describe_holdout, evaluate_folds
from pipeline.stages.evaluate.scores import RunEvaluation, flat_metrics, summarise
from pipeline.workspace import Workspace

COUNT, CLASSES, FOLDS, SEEDS = 60, 3, 3, 2
LABELS = np.arange(COUNT) % CLASSES


def answers(arm: str, seed: int, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """What a network says of images: of every image, arm and seed something else."""
    rows = [np.random.default_rng([int(image), seed, len(arm)]).dirichlet(np.ones(CLASSES)) for image in ids]
    rows = [row + 1.5 * np.eye(CLASSES)[LABELS[image]] * (arm == "best") for row, image in zip(rows, ids, strict=True)]
    return np.array([row / row.sum() for row in rows], dtype=np.float32)


def maps_of(arm: str, seed: int, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.stack([np.random.default_rng([int(image), seed, len(arm)]).random((2, 2, 2)) for image in ids]).astype(
        np.float32
    )


def summarised(*given: Any, **asked: Any) -> dict[str, Any]:
    """What `summarise` finds, as mappings."""
    found = summarise(*given, **asked)
    return {**found.compared.content(), "scores": found.tables, "attention_by_class": found.class_rows}


@pytest.fixture
def masks() -> NDArray[np.uint8]:
    return (np.random.default_rng(0).random((COUNT, 4, 4)) < 0.5).astype(np.uint8)


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masks: NDArray[np.uint8]) -> Any:
    """All folds evaluated, with networks whose answers are known; and the parts."""
    workspace = Workspace(tmp_path, tmp_path)
    split = make_folds(LABELS, seed=4, fold_seeds=[fold_seed(4, n + 1) for n in range(FOLDS)], holdout=0.0, val_fraction=0.2)  # fmt: skip
    write_split(split, workspace.split, data_hash="d", seed=4)
    params = Params().with_values({"base.seed": 4}, where="a test")
    parts = read_parts(workspace, params, data_hash="d")
    images = np.zeros((COUNT, 4, 4, 1), np.uint8)
    prepared = Prepared(images, LABELS, masks, {"classes": ["a", "b", "c"], "data_hash": "d"})
    by_path = {part.path: TrainingData(prepared, part.split, torch.device("cpu")) for part in parts}
    monkeypatch.setattr(module, "load_data", lambda _, path, __: by_path[path])

    def evaluate(folder: Path, run: RetrainedRun, data: TrainingData) -> RunEvaluation:
        assert folder == workspace.models / run.folder
        ids = data.split.test
        maps = maps_of(run.arm, run.seed, ids)
        located = location_scores(maps, masks[ids], head=run.seed % 2)
        return RunEvaluation(run.folder, run.arm, run.seed, answers(run.arm, run.seed, ids), maps, located)  # fmt: skip

    monkeypatch.setattr(module, "evaluate_run", evaluate)
    folds = []
    for part in parts[1:]:
        runs = [
            {"arm": arm, "seed": part.params.base.seed + seed, "folder": f"folds/{part.number}/{arm}-{seed}"}
            for seed in (2, 1)  # not in their order
            for arm in ("plain", "best")
        ]
        folds.append({"fold": part.number, "fingerprint": f"f{part.number}", "setting": f"w={part.number}", "runs": runs})  # fmt: skip
    said: list[tuple[int, int]] = []
    retrained = filled(Retraining, control="plain", folds=folds)
    found = evaluate_folds(workspace, parts, retrained, lambda *done: said.append(done), confidence=0.9, images=7)
    assert said == [(done + 1, 12) for done in range(12)]
    return found, parts


def expected(arm: str, number: int, parts: Any) -> NDArray[np.float32]:
    """Image by image: of the network of its fold."""
    rows = []
    for image in range(COUNT):
        (part,) = [part for part in parts[1:] if image in part.split.test]
        rows.append(answers(arm, part.params.base.seed + number, np.array([image]))[0])
    return np.array(rows)


def test_every_image_has_the_answers_of_its_own_folds_networks(evaluated: Any, masks: Any) -> None:
    found, parts = evaluated
    assert [(run.name, run.arm, run.seed) for run in found.runs] == [("best-seed5", "best", 5), ("best-seed6", "best", 6), ("plain-seed5", "plain", 5), ("plain-seed6", "plain", 6)]  # fmt: skip
    for run in found.runs:
        np.testing.assert_array_equal(run.probabilities, expected(run.arm, run.seed - 4, parts))
        assert run.location is not None
        assert run.location.images == COUNT - run.location.left_out
        for image in range(COUNT):
            (part,) = [part for part in parts[1:] if image in part.split.test]
            seed, ids = part.params.base.seed + run.seed - 4, np.array([image])
            alone = location_scores(maps_of(run.arm, seed, ids), masks[ids], head=seed % 2)
            assert run.location.per_image["auroc"][image] == pytest.approx(alone.per_image["auroc"][0], nan_ok=True)
        assert run.location.auroc == pytest.approx(np.nanmean(run.location.per_image["auroc"]))
    assert found.data.split.test.tolist() == list(range(COUNT))
    for part in parts[1:]:
        assert np.flatnonzero(found.folds == part.number - 1).tolist() == part.split.test.tolist()


def test_maps_are_those_of_the_reports_images_in_their_order(evaluated: Any) -> None:
    from pipeline.data.splits.split import examples_by_class

    found, parts = evaluated
    shown = examples_by_class(found.data.split.test, LABELS, 7)
    for run in found.runs:
        assert run.maps.shape == (7, 2, 2, 2)
        for row, image in enumerate(shown):
            (part,) = [part for part in parts[1:] if image in part.split.test]
            seed = part.params.base.seed + run.seed - 4
            np.testing.assert_array_equal(run.maps[row], maps_of(run.arm, seed, np.array([image]))[0])


def test_rows_have_each_folds_own_comparison_and_what_its_search_chose(evaluated: Any) -> None:
    found, parts = evaluated
    for part, row in zip(parts[1:], found.rows, strict=True):
        tables = [np.stack([answers(arm, part.params.base.seed + seed, part.split.test).argmax(1) == LABELS[part.split.test] for seed in (1, 2)]) for arm in ("best", "plain")]  # fmt: skip
        alone = compare_arms(*tables, confidence=0.9)
        assert (row.fold, row.images, row.setting) == (part.number, 20, f"w={part.number}")
        assert (row.difference, row.low, row.best) == (alone.difference, alone.low, alone.best_mean)


def test_row_of_a_fold_whose_two_seeds_disagree_has_no_difference_beyond_what_is_possible() -> None:
    right = np.tile([[0.9, 0.1]], (40, 1)).astype(np.float32)
    given = [("best", right), ("best", right[:, ::-1]), ("plain", right), ("plain", right)]
    runs: Any = [SimpleNamespace(arm=arm, probabilities=probabilities) for arm, probabilities in given]
    listed = filled(FoldRetraining, fingerprint="f")
    part: Any = SimpleNamespace(number=1)
    row = module._fold_row(part, listed, runs, np.zeros(40, dtype=np.int64), "plain", 0.95, METRICS["accuracy"])
    assert (row.difference, row.low, row.high) == (-0.5, -1.0, 0.0)


def test_summary_compares_fold_by_fold_and_its_verdict_is_of_the_procedure(evaluated: Any) -> None:
    found, _ = evaluated
    given: dict[str, Any] = {"control": "plain", "confidence": 0.95, "margin": 0.01, "seed": 0}
    summary = summarised(found.runs, found.data, what="SAR", against="the baseline", folds=found.folds, **given)
    best, plain = (np.stack([run.probabilities.argmax(1) == LABELS for run in found.runs if run.arm == arm]) for arm in ("best", "plain"))  # fmt: skip
    comparison = compare_arms(best, plain, folds=found.folds)
    assert summary["comparison"] == dataclasses.asdict(comparison)
    assert summary["comparison"]["folds"] == 3
    assert summary["test_images"] == COUNT
    assert summary["arms"]["best"]["seeds"] == [5, 6]
    assert (
        "SAR is compared with its control (the baseline): 3 searches with retraining, each on 2/3 of these 60 images, 2 "
        "seeds each, tested on the images left out. So these figures rate the procedure of searching and training, and no "
        "single configuration or network."
    ) in summary["verdict"]
    assert summary["variance_parts"]["folds"] == 3
    assert [endpoint["name"] for endpoint in summary["endpoints"]][1] == "attention_auroc"
    assert summary["attention_differences"]["auroc"]["low"] is not None
    assert flat_metrics(filled(Evaluation, **summary, control="plain")).test["difference"]["accuracy"] == comparison.difference  # fmt: skip
    without = summarised(found.runs, found.data, what="SAR", against="the baseline", **given)
    assert without["comparison"]["degrees_of_freedom"] != summary["comparison"]["degrees_of_freedom"]
    assert "procedure" not in without["verdict"]


def test_attention_is_no_endpoint_where_a_fold_has_no_masks_to_score_by(evaluated: Any) -> None:
    found, _ = evaluated
    runs = [dataclasses.replace(run, location=None) for run in found.runs]
    summary = summarised(runs, found.data, control="plain", confidence=0.95, margin=0.01, seed=0, what="SAR", against="b", folds=found.folds)  # fmt: skip
    assert [endpoint["name"] for endpoint in summary["endpoints"]][1] == "log_loss"
    assert summary["baselines"] is None


def test_figures_of_the_holdout_are_those_of_its_predictions() -> None:
    assert describe_holdout({}) is None
    shares = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)
    found = describe_holdout({"holdout": shares, "holdout_ids": np.arange(3), "holdout_labels": np.array([0, 1, 1])})
    assert found is not None
    assert (found.images, found.accuracy) == (3, pytest.approx(2 / 3))


@pytest.mark.parametrize("name", ["auroc", "macro_f1"])
def test_another_metric_is_compared_in_folds(evaluated: Any, name: str) -> None:
    """Of what ranks images the folds' values are averaged; of what is counted, all counts are summed."""
    found, _ = evaluated
    metric = METRICS[name]
    given: dict[str, Any] = {"control": "plain", "confidence": 0.95, "margin": 0.01, "seed": 0}
    summary = summarised(found.runs, found.data, what="SAR", against="it", folds=found.folds, metric=metric, **given)
    values = {}
    for arm in ("best", "plain"):
        runs = [run.probabilities for run in found.runs if run.arm == arm]
        of_folds = [[metric.value_of(run[found.folds == number], LABELS[found.folds == number]) for number in range(FOLDS)] for run in runs]  # fmt: skip
        averaged = np.mean(of_folds) if name == "auroc" else np.mean([metric.value_of(run, LABELS) for run in runs])
        values[arm] = float(averaged)
        assert summary["arms"][arm][metric.key] == pytest.approx(averaged, rel=1e-9)
    assert summary["comparison"]["difference"] == pytest.approx(values["best"] - values["plain"], rel=1e-9)
    assert summary["comparison"]["folds"] == FOLDS
    assert summary["comparison"]["low"] is not None
    assert "3 searches with retraining, each on 2/3" in summary["verdict"]

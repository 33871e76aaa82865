"""Evaluation: every retrained network on the test set, once, with the figures that the verdict is made of.

No choice is made here: the attention head that is fixed is picked on validation images.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.evaluations import has_shared_seeds
from pipeline.artifacts.stage_results import BEST
from pipeline.assembly import TrainingData, load_trained
from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.score.classify import classification_scores, log_losses
from pipeline.score.comparison import PAIRED, compare_scores
from pipeline.score.endpoints import ATTENTION, LOG_LOSS, decide_endpoints
from pipeline.score.ensembles import compare_ensembles
from pipeline.score.fold_variance import Folds
from pipeline.score.locate import LocationScores
from pipeline.score.metrics.metric import ACCURACY, Metric
from pipeline.score.metrics.metric import LOG_LOSS as LOSS_METRIC
from pipeline.score.metrics.wording import words_from
from pipeline.score.sample_size import variance_parts
from pipeline.score.similarity_maps import last_block_maps
from pipeline.score.verdict import write_verdict
from pipeline.stages.evaluate.attention_scores import (
    auroc_tables,
    baselines,
    class_rows,
    differences,
    locate,
    mean_scores,
    usable_masks,
)
from pipeline.stages.evaluate.metric_comparison import compare_metric
from pipeline.train.loop import predict

SECOND = {ATTENTION: ("attention_difference", "auroc"), LOG_LOSS: ("log_loss_difference", "nll")}
"""How the metrics call the endpoint beside accuracy, and its score."""

CENTRED = "centre"
"""Of the baselines, the one that the verdict names."""


@dataclass(frozen=True)
class RunEvaluation:
    """One retrained network on the test set.

    probabilities: (N, C). maps: (N, A, H, W) of the last block, of folds those of the report's images alone. location:
    None for data without masks.
    """

    name: str
    arm: str
    seed: int
    probabilities: NDArray[np.float32]
    maps: NDArray[np.float32]
    location: LocationScores | None


def evaluate_run(folder: Path, run: Mapping[str, Any], data: TrainingData) -> RunEvaluation:
    """Evaluate one of `retrain.json`'s runs, standardising images as its checkpoint says."""
    model, sidecar = load_trained(folder, data.device)
    scale = Standardisation(tuple(sidecar["mean"]), tuple(sidecar["std"]))
    test = ImageBatches(data.prepared, data.split.test, scale, data.device)
    maps = last_block_maps(model, test)
    location = None
    if masks := usable_masks(data):
        val = ImageBatches(data.prepared, data.split.val, scale, data.device)
        location = locate(last_block_maps(model, val), maps, masks)
    return RunEvaluation(run["folder"], run["arm"], run["seed"], predict(model, test).numpy(), maps, location)


def predictions_of(runs: Sequence[RunEvaluation], labels: NDArray[np.int64]) -> dict[str, Any]:
    """What predictions.npz holds, but for the ids: the labels, and each network's probabilities by its name."""
    return {"labels": labels, **{run.name: run.probabilities for run in runs}}


def summarise(
    runs: Sequence[RunEvaluation],
    data: TrainingData,
    *,
    control: str,
    confidence: float,
    margin: float,
    seed: int,
    what: str,
    against: str,
    metric: Metric = ACCURACY,
    folds: Folds | None = None,
) -> dict[str, Any]:
    """The figures of both arms, the endpoints and their verdict, and attention against masks beside trivial baselines;
    and as `scores` the pseudo-values by arm that are kept of another metric than accuracy, where it has them.

    metric: that the arms are compared by, by this margin. what, against: the method and the control, in words. folds:
    the number of each test image's fold, where a run is one network of each fold
    (`pipeline.stages.evaluate.fold_scores`); None without folds.

    Raises:
        UserError: the metric has no value on the test images.
    """
    runs = sorted(runs, key=lambda run: run.seed)
    labels = np.asarray(data.prepared.labels[data.split.test])
    metric = replace(metric, margin=margin)
    shared, words = has_shared_seeds((run.name for run in runs), control), metric.words
    best, other = (np.stack([run.probabilities for run in runs if run.arm == arm]) for arm in (BEST, control))
    found = compare_metric(metric, best, other, labels, confidence=confidence, shared_seeds=shared, folds=folds)
    comparison, tables = found.comparison, found.tables
    parts = None
    if tables is not None:
        paired = comparison.layout == PAIRED
        parts = variance_parts(tables["best"], tables["control"], shared_seeds=paired, folds=folds)
    # Of folds, each must have masks to score by.
    masks = usable_masks(data) if all(run.location is not None for run in runs) else None
    trivial = baselines(runs[0].maps, masks, seed) if masks else {}
    shown = {arm: _location_scores([run for run in runs if run.arm == arm]) for arm in (BEST, control)}
    attention = log_loss = None
    if areas := auroc_tables(shown[BEST], shown[control], folds):
        attention = compare_scores(
            areas.best, areas.control, confidence=confidence, shared_seeds=shared, folds=areas.folds
        )
    elif metric.name != LOSS_METRIC.name:
        losses = (
            np.stack([log_losses(run.probabilities, labels) for run in runs if run.arm == arm])
            for arm in (BEST, control)
        )
        log_loss = compare_scores(*losses, confidence=confidence, shared_seeds=shared, folds=folds)
    endpoints = decide_endpoints(comparison, margin=margin, attention=attention, log_loss=log_loss, words=words)
    sentences = write_verdict(
        endpoints,
        comparison,
        margin=margin,
        attention=attention,
        centred=trivial[CENTRED].auroc if trivial else None,
        log_loss=log_loss,
        what=what,
        against=against,
        words=words,
    )
    compared = differences(shown[BEST], shown[control], confidence=confidence, shared_seeds=shared, folds=folds)
    shown |= {f"blind: {name}": [scores] for name, scores in trivial.items()}
    return {
        "test_images": len(labels),
        "arms": {
            arm: _arm([run for run in runs if run.arm == arm], labels) | _metric_figures(metric, found.values[name])
            for arm, name in ((BEST, "best"), (control, "control"))
        },
        "metric": words.content(),
        "comparison": asdict(comparison),
        "attention_comparison": None if attention is None else asdict(attention),
        "endpoints": [asdict(endpoint) for endpoint in endpoints],
        "verdict": " ".join(sentences),
        "variance_parts": None if parts is None else asdict(parts),
        "ensembles": compare_ensembles(best, other, labels, confidence=confidence, metric=metric),
        "attention_differences": compared,
        "baselines": {name: mean_scores([scores]) for name, scores in trivial.items()} or None,
        "attention_by_class": class_rows(shown, labels, data.prepared.classes),
        "scores": None if metric.name == ACCURACY.name else tables,
    }


def flat_metrics(summary: Mapping[str, Any], control: str) -> dict[str, Any]:
    """The few numbers that `dvc metrics` and MLflow show; fractions of 1, log loss in nats, and 1 for what is shown."""
    comparison, metric = summary["comparison"], words_from(summary.get("metric"))
    figures: dict[str, Any] = {}
    for arm, name in ((BEST, "best"), (control, "control")):
        scores = summary["arms"][arm]
        figures[name] = {"accuracy": scores["accuracy"], "ece": scores["ece"], "nll": scores["nll"]}
        figures[name] |= {metric.key: scores[metric.key]}
        if scores["location"]:
            figures[name] |= {key: scores["location"][key] for key in ("auroc", "pointing_game", "energy")}
    interval = {"difference": metric.key, "low": "low", "high": "high"}
    figures["difference"] = {name: comparison[key] for key, name in interval.items() if comparison[key] is not None}
    for endpoint in summary["endpoints"]:
        if endpoint["name"] in SECOND:
            section, score = SECOND[endpoint["name"]]
            named = {score: endpoint["difference"], "low": endpoint["low"], "high": endpoint["high"]}
            figures[section] = {name: value for name, value in named.items() if value is not None}
    if probe := summary.get("probe"):
        figures["probe"] = {name: probe[name] for name in ("accuracy", "ece", "nll", metric.key)}
    figures["shown"] = {endpoint["name"]: int(endpoint["shown"]) for endpoint in summary["endpoints"]}
    return {"test": figures}


def write_confusion(path: Path, runs: Sequence[RunEvaluation], data: TrainingData) -> None:
    """A row for every test image and seed of the best configuration; `actual` and `predicted` are class names."""
    names = np.array(data.prepared.classes)
    actual = names[np.asarray(data.prepared.labels[data.split.test])]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["actual", "predicted"])
        for run in runs:
            if run.arm == BEST:
                writer.writerows(zip(actual, names[run.probabilities.argmax(1)], strict=True))


def _arm(runs: Sequence[RunEvaluation], labels: NDArray[np.int64]) -> dict[str, Any]:
    scores = [classification_scores(run.probabilities, labels) for run in runs]
    accuracies = np.array([score.accuracy for score in scores])
    by_class = np.stack([score.per_class_accuracy for score in scores])
    located = _location_scores(runs)
    return {
        "seeds": [run.seed for run in runs],
        "accuracies": accuracies.tolist(),
        "accuracy": float(accuracies.mean()),
        "accuracy_sd": float(accuracies.std(ddof=1)) if len(runs) > 1 else None,
        "nll": float(np.mean([score.nll for score in scores])),
        "ece": float(np.mean([score.ece for score in scores])),
        "per_class_accuracy": [None if np.isnan(value) else float(value) for value in by_class.mean(axis=0)],
        "confusion": np.sum([score.confusion for score in scores], axis=0).tolist(),
        "location": mean_scores(located),
        "left_out": located[0].left_out if located else 0,
    }


def _metric_figures(metric: Metric, values: NDArray[np.float64]) -> dict[str, Any]:
    """An arm's values of the metric that the arms are compared by; nothing of accuracy, which every arm has."""
    if metric.name == ACCURACY.name:
        return {}
    return {
        f"{metric.key}_by_seed": values.tolist(),
        metric.key: float(values.mean()),
        f"{metric.key}_sd": float(values.std(ddof=1)) if len(values) > 1 else None,
    }


def _location_scores(runs: Sequence[RunEvaluation]) -> list[LocationScores]:
    return [run.location for run in runs if run.location is not None]

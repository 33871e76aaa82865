"""Evaluation: every retrained network on the test set, once, with the figures that the verdict is made of.

No choice is made here: the attention head that is fixed is picked on validation images.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.evaluation import ArmsCompared, ArmScores, Evaluation, TestMetrics
from pipeline.artifacts.evaluations import has_shared_seeds
from pipeline.artifacts.retraining import RetrainedRun
from pipeline.artifacts.stage_results import BEST
from pipeline.assembly import TrainingData, load_trained
from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.score.classify import classification_scores, log_losses
from pipeline.score.comparison import PAIRED, Comparison, compare_scores
from pipeline.score.endpoints import ATTENTION, LOG_LOSS, Endpoint, decide_endpoints
from pipeline.score.fold_variance import Folds
from pipeline.score.locate import LocationScores
from pipeline.score.metrics.metric import ACCURACY, Metric
from pipeline.score.metrics.metric import LOG_LOSS as LOSS_METRIC
from pipeline.score.sample_size import variance_parts
from pipeline.score.similarity_maps import last_block_maps
from pipeline.score.verdict import write_verdict
from pipeline.stages.evaluate.attention_scores import (
    ClassRow,
    auroc_tables,
    baselines,
    class_rows,
    differences,
    locate,
    mean_location,
    usable_masks,
)
from pipeline.stages.evaluate.ensembles import compare_ensembles
from pipeline.stages.evaluate.metric_comparison import compare_metric
from pipeline.state.looks import warn_of_look
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


def evaluate_run(folder: Path, run: RetrainedRun, data: TrainingData) -> RunEvaluation:
    """Evaluate one of `retrain.json`'s runs, standardising images as its checkpoint says."""
    model, sidecar = load_trained(folder, data.device)
    scale = Standardisation(tuple(sidecar["mean"]), tuple(sidecar["std"]))
    test = ImageBatches(data.prepared, data.split.test, scale, data.device)
    maps = last_block_maps(model, test)
    location = None
    if masks := usable_masks(data):
        val = ImageBatches(data.prepared, data.split.val, scale, data.device)
        location = locate(last_block_maps(model, val), maps, masks)
    return RunEvaluation(run.folder, run.arm, run.seed, predict(model, test).numpy(), maps, location)


@dataclass(frozen=True)
class Summary:
    """Both arms compared. tables: the pseudo-values by arm that are kept of another metric than accuracy, None where it
    has none. class_rows: attention by class.
    """

    compared: ArmsCompared
    tables: Mapping[str, NDArray[np.float64]] | None
    class_rows: list[ClassRow]


def predictions_of(runs: Sequence[RunEvaluation], labels: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
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
    look: int = 1,
) -> Summary:
    """The figures of both arms, the endpoints and their verdict, and attention against masks beside trivial baselines.

    metric: that the arms are compared by, by this margin. what, against: the method and the control, in words. folds:
    the number of each test image's fold, where a run is one network of each fold
    (`pipeline.stages.evaluate.fold_scores`); None without folds. look: of which the verdict warns.

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
    return Summary(
        ArmsCompared(
            test_images=len(labels),
            arms={
                arm: _arm([run for run in runs if run.arm == arm], labels, metric, found.values[name])
                for arm, name in ((BEST, "best"), (control, "control"))
            },
            metric=words,
            comparison=comparison,
            attention_comparison=attention,
            endpoints=endpoints,
            verdict=" ".join(filter(None, [warn_of_look(look), *sentences])),
            variance_parts=parts,
            ensembles=compare_ensembles(best, other, labels, confidence=confidence, metric=metric),
            attention_differences=compared,
            baselines={name: mean_location([scores]) for name, scores in trivial.items()} or None,
        ),
        None if metric.name == ACCURACY.name else tables,
        class_rows(shown, labels, data.prepared.classes),
    )


def flat_metrics(evaluation: Evaluation) -> TestMetrics:
    """The few numbers that `dvc metrics` and MLflow show; fractions of 1, log loss in nats, and 1 for what is shown."""
    comparison, metric = evaluation.comparison, evaluation.words
    figures: dict[str, dict[str, float]] = {}
    for arm, name in ((BEST, "best"), (evaluation.control, "control")):
        scores = evaluation.arms[arm]
        figures[name] = {"accuracy": scores.accuracy, "ece": scores.ece, "nll": scores.nll}
        figures[name] |= {metric.key: scores.value(metric)}
        if (located := scores.location) is not None:
            figures[name] |= {"auroc": located.auroc, "pointing_game": located.pointing_game, "energy": located.energy}
    figures["difference"] = _interval(metric.key, comparison)
    for endpoint in evaluation.endpoints:
        if endpoint.name in SECOND:
            section, score = SECOND[endpoint.name]
            figures[section] = _interval(score, endpoint)
    if probe := evaluation.probe:
        figures["probe"] = {"accuracy": probe.accuracy, "ece": probe.ece, "nll": probe.nll, metric.key: probe.value}
    figures["shown"] = {endpoint.name: int(endpoint.shown) for endpoint in evaluation.endpoints}
    return TestMetrics(test=figures)


def _interval(name: str, found: Comparison | Endpoint) -> dict[str, float]:
    """A difference by this name with the ends of its interval, where it has one."""
    named = {name: found.difference, "low": found.low, "high": found.high}
    return {key: value for key, value in named.items() if value is not None}


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


def _arm(
    runs: Sequence[RunEvaluation], labels: NDArray[np.int64], metric: Metric, values: NDArray[np.float64]
) -> ArmScores:
    """An arm's scores. values: of each seed by the metric, which stand beside accuracy where they are of another."""
    scores = [classification_scores(run.probabilities, labels) for run in runs]
    accuracies = np.array([score.accuracy for score in scores])
    by_class = np.stack([score.per_class_accuracy for score in scores])
    located = _location_scores(runs)
    arm = ArmScores(
        seeds=[run.seed for run in runs],
        accuracies=accuracies.tolist(),
        accuracy=float(accuracies.mean()),
        accuracy_sd=_deviation(accuracies),
        nll=float(np.mean([score.nll for score in scores])),
        ece=float(np.mean([score.ece for score in scores])),
        per_class_accuracy=[None if np.isnan(value) else float(value) for value in by_class.mean(axis=0)],
        confusion=np.sum([score.confusion for score in scores], axis=0).tolist(),
        location=mean_location(located) if located else None,
        left_out=located[0].left_out if located else 0,
    )
    if metric.name == ACCURACY.name:
        return arm
    by_seed, key = {f"{metric.key}_by_seed": values.tolist()}, metric.key
    return arm.with_values({**by_seed, key: float(values.mean()), f"{key}_sd": _deviation(values)})


def _deviation(values: NDArray[np.float64]) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _location_scores(runs: Sequence[RunEvaluation]) -> list[LocationScores]:
    return [run.location for run in runs if run.location is not None]

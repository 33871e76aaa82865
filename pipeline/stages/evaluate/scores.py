"""Evaluation of every retrained network on the test set, and the figures from which the verdict is made.

Nothing is selected here: the fixed attention head is picked on validation images.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

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
    baselines,
    class_rows,
    differences,
    locate,
    mean_location,
    scored_tables,
    usable_masks,
)
from pipeline.stages.evaluate.ensembles import compare_ensembles
from pipeline.stages.evaluate.metric_comparison import compare_metric
from pipeline.state.looks import warn_of_look
from pipeline.train.loop import predict

SECOND = {ATTENTION: ("attention_difference", "auroc"), LOG_LOSS: ("log_loss_difference", "nll")}
"""Name of an endpoint's section in the metrics, and of its score, for endpoints beside the metric's own."""

CENTRED = "centre"
"""The baseline that the verdict names."""


@dataclass(frozen=True)
class RunEvaluation:
    """One retrained network on the test set.

    Attributes:
        name: Name of the run, ARM-seedN.
        arm: "best" or the control's name.
        seed: Seed of the run.
        probabilities: Class probabilities, (N, C).
        maps: Similarity maps of the last block, (N, A, H, W); with folds only of the images that the report shows.
        location: Attention against the masks; None if the data have no masks that can be used.
    """

    name: str
    arm: str
    seed: int
    probabilities: NDArray[np.float32]
    maps: NDArray[np.float32]
    location: LocationScores | None


def evaluate_run(folder: Path, run: RetrainedRun, data: TrainingData) -> RunEvaluation:
    """Evaluates one network on the test set, with the standardisation that its checkpoint records.

    Args:
        folder: Folder of the checkpoint.
        run: The run as retrain.json lists it.
        data: The prepared set with its split, on the device.
    """
    model, test, scale = load_tested(folder, data)
    maps = last_block_maps(model, test)
    location = None
    if masks := usable_masks(data):
        val = ImageBatches(data.prepared, data.split.val, scale, data.device)
        location = locate(last_block_maps(model, val), maps, masks)
    return RunEvaluation(run.folder, run.arm, run.seed, predict(model, test).numpy(), maps, location)


@dataclass(frozen=True)
class Summary:
    """Comparison of both arms.

    Attributes:
        compared: Scores, comparison, endpoints and verdict.
        tables: Pseudo-values (S, N) by arm; None if the metric is accuracy or has none.
        class_rows: Attention against the masks by class.
    """

    compared: ArmsCompared
    tables: Mapping[str, NDArray[np.float64]] | None
    class_rows: list[ClassRow]


def by_arm(runs: Sequence[RunEvaluation], control: str) -> dict[str, list[RunEvaluation]]:
    """Returns the runs of the best configuration and those of the control, by arm."""
    return {arm: [run for run in runs if run.arm == arm] for arm in (BEST, control)}


def stack_probabilities(runs: Sequence[RunEvaluation]) -> NDArray[np.float32]:
    """Returns the class probabilities of several runs, (S, N, C)."""
    return np.stack([run.probabilities for run in runs])


def load_tested(folder: Path, data: TrainingData) -> tuple[nn.Module, ImageBatches, Standardisation]:
    """Returns a network, and the test images with the standardisation that its checkpoint records.

    Args:
        folder: Folder of the checkpoint.
        data: The prepared set with its split, on the device.

    Returns:
        The network, the test images, and the standardisation.
    """
    model, sidecar = load_trained(folder, data.device)
    scale = Standardisation(tuple(sidecar["mean"]), tuple(sidecar["std"]))
    return model, ImageBatches(data.prepared, data.split.test, scale, data.device), scale


def predictions_of(runs: Sequence[RunEvaluation], labels: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Returns the labels, and each network's probabilities by its name, as predictions.npz holds them."""
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
    first_look: int | None = None,
) -> Summary:
    """Returns the scores of both arms, the endpoints with their verdict, and attention against masks beside baselines.

    Args:
        runs: Evaluations of all networks; with folds, each is one network of every fold.
        data: The prepared set with its split, on the device.
        control: Name of the control.
        confidence: Confidence of the intervals.
        margin: Margin of the metric.
        seed: Seed of the random baseline.
        what: The method, in words.
        against: The control, in words.
        metric: Metric by which the arms are compared.
        folds: Number of each test image's fold, (N,) (`pipeline.stages.evaluate.fold_scores`); None without folds.
        look: Number of this look at the test images; the verdict begins with a warning from the second on.
        first_look: Number of the look at which these networks were first tested; None if that is `look`.

    Raises:
        UserError: The metric has no value on the test images.
    """
    runs = sorted(runs, key=lambda run: run.seed)
    labels = np.asarray(data.prepared.labels[data.split.test])
    metric = replace(metric, margin=margin)
    shared, words = has_shared_seeds((run.name for run in runs), control), metric.words
    arms = by_arm(runs, control)
    best, other = map(stack_probabilities, arms.values())
    found = compare_metric(metric, best, other, labels, confidence=confidence, shared_seeds=shared, folds=folds)
    comparison, tables = found.comparison, found.tables
    parts = None
    if tables is not None:
        paired = comparison.layout == PAIRED
        parts = variance_parts(tables["best"], tables["control"], shared_seeds=paired, folds=folds)
    # With folds, attention is scored only if every fold has masks that can be used.
    masks = usable_masks(data) if all(run.location is not None for run in runs) else None
    trivial = baselines(runs[0].maps, masks, seed) if masks else {}
    shown = {arm: _location_scores(each) for arm, each in arms.items()}
    attention = log_loss = None
    if areas := scored_tables(shown[BEST], shown[control], "auroc", folds):
        attention = compare_scores(
            areas.best, areas.control, confidence=confidence, shared_seeds=shared, folds=areas.folds
        )
    elif metric.name != LOSS_METRIC.name:
        losses = (np.stack([log_losses(run.probabilities, labels) for run in each]) for each in arms.values())
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
                arm: _arm(each, labels, metric, values)
                for (arm, each), values in zip(arms.items(), found.values.values(), strict=True)
            },
            metric=words,
            comparison=comparison,
            attention_comparison=attention,
            endpoints=endpoints,
            verdict=" ".join(filter(None, [warn_of_look(look, first_look), *sentences])),
            variance_parts=parts,
            ensembles=compare_ensembles(best, other, labels, confidence=confidence, metric=metric),
            attention_differences=compared,
            baselines={name: mean_location([scores]) for name, scores in trivial.items()} or None,
        ),
        None if metric.name == ACCURACY.name else tables,
        class_rows(shown, labels, data.prepared.classes),
    )


def flat_metrics(evaluation: Evaluation) -> TestMetrics:
    """Returns the few numbers that `dvc metrics` and MLflow show.

    Scores are fractions of 1, the log loss is in nats, and `shown` is 1 for an endpoint that was shown, else 0.
    """
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
    """Returns a difference under its name, with the ends of its interval if there is one."""
    named = {name: found.difference, "low": found.low, "high": found.high}
    return {key: value for key, value in named.items() if value is not None}


def write_confusion(path: Path, runs: Sequence[RunEvaluation], data: TrainingData) -> None:
    """Writes the actual and the predicted class name, a row for every test image and seed of the best configuration.

    Args:
        path: CSV file.
        runs: Evaluations of all networks.
        data: The prepared set with its split, on the device.
    """
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
    """Returns the scores of one arm.

    Args:
        runs: Evaluations of the arm's networks.
        labels: Class of each test image, (N,).
        metric: Metric by which the arms are compared; if it is not accuracy, its values are added.
        values: The metric's value of each seed, (S,).
    """
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

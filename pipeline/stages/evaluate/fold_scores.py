"""Evaluation in folds: every network is scored on the test images of its fold, and the folds are put together.

Each seed of an arm has one network in every fold. Their predictions for their own folds' images are joined to one
run, named as that seed is on all images. The rest of the evaluation treats it like any other run. Only the intervals
take the folds into account (`pipeline.score.fold_variance`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.evaluation import FoldScores, HoldoutScores
from pipeline.artifacts.retraining import FoldRetraining, Retraining
from pipeline.artifacts.stage_results import BEST
from pipeline.assembly import TrainingData, load_data
from pipeline.data.splits.folds import fold_ids, fold_numbers
from pipeline.data.splits.split import Split, examples_by_class
from pipeline.inputs.procedure import Part
from pipeline.score.classify import classification_scores
from pipeline.score.comparison import clip_to_possible
from pipeline.score.locate import join_scores
from pipeline.score.metrics.metric import ACCURACY, Metric
from pipeline.stages.evaluate.metric_comparison import compare_metric
from pipeline.stages.evaluate.scores import RunEvaluation, by_arm, evaluate_run, load_tested, stack_probabilities
from pipeline.train.loop import predict
from pipeline.workspace import Workspace

HOLDOUT = "holdout"
"""Key in predictions.npz of the registered network's probabilities for the images kept apart, and the prefix of the
keys of their ids and labels.
"""


@dataclass(frozen=True)
class FoldedEvaluation:
    """The evaluation of all folds.

    Attributes:
        runs: One run for every arm and seed, over all folds.
        data: The prepared set, with the images of all folds as its test role.
        folds: Number of each image's fold, (N,).
        rows: One row a fold, for evaluation.json.
    """

    runs: list[RunEvaluation]
    data: TrainingData
    folds: NDArray[np.int64]
    rows: list[FoldScores]


def evaluate_folds(
    workspace: Workspace,
    parts: Sequence[Part],
    retrained: Retraining,
    progress: Callable[[int, int], None],
    *,
    confidence: float,
    images: int,
    metric: Metric = ACCURACY,
) -> FoldedEvaluation:
    """Evaluates the networks of every fold on the fold's test images.

    Args:
        workspace: The checkout.
        parts: Parts of the procedure: all images, then the folds.
        retrained: Result of the retraining.
        progress: Called with the number of networks evaluated so far, and the total.
        confidence: Confidence of each fold's own interval.
        images: Number of images whose similarity maps are stored.
        metric: Metric of each fold's own comparison.
    """
    whole, control, seed = parts[0], retrained.control, parts[0].params.base.seed
    opened = load_data(workspace.prepared, whole.path, whole.params.base.device)
    ids, numbers = fold_ids(whole.split), fold_numbers(whole.split)
    shown = np.array(examples_by_class(ids, opened.prepared.labels, images), dtype=np.int64)
    listed = {row.fold: row for row in retrained.folds}
    total = sum(len(row.runs) for row in listed.values())
    by_fold, rows, done = [], [], 0
    for part in parts[1:]:
        data = load_data(workspace.prepared, part.path, part.params.base.device)
        runs = []
        for run in listed[part.number].runs:
            found = evaluate_run(workspace.models / run.folder, run, data)
            runs.append(replace(found, maps=found.maps[np.isin(part.split.test, shown)]))
            done += 1
            progress(done, total)
        by_fold.append(sorted(runs, key=lambda run: run.seed))
        labels = np.asarray(data.prepared.labels[part.split.test])
        rows.append(_fold_row(part, listed[part.number], by_fold[-1], labels, control, confidence, metric))
    of_arms = [by_arm(runs, control) for runs in by_fold]
    joined = [_join(parts[1:], [runs[arm] for runs in of_arms], shown, seed) for arm in (BEST, control)]
    split = Split(whole.split.train, whole.split.val, ids)
    data = TrainingData(opened.prepared, split, opened.device)
    return FoldedEvaluation([run for runs in joined for run in runs], data, numbers, rows)


def evaluate_holdout(workspace: Workspace, whole: Part, folder: str) -> dict[str, NDArray[Any]]:
    """Returns the predictions of the network to be registered for the images kept apart, as arrays of predictions.npz.

    Args:
        workspace: The checkout.
        whole: The part on all images, whose test role is the images kept apart.
        folder: The network's folder, below models/.

    Returns:
        Probabilities, ids and labels, under keys that begin with `HOLDOUT`; empty if no images are kept apart.
    """
    if not len(whole.split.test):
        return {}
    data = load_data(workspace.prepared, whole.path, whole.params.base.device)
    model, test, _ = load_tested(workspace.models / folder, data)
    probabilities = predict(model, test).numpy()
    labels = np.asarray(data.prepared.labels[whole.split.test])
    return {HOLDOUT: probabilities, f"{HOLDOUT}_ids": whole.split.test, f"{HOLDOUT}_labels": labels}


def describe_holdout(found: Mapping[str, NDArray[Any]]) -> HoldoutScores | None:
    """Returns the registered network's scores on the images kept apart; None if there are none."""
    if not found:
        return None
    scores = classification_scores(found[HOLDOUT], found[f"{HOLDOUT}_labels"])
    images = len(found[f"{HOLDOUT}_ids"])
    return HoldoutScores(images=images, accuracy=scores.accuracy, nll=scores.nll, ece=scores.ece)


def _fold_row(
    part: Part,
    listed: FoldRetraining,
    runs: Sequence[RunEvaluation],
    labels: NDArray[np.int64],
    control: str,
    confidence: float,
    metric: Metric,
) -> FoldScores:
    """Returns a fold's own comparison of the arms, with the configuration that its search has chosen.

    Args:
        part: The fold.
        listed: The fold's part of the retraining.
        runs: The fold's runs, of both arms.
        labels: Class of each of the fold's test images, (N,).
        control: Name of the control.
        confidence: Confidence of the interval.
        metric: Metric by which the arms are compared.
    """
    best, other = map(stack_probabilities, by_arm(runs, control).values())
    found = compare_metric(metric, best, other, labels, confidence=confidence).comparison
    if metric.words.is_share:
        found = clip_to_possible(found)
    return FoldScores(
        fold=part.number,
        images=len(labels),
        fingerprint=listed.fingerprint,
        setting=listed.setting,
        difference=found.difference,
        low=found.low,
        high=found.high,
        best=found.best_mean,
        control=found.control_mean,
    )


def _join(
    folds: Sequence[Part], by_fold: Sequence[Sequence[RunEvaluation]], shown: NDArray[np.int64], seed: int
) -> list[RunEvaluation]:
    """Joins an arm's runs over all folds to one run for each seed, with images in the order of their ids.

    Args:
        folds: The folds.
        by_fold: The arm's runs in each fold, in the order of their seeds.
        shown: Ids of the images whose similarity maps are stored.
        seed: `base.seed`, from which the joined runs are numbered.
    """
    order = np.argsort(np.concatenate([part.split.test for part in folds]))
    drawn = np.concatenate([part.split.test[np.isin(part.split.test, shown)] for part in folds])
    places = np.argsort(drawn)[np.searchsorted(np.sort(drawn), shown)]
    joined = []
    for number, runs in enumerate(zip(*by_fold, strict=True), start=seed + 1):
        located = [run.location for run in runs if run.location is not None]
        joined.append(
            RunEvaluation(
                name=f"{runs[0].arm}-seed{number}",
                arm=runs[0].arm,
                seed=number,
                probabilities=np.concatenate([run.probabilities for run in runs])[order],
                maps=np.concatenate([run.maps for run in runs])[places],
                location=join_scores(located, order) if len(located) == len(runs) else None,
            )
        )
    return joined

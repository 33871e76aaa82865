"""Checks before training that a set of images is sufficient for a metric."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError, list_first, quote_name
from pipeline.score.metrics.metric import FEWEST_OF_A_CLASS, USER_KEY, Metric

NAMED = 5
"""Most classes that a message names."""


def check_labels(
    metric: Metric,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    *,
    interval: bool,
    role: str = "test",
    parameter: str = "evaluate.metric",
    of_fold: bool = False,
) -> None:
    """Checks that images are sufficient for a metric, and tries a user's function on random probabilities.

    Args:
        metric: The metric of the parameters.
        labels: Labels of the images of a role, (N,).
        classes: Names of the classes, by label.
        interval: Whether an interval is needed.
        role: Role of the images, test or validation.
        parameter: Parameter that names the metric.
        of_fold: Whether the images are those of one fold of several.

    Raises:
        UserError: If the metric weighs classes alike and a class has no images, or too few for an interval;
            or if a user's function fails or returns no number.
    """
    said = f"params.yaml: {parameter}: {metric.name}"
    where = " in a fold" if of_fold else ""
    more = "Lower evaluate.folds" if of_fold else f"Have more {role} images ({_share(role)})"
    count = np.bincount(labels, minlength=len(classes))
    if metric.by_class and (none := [quote_name(name) for name, held in zip(classes, count, strict=True) if not held]):
        raise UserError(
            f"{said} weighs every class alike, and no {role} image{where} is of {list_first(none, NAMED)}. {more}, "
            "leave the class out (prepare.class_list), or take another metric."
        )
    few = [
        f"{held} of {quote_name(name)}" for name, held in zip(classes, count, strict=True) if held < FEWEST_OF_A_CLASS
    ]
    if interval and metric.by_class and few:
        raise UserError(
            f"{said} gets no interval from fewer than {FEWEST_OF_A_CLASS} {role} images of a class{where}, and there "
            f"are {list_first(few, NAMED)}. {more}, take another metric, or one seed (retrain.seeds: 1), with which no "
            "interval is asked for."
        )
    if metric.key == USER_KEY:
        try_metric(metric, labels, len(classes), interval=interval)


def labels_at_once(
    metric: Metric, labels: NDArray[np.int64], tested: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.int64]]:
    """Returns the labels of each set of images on which a metric is computed at once (`Metric.within_folds`).

    Args:
        metric: The metric.
        labels: Labels of all images.
        tested: Ids of the test images; in folds, those of each fold.
    """
    parts = tested if metric.within_folds else [np.concatenate(tested)]
    return [np.asarray(labels[ids]) for ids in parts]


def try_metric(metric: Metric, labels: NDArray[np.int64], classes: int, *, interval: bool) -> None:
    """Computes a user's metric, and for an interval its pseudo-values, from random probabilities.

    Args:
        metric: The metric.
        labels: Labels of the images, (N,).
        classes: Number of classes.
        interval: Whether an interval is needed.

    Raises:
        UserError: If the function fails, or returns no number.
    """
    shares = np.random.default_rng(0).dirichlet(np.ones(classes), size=len(labels))
    metric.value_of(shares, labels)
    if interval and metric.pseudo_values is not None and len(labels) > 1:
        metric.pseudo_values_of(shares, labels)


def _share(role: str) -> str:
    return "split.test_fraction" if role == "test" else "split.val_fraction"

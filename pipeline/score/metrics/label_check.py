"""Whether a metric can be had of the images that it will be asked for, looked at before anything trains."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError, list_first, quote_name
from pipeline.score.metrics.metric import FEWEST_OF_A_CLASS, USER_KEY, Metric

NAMED = 5
"""Classes that a message names."""


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
    """Refuse images that do not have what a metric needs; try a user's function on made-up probabilities of them.

    Args:
        metric: As the parameters ask for it.
        labels: (N,), of the images of a role.
        classes: Names, by label.
        interval: Whether an interval is asked for.
        role: Of the images: test or validation.
        parameter: That asks for the metric.
        of_fold: Whether the images are those of one fold of several.

    Raises:
        UserError: a class without images, or with too few for an interval, where the metric weighs classes alike; or a
            user's function that fails or gives no number.
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
    """The labels of the images that a metric is had of at once (`Metric.within_folds`).

    labels: of all images. tested: ids of the test images, with folds of each.
    """
    parts = tested if metric.within_folds else [np.concatenate(tested)]
    return [np.asarray(labels[ids]) for ids in parts]


def try_metric(metric: Metric, labels: NDArray[np.int64], classes: int, *, interval: bool) -> None:
    """Ask a user's function for its value, and with an interval for its pseudo-values, of made-up probabilities.

    Raises:
        UserError: it fails, or gives no number.
    """
    shares = np.random.default_rng(0).dirichlet(np.ones(classes), size=len(labels))
    metric.value_of(shares, labels)
    if interval and metric.pseudo_values is not None and len(labels) > 1:
        metric.pseudo_values_of(shares, labels)


def _share(role: str) -> str:
    return "split.test_fraction" if role == "test" else "split.val_fraction"

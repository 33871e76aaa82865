"""Weights of classes in the training loss, for sets in which some classes have fewer images than others."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.names import Names
from pipeline.errors import format_value, list_first, quote_name
from pipeline.train.train_config import TrainConfig

BALANCED = "balanced"
"""Value of `class_weights` and of `sampling`: every class has the same weight, or is drawn equally often."""

LISTED = 20
"""The most classes that a message names."""


def weights_by_label(
    config: TrainConfig, labels: NDArray[np.int64], classes: Sequence[str]
) -> NDArray[np.float64] | None:
    """Returns the weights of the classes in the recipe's cross-entropy, (C,) float64, with mean 1 over the
    images of an epoch.

    The loss of a batch is the mean over its images of weight times cross-entropy. Over all training images as
    one batch, this equals torch's `CrossEntropyLoss(weight=...)`. Torch divides a batch by the weights of its
    images; here every batch is divided by the number of its images. Sums over images therefore add up over
    micro-batches and workers, and an image counts the same in every batch.

    With "balanced", a class with n of N images weighs N / (C n), where C is the number of classes that have
    images. scikit-learn's `compute_class_weight` does the same. With balanced sampling every class comes
    equally often, so this weight is 1 for each.

    Args:
        config: the recipe.
        labels: labels of the training images, (N,) int64.
        classes: names by label.

    Returns:
        The weights, or None if all classes weigh the same because the recipe asks for nothing else.

    Raises:
        ValueError: weights of a class that does not exist, or that has no image.
    """
    given = config.class_weights
    if given is None or (given == BALANCED and config.sampling == BALANCED):
        return None
    counts = count_classes(labels, classes)
    there = counts > 0
    weights = np.ones(len(counts))
    if not isinstance(given, Mapping):
        weights[there] = len(labels) / (there.sum() * counts[there])
        return weights
    if problem := describe_problem(given, classes, counts):
        raise ValueError(problem)
    names = Names({name: label for label, name in enumerate(classes)})
    for name, weight in given.items():
        weights[names[name]] = weight
    seen = there.astype(np.int64) if config.sampling == BALANCED else counts
    weights *= seen.sum() / (seen @ weights)
    return weights


def count_classes(labels: NDArray[np.int64], classes: Sequence[str]) -> NDArray[np.int64]:
    """Returns the number of images by label, (C,) int64.

    Args:
        labels: (N,) int64.
        classes: names by label.
    """
    return np.bincount(labels, minlength=len(classes)).astype(np.int64)


def describe_problem(
    given: Mapping[str, float], classes: Sequence[str], counts: Sequence[int] | NDArray[np.int64] = ()
) -> str | None:
    """Returns a description of the first problem with weights by class name, or None if there is none.

    Args:
        given: `train.class_weights`, if it is a mapping.
        classes: names by label.
        counts: training images by label; empty: not counted yet.
    """
    known, found = Names({name: label for label, name in enumerate(classes)}), dict[str, str]()
    for name in given:
        meant = known.find(name)
        if meant is None:
            return _describe("no class", name, classes)
        if meant in found:
            return _describe(f"{format_value(found[meant], 60)} is the same class as", name, classes)
        found[meant] = name
        if len(counts) and not counts[classes.index(meant)]:
            return _describe("training has no image of", name, [c for c, n in zip(classes, counts, strict=True) if n])
    return None


def _describe(problem: str, name: str, classes: Sequence[str]) -> str:
    """Returns a message about a class name in `train.class_weights`.

    Args:
        problem: beginning of the message, before the name.
        name: the class name.
        classes: names that are allowed.
    """
    known = list_first((quote_name(each, 60) for each in classes), LISTED)
    return f"train.class_weights: {problem} {format_value(name, 60)}; the classes are {known}"

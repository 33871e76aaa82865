"""What an image of each class weighs in the training loss, where some classes have fewer images than others."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.names import Names
from pipeline.errors import format_value, list_first, quote_name
from pipeline.train.train_config import TrainConfig

BALANCED = "balanced"
"""Of `class_weights` and of `sampling`: every class as much, or as often, as the others."""

LISTED = 20
"""Classes that a message names at most."""


def weights_by_label(
    config: TrainConfig, labels: NDArray[np.int64], classes: Sequence[str]
) -> NDArray[np.float64] | None:
    """What the recipe's cross-entropy weighs each class with: (C,) float64, of mean 1 over the images of an epoch.

    The loss of a batch is the mean over its images of weight times cross-entropy, which over all training images as
    one batch is what torch's `CrossEntropyLoss(weight=...)` gives; in every batch it is divided by the number of images
    and not, as there, by their weights, since sums of images add up over micro-batches and workers, and since an image
    then counts the same whatever it shares its batch with.

    balanced gives a class of n of N images N / (C n), C being the classes that have any, as scikit-learn's
    `compute_class_weight` does. With balanced sampling every class comes equally often, so that this is 1 for each.

    Args:
        config: The recipe.
        labels: Of the training images, (N,) int64.
        classes: Names by label.

    Returns:
        None where all classes weigh the same because nothing else is asked for.

    Raises:
        ValueError: weights of a class that there is not, or that has no image.
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
    """Images by label, (C,) int64. labels (N,) int64."""
    return np.bincount(labels, minlength=len(classes)).astype(np.int64)


def describe_problem(
    given: Mapping[str, float], classes: Sequence[str], counts: Sequence[int] | NDArray[np.int64] = ()
) -> str | None:
    """What is wrong with weights by class name, in words; None if nothing is.

    Args:
        given: `train.class_weights`, where it is a mapping.
        classes: Names by label.
        counts: Training images by label, where they are known.
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
    known = list_first((quote_name(each, 60) for each in classes), LISTED)
    return f"train.class_weights: {problem} {format_value(name, 60)}; the classes are {known}"

"""Pseudo-values: a metric of a set of images as a mean over its images, so that two arms are compared image by image.

Of a metric's value theta on N images, and its value theta_i without image i, the jackknife's pseudo-value of that image
is N theta - (N - 1) theta_i (Dorfman, Berbaum and Metz, Investigative Radiology 27, 1992, 723-731). All are shifted by
one number so that their mean is theta itself (Hillis, Obuchowski, Schartz and Berbaum, Statistics in Medicine 24, 2005,
1579-1607), and thus what is compared is what is shown:

    p_i = theta + (N - 1) (mean of all theta_k - theta_i)

A mean over images, as accuracy or log loss is, has its images' own values as pseudo-values. Those of AUROC are the
structural components of DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988, 837-845), each scaled to N images.

Nothing here is computed N times: a value without one image follows from counts or ranks. A function that nobody knows
from inside is computed G = 200 times, each time without one of G groups of images (`grouped_pseudo_values`).

Means over classes are of those that occur among the labels. So where a class has a single image, the mean without that
image is over the others.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped, unused-ignore]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

GROUPS = 200


def balanced_accuracy_pseudo_values(predicted: Labels, labels: Labels, classes: int) -> Floats:
    """Of the mean, over classes, of the share of a class's images that are right; predicted, labels: (N,) -> (N,)."""
    right = (predicted == labels).astype(np.float64)
    count = np.bincount(labels, minlength=classes)
    occurring = count > 0
    recall = np.zeros(classes)
    np.divide(np.bincount(labels, weights=right, minlength=classes), count, out=recall, where=occurring)
    total, held = recall.sum(), int(occurring.sum())
    own, size = recall[labels], count[labels]
    with np.errstate(divide="ignore", invalid="ignore"):
        without = np.where(
            size > 1, (total + (own - right) / np.maximum(size - 1, 1)) / held, (total - own) / max(held - 1, 1)
        )
    return centre(float(total / held), without)


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """The mean over classes of 2 TP / (2 TP + FP + FN), of those that occur. confusion: (C, C), rows are truth."""
    occurring = confusion.sum(axis=1) > 0
    return float(_f1(confusion)[occurring].mean())


def macro_f1_pseudo_values(predicted: Labels, labels: Labels, classes: int) -> Floats:
    """Of `macro_f1`; predicted, labels: (N,) -> (N,)."""
    place = labels * classes + predicted
    confusion = np.bincount(place, minlength=classes * classes).reshape(classes, classes)
    count, taken, hits = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    occurring = count > 0
    share = np.where(occurring, _f1(confusion), 0.0)
    total, held = share.sum(), int(occurring.sum())
    # Images of one class that are taken for one class are alike: without one of them, these two classes change.
    truth, guess = np.nonzero(confusion)
    right = truth == guess
    last = count[truth] == 1
    with np.errstate(divide="ignore", invalid="ignore"):
        # Of the image's own class: one hit less, or one miss less, so in either case one image less of it.
        own = 2 * (hits[truth] - right) / (count[truth] - 1 + taken[truth] - right)
        # Of the class that it is wrongly taken for: one image less that is taken for it.
        other = 2 * hits[guess] / (count[guess] + taken[guess] - 1)
    changed = total - share[truth] + np.where(last, 0.0, own)
    changed += np.where(right | ~occurring[guess], 0.0, other - share[guess])
    by_pair = np.zeros((classes, classes))
    by_pair[truth, guess] = changed / np.maximum(held - last, 1)
    return centre(float(total / held), by_pair[labels, predicted])


def auroc(probabilities: Floats, labels: Labels) -> float:
    """How often an image of a class has a higher probability of it than an image of another one, ties counted half.

    Of two classes it is that of the second one; of more, the mean over classes, each against the rest. NaN where the
    labels are of one class.
    """
    found = [
        _components(probabilities[:, label], labels == label)[0] for label in _ranked_classes(probabilities, labels)
    ]
    return float(np.mean(found)) if found else float("nan")


def auroc_pseudo_values(probabilities: Floats, labels: Labels) -> Floats:
    """Of `auroc`; probabilities (N, C), labels (N,) -> (N,). NaN where one image less leaves one class alone."""
    ranked = _ranked_classes(probabilities, labels)
    total, held = np.zeros(len(labels)), np.zeros(len(labels))
    for label in ranked:
        positive = labels == label
        area, component = _components(probabilities[:, label], positive)
        size = np.where(positive, positive.sum(), (~positive).sum())
        there = size > 1
        # Without one image of its side, the mean over that side is the mean over the others.
        total[there] += (size[there] * area - component[there]) / (size[there] - 1)
        held += there
    without = np.full(len(labels), np.nan)
    np.divide(total, held, out=without, where=held > 0)
    return centre(auroc(probabilities, labels), without)


def grouped_pseudo_values(
    metric: Callable[[Floats, Labels], float], probabilities: Floats, labels: Labels, groups: int = GROUPS
) -> Floats:
    """Of any metric, by leaving out one of so many groups of images, which have equal shares of every class.

    The groups follow from the labels alone, so they are the same for all networks. What group g changes, N / G times
    the deviation of its pseudo-value, is spread over its n_g images by 1 / sqrt(n_g): sums of squares over images are
    then those over groups, and (N,) values have the place of other metrics' in every comparison. With no more images
    than groups each is left out by itself.
    """
    images = len(labels)
    count = min(groups, images)
    place = np.empty(images, dtype=np.int64)
    place[np.argsort(labels, kind="stable")] = np.arange(images) % count
    theta = metric(probabilities, labels)
    without = np.array([metric(probabilities[place != group], labels[place != group]) for group in range(count)])
    deviation = (count - 1) * (without.mean() - without)
    sizes = np.bincount(place, minlength=count)
    # The factors make sum(p^2) / (N (N - 1)) of images what sum(d^2) / (G (G - 1)) of groups is.
    scale = np.sqrt(images * (images - 1) / (count * (count - 1)) / sizes) if count > 1 else np.ones(1)
    spread = (deviation * scale)[place]
    return np.asarray(theta + spread - spread.mean(), dtype=np.float64)


def centre(theta: float, without: Floats) -> Floats:
    """Pseudo-values from a metric's value and its values without each image."""
    return np.asarray(theta + (len(without) - 1) * (without.mean() - without), dtype=np.float64)


def _f1(confusion: NDArray[np.int64]) -> Floats:
    both = confusion.sum(axis=1) + confusion.sum(axis=0)
    found = np.zeros(len(confusion))
    np.divide(2.0 * np.diag(confusion), both, out=found, where=both > 0)
    return found


def _ranked_classes(probabilities: Floats, labels: Labels) -> list[int]:
    count = np.bincount(labels, minlength=probabilities.shape[1])
    asked = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    return [label for label in asked if 0 < count[label] < len(labels)]


def _components(scores: Floats, positive: NDArray[np.bool_]) -> tuple[float, Floats]:
    """The area, and DeLong's components: of every image the share of the other side that it is ordered right to."""
    inside, outside = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores)
    component = np.empty(len(scores))
    component[positive] = (ranks[positive] - rankdata(scores[positive])) / outside
    component[~positive] = 1 - (ranks[~positive] - rankdata(scores[~positive])) / inside
    return float(component[positive].mean()), component

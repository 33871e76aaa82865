"""Pseudo-values: a metric of a set of images as a mean over images, to compare arms image by image.

Theta is the metric of N images, and theta_i the metric without image i. The jackknife's pseudo-value of image
i is N theta - (N - 1) theta_i (Dorfman, Berbaum and Metz, Investigative Radiology 27, 1992, 723-731). All are
shifted by one number so that their mean is theta itself (Hillis, Obuchowski, Schartz and Berbaum, Statistics
in Medicine 24, 2005, 1579-1607). So the compared value is the shown one:

    p_i = theta + (N - 1) (mean of all theta_k - theta_i)

For a mean over images, such as accuracy or log loss, the pseudo-values are the images' own values. For AUROC
they are the structural components of DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988, 837-845), each
scaled to N images.

No metric is computed N times: the value without one image follows from counts or ranks. An arbitrary function
is computed G = 200 times, each time without one of G groups of images (`grouped_pseudo_values`).

Means over classes are over the classes that occur among the labels. So if a class has a single image, the
mean without that image is over the other classes.

Shapes: N images, C classes.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped, unused-ignore]

from pipeline.score.classify import count_confusion

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

GROUPS = 200


def balanced_accuracy_pseudo_values(predicted: Labels, labels: Labels, classes: int) -> Floats:
    """Returns pseudo-values of balanced accuracy, (N,).

    The metric is the mean over classes of the share of a class's images that are right.

    Args:
        predicted: Predicted classes, (N,).
        labels: True classes, (N,).
        classes: C.
    """
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
    """Returns the mean over occurring classes of 2 TP / (2 TP + FP + FN).

    Args:
        confusion: Numbers of images, (C, C); rows are true classes.
    """
    occurring = confusion.sum(axis=1) > 0
    return float(_f1(confusion)[occurring].mean())


def macro_f1_pseudo_values(predicted: Labels, labels: Labels, classes: int) -> Floats:
    """Returns pseudo-values of `macro_f1`, (N,).

    Args:
        predicted: Predicted classes, (N,).
        labels: True classes, (N,).
        classes: C.
    """
    confusion = count_confusion(predicted, labels, classes)
    count, taken, hits = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    occurring = count > 0
    share = np.where(occurring, _f1(confusion), 0.0)
    total, held = share.sum(), int(occurring.sum())
    # Images with the same true and the same predicted class are alike: without one of them, these two classes change.
    truth, guess = np.nonzero(confusion)
    right = truth == guess
    last = count[truth] == 1
    with np.errstate(divide="ignore", invalid="ignore"):
        # F1 of the true class: with one hit less or one miss less, there is one image less of it in either case.
        own = 2 * (hits[truth] - right) / (count[truth] - 1 + taken[truth] - right)
        # F1 of a wrongly predicted class: there is one prediction of it less.
        other = 2 * hits[guess] / (count[guess] + taken[guess] - 1)
    changed = total - share[truth] + np.where(last, 0.0, own)
    changed += np.where(right | ~occurring[guess], 0.0, other - share[guess])
    by_pair = np.zeros((classes, classes))
    by_pair[truth, guess] = changed / np.maximum(held - last, 1)
    return centre(float(total / held), by_pair[labels, predicted])


def auroc(probabilities: Floats, labels: Labels) -> float:
    """Returns the area under the ROC curve.

    It is how often an image of a class has a higher probability of that class than another image, ties
    counted half. For two classes it is that of the second one. For more it is the mean over classes, each
    against the rest. NaN if the labels are of one class.

    Args:
        probabilities: Class probabilities, (N, C).
        labels: True classes, (N,).
    """
    found = [
        _components(probabilities[:, label], labels == label)[0] for label in _ranked_classes(probabilities, labels)
    ]
    return float(np.mean(found)) if found else float("nan")


def auroc_pseudo_values(probabilities: Floats, labels: Labels) -> Floats:
    """Returns pseudo-values of `auroc`, (N,); NaN for an image without which only one class is left.

    Args:
        probabilities: Class probabilities, (N, C).
        labels: True classes, (N,).
    """
    ranked = _ranked_classes(probabilities, labels)
    total, held = np.zeros(len(labels)), np.zeros(len(labels))
    for label in ranked:
        positive = labels == label
        area, component = _components(probabilities[:, label], positive)
        size = np.where(positive, positive.sum(), (~positive).sum())
        there = size > 1
        # The area without an image is the mean of the components of the other images on its side.
        total[there] += (size[there] * area - component[there]) / (size[there] - 1)
        held += there
    without = np.full(len(labels), np.nan)
    np.divide(total, held, out=without, where=held > 0)
    return centre(auroc(probabilities, labels), without)


def grouped_pseudo_values(
    metric: Callable[[Floats, Labels], float], probabilities: Floats, labels: Labels, groups: int = GROUPS
) -> Floats:
    """Returns pseudo-values of any metric, (N,), by leaving out one group of images at a time.

    Groups have equal shares of every class and follow from the labels alone, so they are the same for all
    networks. Group g has n_g images, and its pseudo-value deviates from the mean. Each of its images gets that
    deviation, scaled by about N / G and divided by sqrt(n_g). Sums of squares over images are then those over
    groups, so the values serve in every comparison as those of other metrics do. If there are no more images
    than groups, each image is left out alone.

    Args:
        metric: Computes the metric from probabilities (N, C) and labels (N,).
        probabilities: Class probabilities, (N, C).
        labels: True classes, (N,).
        groups: Largest number of groups, G.
    """
    images = len(labels)
    count = min(groups, images)
    place = np.empty(images, dtype=np.int64)
    place[np.argsort(labels, kind="stable")] = np.arange(images) % count
    theta = metric(probabilities, labels)
    without = np.array([metric(probabilities[place != group], labels[place != group]) for group in range(count)])
    deviation = (count - 1) * (without.mean() - without)
    sizes = np.bincount(place, minlength=count)
    # With these factors, sum(p^2) / (N (N - 1)) over images equals sum(d^2) / (G (G - 1)) over groups.
    scale = np.sqrt(images * (images - 1) / (count * (count - 1)) / sizes) if count > 1 else np.ones(1)
    spread = (deviation * scale)[place]
    return np.asarray(theta + spread - spread.mean(), dtype=np.float64)


def centre(theta: float, without: Floats) -> Floats:
    """Returns pseudo-values (N,) from a metric's value and its values without each image.

    Args:
        theta: Value of the metric.
        without: Value without each image, (N,).
    """
    return np.asarray(theta + (len(without) - 1) * (without.mean() - without), dtype=np.float64)


def _f1(confusion: NDArray[np.int64]) -> Floats:
    """Returns the F1 of each class, (C,); 0 for a class that neither occurs nor is predicted."""
    both = confusion.sum(axis=1) + confusion.sum(axis=0)
    found = np.zeros(len(confusion))
    np.divide(2.0 * np.diag(confusion), both, out=found, where=both > 0)
    return found


def _ranked_classes(probabilities: Floats, labels: Labels) -> list[int]:
    """Returns the classes of which an AUROC is defined: those with images in and outside of them."""
    count = np.bincount(labels, minlength=probabilities.shape[1])
    asked = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    return [label for label in asked if 0 < count[label] < len(labels)]


def _components(scores: Floats, positive: NDArray[np.bool_]) -> tuple[float, Floats]:
    """Returns the AUROC of one class and DeLong's components, (N,).

    The component of an image is the share of the images of the other kind that it is ordered correctly with.
    """
    inside, outside = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores)
    component = np.empty(len(scores))
    component[positive] = (ranks[positive] - rankdata(scores[positive])) / outside
    component[~positive] = 1 - (ranks[~positive] - rankdata(scores[~positive])) / inside
    return float(component[positive].mean()), component

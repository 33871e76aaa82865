"""Scores of class probabilities: accuracy, its balance over classes, likelihood and calibration.

Functions take arrays and return plain numbers, so that the same code scores validation images, test images
and registered models. Shapes: N images, C classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Networks return float32, in which a probability of 0 means "below the smallest normal number". That number is used
# instead of 0, so that a confidently wrong image counts 87 nats and does not make the mean infinite.
_SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)

# Largest deviation from 1 of the sum of a softmax in half precision.
_SUM_TOLERANCE = 5e-3


@dataclass(frozen=True)
class ClassificationScores:
    """Scores of a set of predictions. All shares are fractions of 1.

    Attributes:
        accuracy: Share of images whose most probable class is the true one.
        balanced_accuracy: Mean over occurring classes of the share of a class's images that are right.
        nll: Mean negative log likelihood of the true class, in nats.
        ece: Expected calibration error; see `ReliabilityBins.ece`.
        per_class_accuracy: Share of each class's images that are right, (C,); NaN for a class without images.
        confusion: Numbers of images, (C, C); rows are true classes, columns predicted ones.
    """

    accuracy: float
    balanced_accuracy: float
    nll: float
    ece: float
    per_class_accuracy: NDArray[np.float64]
    confusion: NDArray[np.int64]


@dataclass(frozen=True)
class ReliabilityBins:
    """Predictions grouped by confidence.

    Attributes:
        edges: Edges of the bins, (bins + 1,).
        confidence: Mean confidence of each bin, (bins,); NaN for a bin without images.
        accuracy: Accuracy of each bin, (bins,); NaN for a bin without images.
        count: Number of images of each bin, (bins,).
    """

    edges: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean over images of |accuracy - confidence| of their bin."""
        held = self.count > 0
        gap = np.abs(self.accuracy[held] - self.confidence[held])
        return float(np.sum(gap * self.count[held]) / np.sum(self.count))


def classification_scores(probabilities: ArrayLike, labels: ArrayLike) -> ClassificationScores:
    """Scores class probabilities against labels.

    The predicted class is the most probable one, the first of them on a tie. Balanced accuracy is the mean
    over the classes that occur in `labels`. For the log likelihood, probabilities below 1.2e-38 count as that
    number. The calibration error is that of Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
    equation 3, with 15 bins (see `reliability_bins`).

    Args:
        probabilities: Class probabilities, (N, C).
        labels: True classes as integers, (N,).

    Raises:
        ValueError: If the shapes do not fit, there are no images, a label is outside 0 .. C - 1, or a row is
            not a distribution.
    """
    shares, truth = check_predictions(probabilities, labels)
    images, classes = shares.shape
    confusion = count_confusion(shares.argmax(axis=1), truth, classes)
    occurring = confusion.sum(axis=1)
    per_class = np.full(classes, np.nan)
    np.divide(np.diag(confusion), occurring, out=per_class, where=occurring > 0)
    return ClassificationScores(
        accuracy=float(np.trace(confusion) / images),
        balanced_accuracy=float(np.nanmean(per_class)),
        nll=float(log_losses(shares, truth).mean()),
        ece=reliability_bins(shares, truth).ece,
        per_class_accuracy=per_class,
        confusion=confusion,
    )


def log_losses(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Computes the negative log likelihood of every image, (N,) in nats.

    Its mean is `ClassificationScores.nll`.

    Args:
        probabilities: Class probabilities, (N, C).
        labels: True classes as integers, (N,).

    Raises:
        ValueError: As `classification_scores`.
    """
    shares, truth = check_predictions(probabilities, labels)
    losses: NDArray[np.float64] = -np.log(np.maximum(shares[np.arange(len(truth)), truth], _SMALLEST_PROBABILITY))
    return losses


def count_confusion(predicted: NDArray[np.int64], truth: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Returns the numbers of images by true class (rows) and predicted class (columns), (C, C).

    Args:
        predicted: Predicted classes, (N,).
        truth: True classes, (N,).
        classes: C.
    """
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def reliability_bins(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> ReliabilityBins:
    """Groups predictions into equal-width bins of confidence, the probability of the predicted class.

    Bin m of M holds confidences in ((m - 1)/M, m/M] (Guo et al. 2017, section 2).

    Args:
        probabilities: Class probabilities, (N, C).
        labels: True classes as integers, (N,).
        bins: Number of bins, M.

    Raises:
        ValueError: As `classification_scores`, and for fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    shares, truth = check_predictions(probabilities, labels)
    confidence = shares.max(axis=1)
    right = shares.argmax(axis=1) == truth
    edges = np.arange(bins + 1) / bins
    # side="left" puts a confidence equal to an edge into the bin below it, whose right end is closed.
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    means = np.full((2, bins), np.nan)
    for row, value in zip(means, (confidence, right), strict=True):
        np.divide(np.bincount(index, weights=value, minlength=bins), count, out=row, where=count > 0)
    return ReliabilityBins(edges, means[0], means[1], count.astype(np.int64))


def check_predictions(probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns class probabilities (N, C) as float64 and labels (N,) as int64.

    Args:
        probabilities: Class probabilities, (N, C).
        labels: True classes as integers, (N,).

    Raises:
        ValueError: As `classification_scores`.
    """
    shares = np.asarray(probabilities, dtype=np.float64)
    truth = np.asarray(labels)
    if shares.ndim != 2 or shares.shape[0] == 0 or shares.shape[1] < 2:
        raise ValueError(f"probabilities must have shape (images, classes), at least 1 by 2, got {shares.shape}")
    if truth.shape != shares.shape[:1]:
        raise ValueError(f"labels must have shape {shares.shape[:1]} like the probabilities, got {truth.shape}")
    if not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {truth.dtype}")
    if truth.min() < 0 or truth.max() >= shares.shape[1]:
        raise ValueError(f"labels must lie in 0..{shares.shape[1] - 1}, got {truth.min()}..{truth.max()}")
    if not np.isfinite(shares).all():
        broken = int((~np.isfinite(shares)).any(axis=1).sum())
        raise ValueError(f"probabilities of {broken} of {len(shares)} images are not finite: the network diverged")
    if shares.min() < 0 or np.abs(shares.sum(axis=1) - 1).max() > _SUM_TOLERANCE:
        raise ValueError("probabilities must be at least 0 and sum to 1 in every row; were logits passed?")
    return shares, truth.astype(np.int64)

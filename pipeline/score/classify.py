"""Scores of class probabilities: accuracy, its balance over the classes, likelihood and calibration.

Takes arrays and returns plain numbers, so that validation, test and a registered model are all scored by the same code.
Shape letters: N images, C classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Networks answer in float32, where a probability of 0 means "below the smallest normal number". Taking that number
# instead keeps one confidently wrong image at 87 nats, where a plain logarithm would make the whole mean infinite.
_SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)

# Softmax in half precision sums to 1 only this well.
_SUM_TOLERANCE = 5e-3


@dataclass(frozen=True)
class ClassificationScores:
    """What a set of predictions is worth. All shares are fractions of 1; `confusion` counts images, rows are truth."""

    accuracy: float
    balanced_accuracy: float
    nll: float
    ece: float
    per_class_accuracy: NDArray[np.float64]
    confusion: NDArray[np.int64]


@dataclass(frozen=True)
class ReliabilityBins:
    """Predictions grouped by confidence: `edges` (bins + 1,); mean `confidence`, `accuracy` and `count` (bins,).

    A bin without images has count 0 and NaN for the other two.
    """

    edges: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over images of |accuracy - confidence| of their bin."""
        held = self.count > 0
        gap = np.abs(self.accuracy[held] - self.confidence[held])
        return float(np.sum(gap * self.count[held]) / np.sum(self.count))


def classification_scores(probabilities: ArrayLike, labels: ArrayLike) -> ClassificationScores:
    """Score class probabilities (N, C) against integer labels (N,).

    The predicted class is the most probable one, the first of them on a tie. Balanced accuracy is the mean over the
    classes that occur in `labels`; a class that does not occur has NaN in `per_class_accuracy`. The negative log
    likelihood is in nats, with probabilities below 1.2e-38 counted as that. The calibration error is that of Guo et
    al., On Calibration of Modern Neural Networks, ICML 2017, equation 3, with 15 bins: see `reliability_bins`.

    Raises ValueError, naming what is wrong, for shapes that do not fit, an empty set, labels outside 0..C-1, and rows
    that are not probabilities.
    """
    shares, truth = check_predictions(probabilities, labels)
    images, classes = shares.shape
    predicted = shares.argmax(axis=1)
    pairs = np.bincount(truth * classes + predicted, minlength=classes * classes)
    confusion = pairs.reshape(classes, classes).astype(np.int64)
    occurring = confusion.sum(axis=1)
    per_class = np.full(classes, np.nan)
    np.divide(np.diag(confusion), occurring, out=per_class, where=occurring > 0)
    return ClassificationScores(
        accuracy=float(np.trace(confusion) / images),
        balanced_accuracy=float(np.nanmean(per_class)),
        nll=float(_log_losses(shares, truth).mean()),
        ece=reliability_bins(shares, truth).ece,
        per_class_accuracy=per_class,
        confusion=confusion,
    )


def log_losses(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Negative log likelihood of every image, (N,) in nats, of which `ClassificationScores.nll` is the mean.

    Raises ValueError as `classification_scores` does.
    """
    return _log_losses(*check_predictions(probabilities, labels))


def reliability_bins(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> ReliabilityBins:
    """Group predictions into equal-width bins of confidence, the probability of the predicted class.

    Bin m of M holds confidences in ((m - 1)/M, m/M] (Guo et al. 2017, section 2). Raises ValueError as
    `classification_scores` does, and for fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    shares, truth = check_predictions(probabilities, labels)
    confidence = shares.max(axis=1)
    right = shares.argmax(axis=1) == truth
    edges = np.arange(bins + 1) / bins
    # side="left" puts a confidence that equals an edge below it, which is the closed right end of the definition.
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    means = np.full((2, bins), np.nan)
    for row, value in zip(means, (confidence, right), strict=True):
        np.divide(np.bincount(index, weights=value, minlength=bins), count, out=row, where=count > 0)
    return ReliabilityBins(edges, means[0], means[1], count.astype(np.int64))


def _log_losses(shares: NDArray[np.float64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    losses: NDArray[np.float64] = -np.log(np.maximum(shares[np.arange(len(truth)), truth], _SMALLEST_PROBABILITY))
    return losses


def check_predictions(probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Class probabilities (N, C) as float64 and labels (N,) as int64.

    Raises ValueError as `classification_scores` does.
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

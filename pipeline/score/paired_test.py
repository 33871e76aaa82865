"""Two fixed models on the same test images: the difference of their accuracies, and how sure it is.

Only images on which one of the two is right and the other wrong tell them apart. With f of them for the first model, g
for the second, and N images in all, the interval is the adjusted Wald interval for paired proportions (Bonett and
Price, Journal of Educational and Behavioral Statistics 37, 2012), which adds one image to each kind:

    p = (f + 1) / (N + 2),  q = (g + 1) / (N + 2)
    p - q  +-  z sqrt((p + q - (p - q)^2) / (N + 2))

It is narrower than that of two separate test sets wherever the models fail on the same images, and does not collapse
where they differ on none. It speaks of these two networks on other images of the same kind. The noise of training is
not in it: that another network of the same configuration, trained with another seed, does better or worse is what
`pipeline.score.comparison` asks of arms of several seeds. By another metric than accuracy, the interval is that of the
mean difference of its pseudo-values, image by image (`PairedScores`).
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.stats  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import ArrayLike

POWER = 0.8

# Below this a deviation is rounding.
_NOTHING = 1e-12


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of the first model minus that of the second, as fractions of 1, with its interval.

    only_first, only_second: images that this one alone is right on.
    """

    difference: float
    low: float
    high: float
    confidence: float
    images: int
    only_first: int
    only_second: int

    def images_needed(self, margin: float) -> int:
        """Test images with which two equally good models that disagree as often as these would be found within the
        margin: the lower end of their interval above -margin, with a chance of 0.8.
        """
        disagreeing = (self.only_first + self.only_second + 2) / (self.images + 2)
        both = _normal((1 + self.confidence) / 2) + _normal(POWER)
        return math.ceil(disagreeing * (both / margin) ** 2)


def paired_difference(first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95) -> PairedDifference:
    """Compare two models by what each got right: (N,) bool, on the same images in one order.

    Raises:
        ValueError: other shapes, no images, or a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    one, other = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.ndim != 1 or one.shape != other.shape or not len(one):
        raise ValueError(f"needed: what two models got right on the same images, got {one.shape} and {other.shape}")
    images, alone, beside = len(one), int((one & ~other).sum()), int((other & ~one).sum())
    p, q = (alone + 1) / (images + 2), (beside + 1) / (images + 2)
    half = _normal((1 + confidence) / 2) * math.sqrt((p + q - (p - q) ** 2) / (images + 2))
    return PairedDifference(
        (alone - beside) / images, max(-1.0, p - q - half), min(1.0, p - q + half), confidence, images, alone, beside
    )


@dataclass(frozen=True)
class PairedScores:
    """The first model's metric minus the second's, by pseudo-values of the same images (`pipeline.score.metrics`).

    low, high: difference +- t sqrt(var_i / N) on N - 1 degrees of freedom; None where there is no interval, and `note`
    then says why.
    """

    difference: float
    low: float | None
    high: float | None
    confidence: float
    images: int
    note: str | None = None

    def images_needed(self, margin: float) -> int:
        """Test images with which two equally good models that differ as much from image to image would be found within
        the margin: the worse end of their interval within it, with a chance of 0.8.
        """
        half = 0.0 if self.low is None else self.difference - self.low
        quantile = float(scipy.stats.t.ppf((1 + self.confidence) / 2, self.images - 1))
        both = _normal((1 + self.confidence) / 2) + _normal(POWER)
        return max(2, math.ceil(self.images * (half / quantile * both / margin) ** 2))


def paired_score_difference(first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95) -> PairedScores:
    """Compare two models by pseudo-values of the same images, (N,) each; the mean of either is its metric.

    Raises:
        ValueError: other shapes, fewer than two images, or a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != other.shape or len(one) < 2:
        raise ValueError(f"needed: values of the same images, at least two, got {one.shape} and {other.shape}")
    images, difference = len(one), float(one.mean() - other.mean())
    error = float((one - other).std(ddof=1)) / images**0.5
    if error < _NOTHING:
        return PairedScores(
            difference, None, None, confidence, images, "no image shows any variation in the difference"
        )
    half = float(scipy.stats.t.ppf((1 + confidence) / 2, images - 1)) * error
    return PairedScores(difference, difference - half, difference + half, confidence, images)


def _normal(probability: float) -> float:
    return float(scipy.stats.norm.ppf(probability))

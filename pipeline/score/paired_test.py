"""Difference of two fixed models on the same test images, with its interval.

Only images that one of the two gets right and the other wrong distinguish them. The first model alone is
right on f of the N images, the second alone on g. The interval is the adjusted Wald interval for paired
proportions, which adds one image to each kind (Bonett and Price, Journal of Educational and Behavioral
Statistics 37, 2012):

    p = (f + 1) / (N + 2),  q = (g + 1) / (N + 2)
    p - q  +-  z sqrt((p + q - (p - q)^2) / (N + 2))

It is narrower than that of two separate test sets wherever the models fail on the same images, and does not
collapse where they differ on none. It is about these two networks on other images of the same kind. The noise
of training is not in it: another network of the same configuration, trained with another seed, may do better
or worse. `pipeline.score.comparison` tests that, with arms of several seeds. For another metric than
accuracy, the interval is that of the mean difference of its pseudo-values, image by image (`PairedScores`).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri  # type: ignore[import-untyped, unused-ignore]

from pipeline.score.comparison import POWER, t_quantile

# A standard error below this is rounding.
_NOTHING = 1e-12


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of the first model minus that of the second, as fractions of 1, with its interval.

    Attributes:
        difference: The difference of the accuracies.
        low: Lower end of the interval.
        high: Upper end of the interval.
        confidence: Confidence of the interval.
        images: Number of images.
        only_first: Images that the first model alone got right.
        only_second: Images that the second model alone got right.
    """

    difference: float
    low: float
    high: float
    confidence: float
    images: int
    only_first: int
    only_second: int

    def images_needed(self, margin: float) -> int:
        """Returns the number of test images with which two equally good models are found within the margin.

        Found means that the lower end of their interval is above -margin, with probability 0.8. The models
        are assumed to disagree as often as these two.

        Args:
            margin: Largest difference that counts as none.
        """
        disagreeing = (self.only_first + self.only_second + 2) / (self.images + 2)
        both = _normal((1 + self.confidence) / 2) + _normal(POWER)
        return math.ceil(disagreeing * (both / margin) ** 2)


def paired_difference(first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95) -> PairedDifference:
    """Compares two models by the images that each got right.

    Args:
        first: Whether the first model got each image right, (N,) bool.
        second: The same for the second model, with the images in the same order.
        confidence: Confidence of the interval.

    Raises:
        ValueError: If the shapes differ or are not (N,), there are no images, or the confidence is outside
            (0, 1).
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
    """The first model's metric minus the second's, with its interval.

    Both are means of pseudo-values of the same images (`pipeline.score.metrics`). The interval is difference
    +- t sqrt(var_i / N) on N - 1 degrees of freedom.

    Attributes:
        difference: The difference of the metrics.
        low: Lower end of the interval; None if there is no interval, and `note` then gives the reason.
        high: Upper end of the interval; None likewise.
        confidence: Confidence of the interval.
        images: Number of images, N.
        note: Why there is no interval; None if there is one.
    """

    difference: float
    low: float | None
    high: float | None
    confidence: float
    images: int
    note: str | None = None

    def images_needed(self, margin: float) -> int:
        """Returns the number of test images with which two equally good models are found within the margin.

        Found means that the worse end of their interval lies within the margin, with probability 0.8. The
        models are assumed to differ as much from image to image as these two.

        Args:
            margin: Largest difference that counts as none.
        """
        half = 0.0 if self.low is None else self.difference - self.low
        quantile = t_quantile((1 + self.confidence) / 2, self.images - 1)
        both = _normal((1 + self.confidence) / 2) + _normal(POWER)
        return max(2, math.ceil(self.images * (half / quantile * both / margin) ** 2))


def paired_score_difference(first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95) -> PairedScores:
    """Compares two models by pseudo-values of the same images.

    The mean of a model's pseudo-values is its metric.

    Args:
        first: Pseudo-values of the first model, (N,).
        second: Pseudo-values of the second model, (N,), with the images in the same order.
        confidence: Confidence of the interval.

    Raises:
        ValueError: If the shapes differ or are not (N,), there are fewer than two images, or the confidence
            is outside (0, 1).
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
    half = t_quantile((1 + confidence) / 2, images - 1) * error
    return PairedScores(difference, difference - half, difference + half, confidence, images)


def _normal(probability: float) -> float:
    return float(ndtri(probability))

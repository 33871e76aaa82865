"""Two fixed models on the same test images: the difference of their accuracies, and how sure it is.

Only images on which one of the two is right and the other wrong tell them apart. With f of them for the first model, g
for the second, and N images in all, the interval is the adjusted Wald interval for paired proportions (Bonett and
Price, Journal of Educational and Behavioral Statistics 37, 2012), which adds one image to each kind:

    p = (f + 1) / (N + 2),  q = (g + 1) / (N + 2)
    p - q  +-  z sqrt((p + q - (p - q)^2) / (N + 2))

It is narrower than that of two separate test sets wherever the models fail on the same images, and does not collapse
where they differ on none. It speaks of these two networks on other images of the same kind. The noise of training is
not in it: that another network of the same configuration, trained with another seed, does better or worse is what
`pipeline.score.comparison` asks of arms of several seeds.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.stats  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import ArrayLike

POWER = 0.8


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


def _normal(probability: float) -> float:
    return float(scipy.stats.norm.ppf(probability))

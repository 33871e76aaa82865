"""What this room takes: plain frozen values, importable without torch, and the schedule of every weight."""

import math
from dataclasses import dataclass

from pipeline.models.settings import LayerSpec


@dataclass(frozen=True)
class SpatialEntropyConfig:
    """SAR. weight: peak of the schedule (lambda). layers: blocks it looks at. threshold: cut of a map in standard
    deviations above its mean. connectivity: 4 or 8 neighbours.
    """

    weight: float
    layers: LayerSpec
    threshold: float
    connectivity: int


def warmup_epochs(planned_epochs: int) -> int:
    """Epochs over which a weight rises: min(10, max(1, round(E / 10))) of the planned E."""
    return min(10, max(1, round(planned_epochs / 10)))


def weight_at(peak: float, epoch: int, planned_epochs: int) -> float:
    """A regulariser's weight in `epoch` (counted from 0) of `planned_epochs`.

    SAR's published schedule (Peruzzo et al., arXiv 2206.04636, released code): over the warm-up linearly from 0 to
    `peak`, both ends included, then a cosine from `peak` towards 0 over the rest. There the warm-up is 10 epochs; here
    it shrinks with the planned length, so that runs of any length pass through like phases. A warm-up of one epoch is
    that epoch at 0.

    Raises:
        ValueError: an epoch outside 0 .. planned_epochs - 1.
    """
    if not 0 <= epoch < planned_epochs:
        raise ValueError(f"epoch {epoch} is outside the {planned_epochs} planned epochs")
    rise = warmup_epochs(planned_epochs)
    if epoch < rise:
        return peak * epoch / (rise - 1) if rise > 1 else 0.0
    return peak * 0.5 * (1.0 + math.cos(math.pi * (epoch - rise) / (planned_epochs - rise)))

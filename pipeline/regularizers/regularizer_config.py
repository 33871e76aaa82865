"""The schedules of every regulariser's weight: plain numbers."""

import math

SCHEDULES = ("warmup_cosine", "warmup_linear", "constant")
"""SAR's, as its authors released it; relative localisation's; and the weight as it stands."""


def warmup_epochs(planned_epochs: int) -> int:
    """Epochs over which a weight rises: min(10, max(1, round(E / 10))) of the planned E."""
    return min(10, max(1, round(planned_epochs / 10)))


def weight_at(peak: float, epoch: int, planned_epochs: int, schedule: str = "warmup_cosine") -> float:
    """A regulariser's weight in `epoch` (counted from 0) of `planned_epochs`.

    warmup_cosine: SAR's published schedule (Peruzzo et al., arXiv 2206.04636, released code): over the warm-up linearly
    from 0 to `peak`, both ends included, then a cosine from `peak` towards 0 over the rest. There the warm-up is 10
    epochs; here it shrinks with the planned length, so that runs of any length pass through like phases. A warm-up of
    one epoch is that epoch at 0.

    warmup_linear: the same rise, then a straight line from `peak` towards 0: the form of the released code of relative
    localisation (Liu et al., arXiv 2106.03746), whose rise takes 20 epochs whatever the length.

    constant: `peak` in every epoch.

    Raises:
        ValueError: an epoch outside 0 .. planned_epochs - 1, or another schedule.
    """
    if not 0 <= epoch < planned_epochs:
        raise ValueError(f"epoch {epoch} is outside the {planned_epochs} planned epochs")
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
    if schedule == "constant":
        return peak
    rise = warmup_epochs(planned_epochs)
    if epoch < rise:
        return peak * epoch / (rise - 1) if rise > 1 else 0.0
    if schedule == "warmup_linear":
        return peak * (planned_epochs - epoch) / (planned_epochs - rise)
    return peak * 0.5 * (1.0 + math.cos(math.pi * (epoch - rise) / (planned_epochs - rise)))

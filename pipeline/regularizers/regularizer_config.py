"""Schedules of a regulariser's weight, without torch."""

import math

SCHEDULES = ("warmup_cosine", "warmup_linear", "constant")
"""SAR's schedule as its authors released it, that of relative localisation, and a constant weight."""


def warmup_epochs(planned_epochs: int) -> int:
    """Returns the epochs over which a weight rises: min(10, max(1, round(E / 10))) of E planned epochs.

    Args:
        planned_epochs: E.
    """
    return min(10, max(1, round(planned_epochs / 10)))


def weight_at(peak: float, epoch: int, planned_epochs: int, schedule: str = "warmup_cosine") -> float:
    """Returns a regulariser's weight in one epoch.

    warmup_cosine: SAR's published schedule (Peruzzo et al., arXiv 2206.04636, released code). Over the
    warm-up it rises linearly from 0 to `peak`, both ends included. Then it falls by a cosine from `peak`
    towards 0. The published warm-up takes 10 epochs. Here it shrinks with the planned length, so that runs of
    any length pass through the same phases. A warm-up of one epoch has weight 0.

    warmup_linear: the same rise, then a straight line from `peak` towards 0. It is the form in the released
    code of relative localisation (Liu et al., arXiv 2106.03746), whose rise takes 20 epochs at any length.

    constant: `peak` in every epoch.

    Args:
        peak: Largest weight.
        epoch: Epoch counted from 0.
        planned_epochs: Epochs of the whole run.
        schedule: One of `SCHEDULES`.

    Raises:
        ValueError: If the epoch is outside 0 .. planned_epochs - 1, or the schedule is unknown.
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

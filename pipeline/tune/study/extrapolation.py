"""Estimates of the values that stopped trials would have reached at their last epoch."""

import statistics
from collections.abc import Mapping, Sequence

Curve = Mapping[int, float]
"""Values by epoch."""


def extrapolate(stopped: Sequence[Curve], finished: Sequence[tuple[Curve, float]]) -> list[float]:
    """Estimates the final value of each stopped trial: its last value, plus the gain of other trials from that
    epoch on.

    The gain is the median over the trials that went on, from that epoch to their end. It is 0 if there are
    none.

    Args:
        stopped: Curves of the stopped trials, none of them empty.
        finished: Curve and final value of each trial that ran in full.

    Returns:
        The estimate of each stopped trial, in order.
    """
    gains = {epoch: _gain_from(epoch, finished) for epoch in {max(curve) for curve in stopped}}
    return [curve[max(curve)] + gains[max(curve)] for curve in stopped]


def _gain_from(epoch: int, finished: Sequence[tuple[Curve, float]]) -> float:
    gains = [final - curve[epoch] for curve, final in finished if epoch in curve]
    return statistics.median(gains) if gains else 0.0

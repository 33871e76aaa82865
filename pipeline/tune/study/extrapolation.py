"""The values that trials would have reached, had they not been stopped early."""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

Curve = Mapping[int, float]
"""Values by epoch."""

PRIOR_GAINS = 2.0
"""As many gains as the variance that is assumed beforehand counts for."""


def extrapolate(
    stopped: Sequence[Curve], finished: Sequence[tuple[Curve, float]], *, prior_var: float | None = None
) -> list[tuple[float, float]]:
    """Estimates the final value of each stopped trial: its last value, plus what others gained from there.

    That is the median over those that went on, from that epoch to their end, or nothing if there are none.

    Args:
        stopped: Their curves, none of them empty.
        finished: Curve and final value of each trial that ran in full.
        prior_var: Variance of the gains that is assumed before any is known; None if no variance is wanted.

    Returns:
        The estimate and its variance, of each in order. The variance is that of the gains, 0 if `prior_var` is None.
    """
    by_epoch = {epoch: _gain_from(epoch, finished, prior_var=prior_var) for epoch in {max(curve) for curve in stopped}}
    estimates = []
    for curve in stopped:
        last = max(curve)
        gain, variance = by_epoch[last]
        estimates.append((curve[last] + gain, variance))
    return estimates


def _gain_from(epoch: int, finished: Sequence[tuple[Curve, float]], *, prior_var: float | None) -> tuple[float, float]:
    """The median gain from an epoch on, and the variance of gains."""
    gains = [final - curve[epoch] for curve, final in finished if epoch in curve]
    median = statistics.median(gains) if gains else 0.0
    if prior_var is None:
        return median, 0.0
    known = np.array(gains)
    squares = float(((known - known.mean()) ** 2).sum()) if gains else 0.0
    return median, (PRIOR_GAINS * prior_var + squares) / (PRIOR_GAINS + len(gains))

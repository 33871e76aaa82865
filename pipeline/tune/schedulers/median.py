"""Median stopping: a trial stops if its best value so far is below the median of the other trials' running means.

Both are taken at the same epoch. Golovin et al., Google Vizier, KDD 2017, section 3.2.2.
"""

import math

from pipeline.tune.schedulers.asha import Rung

MIN_TRIALS = 3
"""Number of other trials that must have reached an epoch before the rule stops any trial there."""


class MedianStopping:
    """Median rule, from the grace period on.

    Args:
        grace_period: First epoch at which a trial may be stopped.
        epochs: Epochs of a full trial.
    """

    def __init__(self, grace_period: int, epochs: int) -> None:
        self._grace, self._epochs = grace_period, epochs
        self.rung_epochs = list(range(grace_period, epochs))
        self._at: dict[int, Rung] = {}
        self._sums: dict[str, tuple[float, int]] = {}
        self._best: dict[str, float] = {}

    def stops(self, trial: str, epoch: int, objective: float) -> bool:
        """Adds a report and returns whether the trial ends with it (see `StoppingRule`).

        Args:
            trial: The trial's id.
            epoch: Number of the epoch, counted from 1.
            objective: Value of the metric, more is better; may be NaN.
        """
        if epoch >= self._epochs:
            return True
        here = self._at.setdefault(epoch, Rung(epoch))
        if trial in here.values:
            return False
        if not math.isnan(objective):
            self._best[trial] = max(objective, self._best.get(trial, -math.inf))
        if epoch < self._grace:
            here.enter(trial, objective)
            return False
        total, count = self._sums.get(trial, (0.0, 0))
        self._sums[trial] = (total + objective, count + 1)
        others, median = len(here.values), here.quantile(0.5)
        here.enter(trial, (total + objective) / (count + 1))
        return others >= MIN_TRIALS and self._best.get(trial, math.nan) < median

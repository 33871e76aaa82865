"""ASHA in its stopping form: at each rung, a trial goes on if it is among the best 1/factor so far.

A rung is an epoch, and a trial is compared with the trials that reached it before. Li et al., A System for
Massively Parallel Hyperparameter Tuning, arXiv 1810.05934.
"""

import math
from bisect import insort
from collections.abc import Sequence


class Rung:
    """Values of the trials that reached an epoch, by trial and in order."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.values: dict[str, float] = {}
        self._ordered: list[float] = []  # sorted at insertion, since a search may have thousands of trials

    def enter(self, trial: str, value: float) -> None:
        """Adds a trial's value; NaN is not ranked."""
        self.values[trial] = value
        if not math.isnan(value):
            insort(self._ordered, value)

    def quantile(self, share: float) -> float:
        """Returns a quantile of the values that are not NaN, with linear interpolation; NaN if there are none."""
        if not self._ordered:
            return math.nan
        place = share * (len(self._ordered) - 1)
        below = int(place)
        above = min(below + 1, len(self._ordered) - 1)
        return self._ordered[below] + (place - below) * (self._ordered[above] - self._ordered[below])


class ASHA:
    """ASHA's stopping form, for one bracket.

    Args:
        rungs: Epochs of the rungs, ascending.
        factor: The best 1/factor of a rung goes on.
        epochs: Epochs of a full trial.
    """

    def __init__(self, rungs: Sequence[int], factor: float, epochs: int) -> None:
        self.rungs, self.rung_epochs = [Rung(epoch) for epoch in rungs], list(rungs)
        self._keep, self._epochs = 1 - 1 / factor, epochs

    def stops(self, trial: str, epoch: int, objective: float) -> bool:
        """Adds a report and returns whether the trial ends with it (see `StoppingRule`).

        Args:
            trial: The trial's id.
            epoch: Number of the epoch, counted from 1.
            objective: Value of the metric, more is better; may be NaN.
        """
        if epoch >= self._epochs:
            return True
        rung = self._reached(trial, epoch)
        if rung is None:
            return False
        cut = rung.quantile(self._keep)
        rung.enter(trial, objective)
        return objective < cut  # False for NaN: the trainable ends failed trials itself

    def _reached(self, trial: str, epoch: int) -> Rung | None:
        """Returns the highest rung that a trial has reached and not entered; None if there is none."""
        at = (rung for rung in reversed(self.rungs) if rung.epoch <= epoch and trial not in rung.values)
        return next(at, None)

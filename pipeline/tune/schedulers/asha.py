"""ASHA: at each rung, an epoch, a trial goes on if it is among the best 1/factor of those that came there before it.

Li et al., A System for Massively Parallel Hyperparameter Tuning, arXiv 1810.05934, in its stopping form.
"""

import math
from bisect import insort
from collections.abc import Sequence


class Rung:
    """What came to one epoch: values by trial, and in order."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.values: dict[str, float] = {}
        self._ordered: list[float] = []  # kept in order, since a search may have thousands of trials

    def enter(self, trial: str, value: float) -> None:
        self.values[trial] = value
        if not math.isnan(value):
            insort(self._ordered, value)

    def quantile(self, share: float) -> float:
        """Of the values that are numbers, with linear interpolation; NaN if there are none."""
        if not self._ordered:
            return math.nan
        place = share * (len(self._ordered) - 1)
        below = int(place)
        above = min(below + 1, len(self._ordered) - 1)
        return self._ordered[below] + (place - below) * (self._ordered[above] - self._ordered[below])


class ASHA:
    """ASHA's stopping form, for one bracket. rungs: their epochs, ascending."""

    def __init__(self, rungs: Sequence[int], factor: float, epochs: int) -> None:
        self.rungs = [Rung(epoch) for epoch in rungs]
        self._keep, self._epochs = 1 - 1 / factor, epochs

    @property
    def rung_epochs(self) -> list[int]:
        return [rung.epoch for rung in self.rungs]

    @property
    def survival_fraction(self) -> float:
        return float((1 - self._keep) ** len(self.rungs))

    def stops(self, trial: str, epoch: int, objective: float) -> bool:
        if epoch >= self._epochs:
            return True
        rung = self._reached(trial, epoch)
        if rung is None:
            return False
        cut = rung.quantile(self._keep)
        rung.enter(trial, objective)
        return objective < cut  # NaN is below nothing: what has failed is ended by who trains

    def _reached(self, trial: str, epoch: int) -> Rung | None:
        """The highest rung that a trial has come to and not been entered at."""
        at = (rung for rung in reversed(self.rungs) if rung.epoch <= epoch and trial not in rung.values)
        return next(at, None)

"""Rules that stop unpromising trials early. Each hears every epoch of every trial of one study, and nothing else.

What a rule decides depends on the reports and their order alone, so that a ledger read again leads to the same state.
It knows trials by their ids of the ledger; a report that it has heard before changes nothing.

    asha       at each rung (an epoch) a trial goes on if it is among the best 1/factor of those that came there before
               it (Li et al., A System for Massively Parallel Hyperparameter Tuning, arXiv 1810.05934, stopping form)
    hyperband  several such ladders beside each other, whose first rungs lie higher and higher; each trial has its
               ladder by its number, in the shares of Li et al., Hyperband, arXiv 1603.06560
    median     a trial stops when its best value so far is below the median of the others' running means at that epoch
               (Golovin et al., Google Vizier, KDD 2017, section 3.2.2)
    none       every trial runs to its end
"""

import math
import re
from bisect import insort
from collections.abc import Sequence
from typing import Protocol

from pipeline.config.schema.search_section import SchedulerParams

MIN_TRIALS = 3
"""Other trials that the median rule wants to see at an epoch before it stops anyone there."""


class StoppingRule(Protocol):
    """milestones: the epochs at which trials are compared, ascending, the last epoch not among them.

    lasting_share: of trials that run in full, if every rung lets through exactly its share; 0 if that may be one alone.
    """

    @property
    def rung_epochs(self) -> list[int]: ...

    @property
    def survival_fraction(self) -> float: ...

    def stops(self, trial: str, epoch: int, objective: float) -> bool:
        """Take a report in, which may be NaN; whether the trial ends with it, as it does at the last epoch."""
        ...


def make_rule(scheduler: SchedulerParams, epochs: int) -> StoppingRule:
    """The rule that the parameters name, for trials of so many epochs."""
    grace, factor = min(scheduler.grace_period, epochs), scheduler.reduction_factor
    if scheduler.name == "none":
        return ASHA([], factor, epochs)
    if scheduler.name == "median":
        return MedianStopping(grace, epochs)
    rungs = rung_epochs(grace, factor, epochs)
    if scheduler.name == "hyperband":
        return Hyperband([ASHA(rungs[first:], factor, epochs) for first in range(len(rungs) + 1)], factor)
    return ASHA(rungs, factor, epochs)


def rung_epochs(grace_period: int, factor: float, epochs: int) -> list[float]:
    """The rungs below the last epoch, ascending: the grace period times the powers of the factor."""
    count = int(math.log(epochs / grace_period) / math.log(factor) + 1e-9) + 1
    return [rung for rung in (grace_period * factor**power for power in range(count)) if rung < epochs]


class Rung:
    """What came to one epoch: values by trial, and in order."""

    def __init__(self, epoch: float) -> None:
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
    """ASHA. rungs: their epochs, ascending."""

    def __init__(self, rungs: Sequence[float], factor: float, epochs: int) -> None:
        self.rungs = [Rung(epoch) for epoch in rungs]
        self._keep, self._epochs = 1 - 1 / factor, epochs

    @property
    def rung_epochs(self) -> list[int]:
        return [int(rung.epoch) for rung in self.rungs]

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


class Hyperband:
    """Hyperband's ladders, the one with the most rungs first; a trial's is decided by its number."""

    def __init__(self, brackets: Sequence[ASHA], factor: float) -> None:
        self.brackets = brackets
        most = len(brackets) - 1
        # With n halvings to come, a ladder begins with ceil((most + 1) / (n + 1) * factor^n) trials.
        self._turns = [
            index
            for index in range(len(brackets))
            for _ in range(math.ceil((most + 1) / (most - index + 1) * factor ** (most - index)))
        ]

    @property
    def rung_epochs(self) -> list[int]:
        return self.brackets[0].rung_epochs

    @property
    def survival_fraction(self) -> float:
        return math.fsum(self.brackets[turn].survival_fraction for turn in self._turns) / len(self._turns)

    def of(self, trial: str) -> ASHA:
        (number,) = re.findall(r"\d+", trial)
        return self.brackets[self._turns[int(number) % len(self._turns)]]

    def stops(self, trial: str, epoch: int, objective: float) -> bool:
        return self.of(trial).stops(trial, epoch, objective)


class MedianStopping:
    """The median rule, from the grace period on, over what the others were at the same epoch."""

    def __init__(self, grace_period: int, epochs: int) -> None:
        self._grace, self._epochs = grace_period, epochs
        self._at: dict[int, Rung] = {}
        self._sums: dict[str, tuple[float, int]] = {}
        self._best: dict[str, float] = {}

    @property
    def rung_epochs(self) -> list[int]:
        return list(range(self._grace, self._epochs))

    @property
    def survival_fraction(self) -> float:
        return 0.0

    def stops(self, trial: str, epoch: int, objective: float) -> bool:
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

"""Hyperband: several brackets of ASHA beside each other, whose first rungs lie higher and higher.

Each trial has its bracket by its number, in the shares of Li et al., Hyperband, arXiv 1603.06560.
"""

import math
from collections.abc import Sequence

from pipeline.tune.schedulers.asha import ASHA
from pipeline.tune.schedulers.scheduler import trial_number


class Hyperband:
    """Hyperband's brackets, the one with the most rungs first; a trial's is decided by its number."""

    def __init__(self, brackets: Sequence[ASHA], factor: float) -> None:
        self.brackets = brackets
        most = len(brackets) - 1
        # With n halvings to come, a bracket begins with ceil((most + 1) / (n + 1) * factor^n) trials.
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
        return self.brackets[self._turns[trial_number(trial) % len(self._turns)]]

    def stops(self, trial: str, epoch: int, objective: float) -> bool:
        return self.of(trial).stops(trial, epoch, objective)

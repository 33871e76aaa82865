"""Hyperband: several brackets of ASHA side by side, each with a higher first rung than the one before.

A trial's number decides its bracket, in the shares of Li et al., Hyperband, arXiv 1603.06560.
"""

import math
from collections.abc import Sequence

from pipeline.tune.schedulers.asha import ASHA
from pipeline.tune.schedulers.scheduler import trial_number


class Hyperband:
    """Hyperband over several brackets; a trial's number decides its bracket.

    Args:
        brackets: The brackets, the one with the most rungs first.
        factor: Reduction factor, which decides how many trials each bracket has.
    """

    def __init__(self, brackets: Sequence[ASHA], factor: float) -> None:
        self.brackets, self.rung_epochs = brackets, brackets[0].rung_epochs
        most = len(brackets) - 1
        # A bracket with n rungs has ceil((most + 1) / (n + 1) * factor^n) of the trials in a turn through all brackets.
        self._turns = [
            index
            for index in range(len(brackets))
            for _ in range(math.ceil((most + 1) / (most - index + 1) * factor ** (most - index)))
        ]

    def of(self, trial: str) -> ASHA:
        """Returns the bracket of a trial."""
        return self.brackets[self._turns[trial_number(trial) % len(self._turns)]]

    def stops(self, trial: str, epoch: int, objective: float) -> bool:
        """Adds a report to the trial's bracket and returns whether the trial ends with it (see `StoppingRule`).

        Args:
            trial: The trial's id.
            epoch: Number of the epoch, counted from 1.
            objective: Value of the metric, more is better; may be NaN.
        """
        return self.of(trial).stops(trial, epoch, objective)

"""Interface of schedulers: a scheduler gets every report of every trial of one study, and decides which trials go on.

Its decisions depend only on the reports, on the trials that were resumed, and on the order of both. Replaying a
journal therefore leads to the same state. A scheduler identifies trials by their ids in the journal. It knows
neither workers nor Ray.
"""

import enum
import math
import re
from collections.abc import Container, Mapping
from typing import Protocol


class Decision(enum.Enum):
    """Decision on a trial after a report. A paused trial goes on when `Scheduler.next_to_resume` names it."""

    CONTINUE = "continue"
    PAUSE = "pause"
    STOP = "stop"


class Scheduler(Protocol):
    """Scheduler of one study.

    Attributes:
        pauses: Whether trials are paused at the rungs, rather than stopped.
        rung_epochs: Epochs at which trials are compared, ascending, without the last epoch.
    """

    pauses: bool
    rung_epochs: list[int]

    def report(self, trial: str, epoch: int, metrics: Mapping[str, float]) -> Decision:
        """Adds a report and returns the decision on its trial; a repeated report changes nothing.

        Args:
            trial: The trial's id.
            epoch: Number of the epoch, counted from 1.
            metrics: Values by name, more is better.
        """
        ...

    def next_to_resume(self, paused: Container[str], *, anyone: bool = False) -> str | None:
        """Returns the id of the paused trial that goes on next; None while no trial may go on.

        Args:
            paused: Ids of the paused trials.
            anyone: Whether to return the best paused trial even if it may not go on by the rule.
        """
        ...

    def resume(self, trial: str) -> None:
        """Records that a paused trial goes on, from the highest rung that it has reached."""
        ...

    def prospects(self, trial: str) -> float:
        """Returns how far a paused trial is from going on: its rank as a share of the trials at its rung."""
        ...


class StoppingRule(Protocol):
    """Rule by one metric that ends trials early and pauses none. See `Scheduler`."""

    rung_epochs: list[int]

    def stops(self, trial: str, epoch: int, objective: float) -> bool:
        """Adds a report and returns whether the trial ends with it, as it does at the last epoch.

        Args:
            trial: The trial's id.
            epoch: Number of the epoch, counted from 1.
            objective: Value of the metric, more is better; may be NaN.
        """
        ...


class EitherRule:
    """Scheduler that stops a trial unless the rule of any of its metrics lets it go on. Every rule gets every report.

    Args:
        rules: Rules by metric, all with the same rungs; more of each metric is better. The rule of the first
            metric always counts.
    """

    pauses = False

    def __init__(self, rules: Mapping[str, StoppingRule]) -> None:
        self._rules = rules
        self._first = next(iter(rules))
        self.rung_epochs = rules[self._first].rung_epochs

    def report(self, trial: str, epoch: int, metrics: Mapping[str, float]) -> Decision:
        """Adds a report and returns the decision on its trial. Rules of metrics that are missing do not count.

        Args:
            trial: The trial's id.
            epoch: Number of the epoch, counted from 1.
            metrics: Values by name, more is better.
        """
        said = {name: rule.stops(trial, epoch, metrics.get(name, math.nan)) for name, rule in self._rules.items()}
        heard = (
            stop for name, stop in said.items() if name == self._first or not math.isnan(metrics.get(name, math.nan))
        )
        return Decision.STOP if all(heard) else Decision.CONTINUE

    def next_to_resume(self, paused: Container[str], *, anyone: bool = False) -> str | None:
        return None

    def resume(self, trial: str) -> None: ...

    def prospects(self, trial: str) -> float:
        return math.inf


def trial_number(trial: str) -> int:
    """Returns the number in a trial's id."""
    (number,) = re.findall(r"\d+", trial)
    return int(number)

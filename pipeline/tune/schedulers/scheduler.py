"""What a scheduler is: it hears every report of every trial of one study, and says which trials go on.

What it says depends on the reports, on what was resumed, and on their order alone, so that a journal read again leads
to the same state. It knows trials by their ids of the journal, no workers, and no Ray.
"""

import enum
import math
import re
from collections.abc import Container, Mapping
from typing import Protocol


class Decision(enum.Enum):
    """What becomes of a trial after a report. One that is paused goes on when `Scheduler.next_to_resume` names it."""

    CONTINUE = "continue"
    PAUSE = "pause"
    STOP = "stop"


class Scheduler(Protocol):
    """A scheduler of one study.

    rung_epochs: the epochs at which trials are compared, ascending, the last epoch not among them.

    survival_fraction: of trials that run in full, if every rung lets through exactly its share; 0 if that may be one
    alone.

    pauses: whether trials are paused at the rungs, rather than stopped.
    """

    pauses: bool

    @property
    def rung_epochs(self) -> list[int]: ...

    @property
    def survival_fraction(self) -> float: ...

    def report(self, trial: str, epoch: int, metrics: Mapping[str, float]) -> Decision:
        """Take a report in; what becomes of the trial. One that was heard before changes nothing."""
        ...

    def next_to_resume(self, paused: Container[str], *, anyone: bool = False) -> str | None:
        """The paused trial that goes on next; None while none may. anyone: the best one whether it may or not."""
        ...

    def resume(self, trial: str) -> None:
        """A trial that was paused goes on, from the highest rung that it has come to."""
        ...

    def prospects(self, trial: str) -> float:
        """How far a paused trial is from going on: its rank as a share of those at its rung."""
        ...


class StoppingRule(Protocol):
    """A rule by one metric that ends trials early, and lets none wait. See `Scheduler`."""

    @property
    def rung_epochs(self) -> list[int]: ...

    @property
    def survival_fraction(self) -> float: ...

    def stops(self, trial: str, epoch: int, objective: float) -> bool:
        """Take a report in, which may be NaN; whether the trial ends with it, as it does at the last epoch."""
        ...


class EitherRule:
    """Stops a trial unless the rule of any of its metrics lets it go on. Every rule hears every report.

    Args:
        rules: By metric, of each of which more is better; all of them have the same rungs. The first always has a say.
    """

    pauses = False

    def __init__(self, rules: Mapping[str, StoppingRule]) -> None:
        self._rules = rules
        self._first = next(iter(rules))

    @property
    def rung_epochs(self) -> list[int]:
        return self._rules[self._first].rung_epochs

    @property
    def survival_fraction(self) -> float:
        """Of trials that run in full at least: as many as by the first alone, if the metrics name the same ones."""
        return self._rules[self._first].survival_fraction

    def report(self, trial: str, epoch: int, metrics: Mapping[str, float]) -> Decision:
        """Take a report in. A metric that it lacks has no say."""
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
    """A trial's number, by its id."""
    (number,) = re.findall(r"\d+", trial)
    return int(number)

"""The stopping rules by the names that `search.scheduler.name` gives them: asha, hyperband, median, none.

What a rule decides depends on the reports and their order alone, so that a journal read again leads to the same state.
It knows trials by their ids of the journal; a report that it has heard before changes nothing.
"""

import math
from collections.abc import Mapping
from typing import Protocol

from pipeline.config.schema.search_section import SchedulerParams
from pipeline.tune.journal.records import OBJECTIVE
from pipeline.tune.schedulers.asha import ASHA
from pipeline.tune.schedulers.hyperband import Hyperband
from pipeline.tune.schedulers.median import MedianStopping
from pipeline.tune.schedulers.rungs import rung_epochs


class StoppingRule(Protocol):
    """A rule that hears every epoch of every trial of one study, and nothing else.

    rung_epochs: the epochs at which trials are compared, ascending, the last epoch not among them.

    survival_fraction: of trials that run in full, if every rung lets through exactly its share; 0 if that may be one
    alone.
    """

    @property
    def rung_epochs(self) -> list[int]: ...

    @property
    def survival_fraction(self) -> float: ...

    def stops(self, trial: str, epoch: int, objective: float) -> bool:
        """Take a report in, which may be NaN; whether the trial ends with it, as it does at the last epoch."""
        ...


def make_rule(scheduler: SchedulerParams, epochs: int, grace: int) -> StoppingRule:
    """The rule that the parameters name, for trials of so many epochs. grace: the first rung (`rungs.first_rung`)."""
    grace, factor = min(grace, epochs), scheduler.reduction_factor
    if scheduler.name == "none":
        return ASHA([], factor, epochs)
    if scheduler.name == "median":
        return MedianStopping(grace, epochs)
    rungs = rung_epochs(grace, factor, epochs)
    if scheduler.name == "hyperband":
        return Hyperband([ASHA(rungs[first:], factor, epochs) for first in range(len(rungs) + 1)], factor)
    return ASHA(rungs, factor, epochs)


class EitherRule:
    """Lets a trial go on if the rule of any of its metrics does. Every rule hears every report.

    Args:
        rules: By metric, of each of which more is better; all of them have the same rungs. The first is val/accuracy.
    """

    def __init__(self, rules: Mapping[str, StoppingRule]) -> None:
        self._rules = rules

    @property
    def rung_epochs(self) -> list[int]:
        return self._rules[OBJECTIVE].rung_epochs

    @property
    def survival_fraction(self) -> float:
        """Of trials that run in full at least: as many as by accuracy alone, if the metrics name the same ones."""
        return self._rules[OBJECTIVE].survival_fraction

    def stops(self, trial: str, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Take a report in; whether the trial ends with it. A metric that it lacks has no say."""
        said = {name: rule.stops(trial, epoch, metrics.get(name, math.nan)) for name, rule in self._rules.items()}
        return all(
            stop for name, stop in said.items() if name == OBJECTIVE or not math.isnan(metrics.get(name, math.nan))
        )

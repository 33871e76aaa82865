"""Runs that repeat a configuration with further seeds, so that none is named the best for a lucky one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, VAL_ACCURACY, TrialRecord

FIRST_SEED = 1000
"""Added to base.seed: retraining uses the seeds that follow it, so these two never meet."""


def confirmation_runs(of: TrialRecord, seeds: int, *, base_seed: int) -> list[TrialRecord]:
    """The runs that repeat a trial or control with further seeds."""
    numbers = [base_seed + FIRST_SEED + index for index in range(1, seeds + 1)]
    return [
        TrialRecord(f"{of.id}-seed{seed}", None, dict(of.values), role=CONFIRMATION, seed=seed, of=of.id)
        for seed in numbers
    ]


@dataclass(frozen=True)
class ConfirmedResult:
    """A configuration with its runs by seed. trial: the search's own. confirmations: those that have ended, in the
    order of their seeds. objective: the metric that its values are of.
    """

    trial: TrialRecord
    confirmations: tuple[TrialRecord, ...] = ()
    objective: str = VAL_ACCURACY

    @property
    def runs(self) -> tuple[TrialRecord, ...]:
        """The search's own, and its confirmations."""
        return (self.trial, *self.confirmations)

    @property
    def search_value(self) -> float:
        """The value that the search saw."""
        return self.trial.metric(self.objective)

    @property
    def confirmation_values(self) -> tuple[float, ...]:
        """The values of its confirmations; NaN of one that failed."""
        return self.further(self.objective)

    @property
    def mean(self) -> float:
        """The value over all seeds; -inf if any of them failed: a configuration that fails with another seed is no
        best one.
        """
        return self.mean_of(self.objective)

    @property
    def confirmation_mean(self) -> float | None:
        """The value over the further seeds; None without any."""
        return self.further_mean(self.objective)

    def mean_of(self, metric: str) -> float:
        """A metric over all seeds; -inf where any of them has no such value."""
        # fsum, since a plain sum depends on the order of the values, and a tie must not be broken by rounding.
        values = (self.trial.metric(metric), *self.further(metric))
        return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else -math.inf

    def further(self, metric: str) -> tuple[float, ...]:
        """A metric by further seed; NaN where that has none."""
        return tuple(run.metric(metric) if run.state == COMPLETE else math.nan for run in self.confirmations)

    def further_mean(self, metric: str) -> float | None:
        """A metric over the further seeds alone, which the search has not looked at; None without any."""
        values = self.further(metric)
        return math.fsum(values) / len(values) if values else None


def confirm_results(
    of: TrialRecord, records: Mapping[str, TrialRecord], seeds: int, *, base_seed: int, objective: str = VAL_ACCURACY
) -> ConfirmedResult:
    """A configuration with those of its confirmations that have ended."""
    runs = [records.get(run.id) for run in confirmation_runs(of, seeds, base_seed=base_seed)]
    return ConfirmedResult(of, tuple(run for run in runs if run is not None and run.state), objective)

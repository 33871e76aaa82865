"""Confirmations: runs that repeat a configuration with further seeds, so that none is named the best by luck."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, VAL_ACCURACY, TrialRecord

FIRST_SEED = 1000
"""Offset from base.seed. Retraining uses the seeds right after base.seed, so the two sets of seeds do not overlap."""


def confirmation_runs(of: TrialRecord, seeds: int, *, base_seed: int) -> list[TrialRecord]:
    """Returns the runs that repeat a trial or control with further seeds.

    Args:
        of: The trial or control.
        seeds: Number of further seeds.
        base_seed: Seed of the search.
    """
    numbers = [base_seed + FIRST_SEED + index for index in range(1, seeds + 1)]
    return [
        TrialRecord(f"{of.id}-seed{seed}", None, dict(of.values), role=CONFIRMATION, seed=seed, of=of.id)
        for seed in numbers
    ]


@dataclass(frozen=True)
class ConfirmedResult:
    """Configuration with its runs by seed.

    Attributes:
        trial: The search's own run.
        confirmations: Confirmations that have ended, in the order of their seeds.
        objective: Metric of its values.
    """

    trial: TrialRecord
    confirmations: tuple[TrialRecord, ...] = ()
    objective: str = VAL_ACCURACY

    @property
    def runs(self) -> tuple[TrialRecord, ...]:
        """The search's own run, and the confirmations."""
        return (self.trial, *self.confirmations)

    @property
    def mean(self) -> float:
        """Mean over all seeds; -inf if any run failed, since such a configuration must not be named the best."""
        return self.mean_of(self.objective)

    def mean_of(self, metric: str) -> float:
        """Returns the mean of a metric over all seeds; -inf if any run lacks it."""
        # A plain sum depends on the order of the values, and rounding must not break a tie.
        values = (self.trial.metric(metric), *self.further(metric))
        return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else -math.inf

    def further(self, metric: str) -> tuple[float, ...]:
        """Returns a metric by further seed; NaN where it is missing."""
        return tuple(run.metric(metric) if run.state == COMPLETE else math.nan for run in self.confirmations)

    def further_mean(self, metric: str) -> float | None:
        """Returns the mean of a metric over the further seeds, which the search has not used; None without any."""
        values = self.further(metric)
        return math.fsum(values) / len(values) if values else None


def confirm_results(
    of: TrialRecord, records: Mapping[str, TrialRecord], seeds: int, *, base_seed: int, objective: str = VAL_ACCURACY
) -> ConfirmedResult:
    """Returns a configuration with those of its confirmations that have ended.

    Args:
        of: The trial or control.
        records: All records by id.
        seeds: Number of further seeds.
        base_seed: Seed of the search.
        objective: Metric of the values.
    """
    runs = [records.get(run.id) for run in confirmation_runs(of, seeds, base_seed=base_seed)]
    return ConfirmedResult(of, tuple(run for run in runs if run is not None and run.state), objective)

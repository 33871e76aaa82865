"""ASHA as in its paper: a trial pauses at a rung, and goes on once it is among the best 1/factor there.

A rung is an epoch. Li et al., A System for Massively Parallel Hyperparameter Tuning, arXiv 1810.05934,
algorithm 2. A trial that is among the best when it reaches a rung goes on at once, since it would be the next
to be promoted anyway.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Container, Iterator, Mapping, Sequence

from pipeline.tune.schedulers.scheduler import Decision, trial_number

Place = tuple[float, int, str]
"""Place of a trial at a rung, sorted with the best first: minus its value, its number (of equals the earlier), its id.
"""


class _Rung:
    """Trials that reached an epoch, ranked by every metric, and the ones among them that went on."""

    def __init__(self, epoch: int, metrics: Sequence[str]) -> None:
        self.epoch = epoch
        self.entered: dict[str, Mapping[str, Place]] = {}
        self.promoted: set[str] = set()
        self.ranked: dict[str, list[Place]] = {name: [] for name in metrics}

    def enter(self, trial: str, metrics: Mapping[str, float]) -> None:
        """Adds a trial with its values.

        NaN is not ranked, and does not count towards the number of trials of which the best are taken. If the
        first metric is NaN, none of the trial's values is ranked.
        """
        failed = math.isnan(metrics.get(next(iter(self.ranked)), math.nan))
        values = {name: math.nan if failed else metrics.get(name, math.nan) for name in self.ranked}
        number = trial_number(trial)
        places = {name: (-value, number, trial) for name, value in values.items() if not math.isnan(value)}
        self.entered[trial] = places
        for name, place in places.items():
            insort(self.ranked[name], place)

    def best(self, share: float) -> Iterator[str]:
        """Yields the trials among the best share by any metric, by the first metric first, and the best first."""
        for ranked in self.ranked.values():
            yield from (trial for _, _, trial in ranked[: math.floor(share * len(ranked) + 1e-9)])


class PausingASHA:
    """Asynchronous successive halving, by one or several metrics, for one bracket. See `Scheduler`.

    Args:
        rungs: Epochs of the rungs, ascending.
        factor: The best 1/factor of a rung goes on.
        epochs: Epochs of a full trial.
        metrics: Metrics of which more is better; a trial goes on if it is among the best by any of them.
    """

    pauses = True

    def __init__(self, rungs: Sequence[int], factor: float, epochs: int, metrics: Sequence[str]) -> None:
        self.rungs, self.rung_epochs = [_Rung(epoch, metrics) for epoch in rungs], list(rungs)
        self._share, self._epochs = 1 / factor, epochs
        self._at: dict[str, _Rung] = {}

    def report(self, trial: str, epoch: int, metrics: Mapping[str, float]) -> Decision:
        """Adds a report and returns the decision on its trial (see `Scheduler`).

        Args:
            trial: The trial's id.
            epoch: Number of the epoch, counted from 1.
            metrics: Values by name, more is better.
        """
        if epoch >= self._epochs:
            return Decision.STOP
        rung = next((rung for rung in self.rungs if rung.epoch == epoch), None)
        if rung is None:
            return Decision.CONTINUE
        if trial not in rung.entered:
            rung.enter(trial, metrics)
            self._at[trial] = rung
            if trial in rung.best(self._share):
                rung.promoted.add(trial)
        return Decision.CONTINUE if trial in rung.promoted else Decision.PAUSE

    def next_to_resume(self, paused: Container[str], *, anyone: bool = False) -> str | None:
        """Returns the best paused trial of the highest rung that has one; None while no trial may go on.

        Args:
            paused: Ids of the paused trials.
            anyone: Whether the trial need not be among the best 1/factor.
        """
        for rung in reversed(self.rungs):
            for trial in rung.best(1.0 if anyone else self._share):
                if trial not in rung.promoted and trial in paused:
                    return trial
        return None

    def resume(self, trial: str) -> None:
        if (rung := self._at.get(trial)) is not None:
            rung.promoted.add(trial)

    def prospects(self, trial: str) -> float:
        rung = self._at.get(trial)
        if rung is None:
            return math.inf
        found = [(rung.ranked[name], place) for name, place in rung.entered[trial].items()]
        return min((bisect_left(ranked, place) / len(ranked) for ranked, place in found), default=1.0)

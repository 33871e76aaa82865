"""Searches that others publish, restated, on recorded curves: what they need of a trial is asked for epoch by epoch.

`play` trains what a rival asks for with so many workers side by side, each an epoch in each unit of time, and counts.
"""

import heapq
import itertools
import math
from bisect import insort
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import optuna
from curve_tables import Choices, Problem, random_rows
from numpy.typing import NDArray
from simulate import Table

OF_I_EPOCH, IN_FULL = 3, 3
"""i-Epoch's epochs of every setting, and how many of the best then run in full."""


class Rival(Protocol):
    """A search by others: says which setting trains next, and whether one that trains goes on."""

    def next_job(self) -> tuple[int, int] | None:
        """A row to train, and how many epochs of it have been trained already; None while there is nothing to do."""

    def goes_on(self, row: int, epoch: int, value: float) -> bool:
        """Hear of an epoch. Whether the row trains on at once; -inf for one that has diverged, which does not."""


def play(rival: Rival, curves: NDArray[np.float64], budget: int, workers: int = 1) -> Choices:
    """What is held for the best while a rival spends its budget: the best of what ran in full.

    curves: (settings, epochs). budget: in epochs, of all workers together. What is asked for after it is not trained.
    """
    length = curves.shape[1]
    order = itertools.count()
    due: list[tuple[int, int, int, int]] = []
    held: list[tuple[int, int]] = []
    best, now = -math.inf, 0
    for spent in range(1, budget + 1):
        while len(due) < workers and (job := rival.next_job()) is not None:
            heapq.heappush(due, (now + 1, next(order), job[0], job[1] + 1))
        if not due:
            break
        now, _, row, epoch = heapq.heappop(due)
        value = float(curves[row, epoch - 1])
        diverged = math.isnan(value)
        goes_on = rival.goes_on(row, epoch, -math.inf if diverged else value)
        if epoch == length and value > best:
            best = value
            held.append((spent, row))
        if goes_on and epoch < length and not diverged:
            heapq.heappush(due, (now + 1, next(order), row, epoch + 1))
    return held


class StoppingASHA:
    """ASHA as Ray Tune has it: a trial stops at a rung where it is below the quantile of those that were there before.

    Of n values the quantile is interpolated, and the first trial of a rung always goes on.
    """

    def __init__(self, rows: Iterator[int], epochs: int, first: int, factor: int) -> None:
        self._rows, self._keep = rows, 1 - 1 / factor
        self._rungs: dict[int, list[float]] = {epoch: [] for epoch in rungs(first, factor, epochs)}

    def next_job(self) -> tuple[int, int] | None:
        row = next(self._rows, None)
        return None if row is None else (row, 0)

    def goes_on(self, row: int, epoch: int, value: float) -> bool:
        there = self._rungs.get(epoch)
        if there is None or value == -math.inf:
            return value > -math.inf
        place = self._keep * (len(there) - 1)
        below = int(place)
        cut = -math.inf
        if there:
            cut = there[below] + (place - below) * (there[min(below + 1, len(there) - 1)] - there[below])
        insort(there, value)
        return value >= cut


class PausingASHA:
    """ASHA as its paper has it: a trial waits at its rung until it is among the best 1/factor there.

    Li et al., A System for Massively Parallel Hyperparameter Tuning, arXiv 1810.05934, algorithm 2: a worker takes the
    best waiting one of the highest rung that has any which may go on, and else a new setting.
    """

    def __init__(self, rows: Iterator[int], epochs: int, first: int, factor: int) -> None:
        self._rows, self._factor = rows, factor
        self._epochs = rungs(first, factor, epochs)
        self._ranked: list[list[tuple[float, int, int]]] = [[] for _ in self._epochs]
        self._waiting: list[set[int]] = [set() for _ in self._epochs]

    def next_job(self) -> tuple[int, int] | None:
        for epoch, ranked, waiting in zip(self._epochs[::-1], self._ranked[::-1], self._waiting[::-1], strict=True):
            for _, _, row in ranked[: len(ranked) // self._factor]:
                if row in waiting:
                    waiting.remove(row)
                    return row, epoch
        fresh = next(self._rows, None)
        return None if fresh is None else (fresh, 0)

    def goes_on(self, row: int, epoch: int, value: float) -> bool:
        if epoch not in self._epochs or value == -math.inf:
            return True
        rung = self._epochs.index(epoch)
        insort(self._ranked[rung], (-value, len(self._ranked[rung]), row))
        self._waiting[rung].add(row)
        return False


class IEpoch:
    """Three epochs for so many settings, and the best three of all so far in full; then twice as many.

    Egele et al., The Unreasonable Effectiveness of Early Discarding after One Epoch in Neural Network Hyperparameter
    Optimization, arXiv 2404.04111, for a number of settings that nobody knows. Workers wait for each other in between.
    """

    def __init__(self, rows: Iterator[int], epochs: int, number: int) -> None:
        self._rows, self._number, self._epochs = rows, number, epochs
        self._values: dict[int, float] = {}
        self._began: set[int] = set()
        self._jobs: list[tuple[int, int]] = []
        self._running, self._in_full = 0, True

    def next_job(self) -> tuple[int, int] | None:
        if not self._jobs and not self._running:
            self._in_full = not self._in_full
            if self._in_full:
                best = sorted(self._values, key=lambda row: -self._values[row])[:IN_FULL]
                self._jobs = [(row, OF_I_EPOCH) for row in best if row not in self._began]
                self._began |= set(best)
                self._number *= 2
            else:
                fresh = itertools.islice(self._rows, self._number - len(self._values))
                self._jobs = [(row, 0) for row in fresh]
                if not self._jobs:
                    return None
            if not self._jobs:
                return self.next_job()
        if not self._jobs:
            return None
        self._running += 1
        return self._jobs.pop(0)

    def goes_on(self, row: int, epoch: int, value: float) -> bool:
        if epoch == OF_I_EPOCH:
            self._values[row] = value
        ended = epoch in (OF_I_EPOCH, self._epochs) or value == -math.inf
        if value == -math.inf:
            self._values.setdefault(row, value)
        self._running -= ended
        return not ended


def i_epoch_knowing(rows: Iterator[int], curves: NDArray[np.float64], budget: int) -> Choices:
    """i-Epoch where the number of settings is the one that a budget allows: what it holds at the end of every budget.

    Each of the choices is of another search, since with a larger budget it would have begun with more settings.
    """
    length = curves.shape[1]
    early, last = (np.nan_to_num(curves[:, epoch - 1], nan=-np.inf) for epoch in (OF_I_EPOCH, length))
    best: list[tuple[float, int, int]] = []
    held = []
    for number, row in enumerate(rows, start=1):
        insort(best, (-float(early[row]), number, row))
        del best[IN_FULL:]
        spent = number * OF_I_EPOCH + IN_FULL * (length - OF_I_EPOCH)
        if spent > budget:
            break
        if number >= IN_FULL:
            held.append((spent, max((each[2] for each in best), key=lambda each: last[each])))
    return held


class OptunaStudy:
    """Optuna's TPE as it comes (in Optuna 5 with dimensions together) and a pruner of its, asked and told."""

    def __init__(self, table: Table, seed: int, pruner: optuna.pruners.BasePruner) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed)
        self._study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner, study_name="one")
        self._table, self._distributions = table, table.space.distributions()
        self._trials: dict[int, optuna.trial.Trial] = {}

    def next_job(self) -> tuple[int, int] | None:
        if len(self._trials) == len(self._table.values):
            return None
        proposed = self._study.ask(self._distributions)
        row = self._table.nearest(self._table.space.decode(proposed.params), but=self._trials)
        self._study.tell(proposed, state=optuna.trial.TrialState.FAIL)  # which no sampler looks at
        self._study.enqueue_trial(self._table.space.encode(self._table.values[row]))
        self._trials[row] = self._study.ask(self._distributions)
        return row, 0

    def goes_on(self, row: int, epoch: int, value: float) -> bool:
        trial = self._trials[row]
        if value == -math.inf:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return False
        trial.report(value, epoch)
        pruned = trial.should_prune()
        if pruned:
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif epoch == self._table.epochs:
            self._study.tell(trial, value)
        return not pruned


def rungs(first: int, factor: int, epochs: int) -> list[int]:
    """The epochs first * factor^k that come before the last epoch."""
    return list(itertools.takewhile(lambda epoch: epoch < epochs, (first * factor**k for k in itertools.count())))


Search = Callable[[Problem, int, int, int], Choices]
"""A search of a problem with a seed, a budget in epochs and so many workers."""


def by_rule(rule: Callable[[Iterator[int], int], Rival]) -> Search:
    """A search that draws at random. rule: of the rows in the order of the draws, and the epochs of a full training."""

    def run(problem: Problem, seed: int, budget: int, workers: int) -> Choices:
        rows = random_rows(problem.table, seed)
        return play(rule(rows, problem.table.epochs), problem.seen(seed), budget, workers)

    return run


def by_optuna(pruner: Callable[[int], optuna.pruners.BasePruner]) -> Search:
    """A search of Optuna's. pruner: of the epochs of a full training."""

    def run(problem: Problem, seed: int, budget: int, workers: int) -> Choices:
        study = OptunaStudy(problem.table, seed, pruner(problem.table.epochs))
        return play(study, problem.seen(seed), budget, workers)

    return run


def knowing_the_number(problem: Problem, seed: int, budget: int, workers: int) -> Choices:
    """i-Epoch with the number of settings that the budget allows; workers change nothing of it."""
    return i_epoch_knowing(random_rows(problem.table, seed), problem.seen(seed), budget)


RAY = "ASHA as Ray Tune sets it (1, a quarter), random draws"
RIVALS: dict[str, Search] = {
    RAY: by_rule(lambda rows, epochs: StoppingASHA(rows, epochs, 1, 4)),
    "ASHA of its paper, which pauses (1 and a third), random draws": by_rule(
        lambda rows, epochs: PausingASHA(rows, epochs, 1, 3)
    ),
    "ASHA of its paper, which pauses (1 and a quarter), random draws": by_rule(
        lambda rows, epochs: PausingASHA(rows, epochs, 1, 4)
    ),
    "i-Epoch, number of settings known": knowing_the_number,
    "i-Epoch, number doubled up to, from 8": by_rule(lambda rows, epochs: IEpoch(rows, epochs, 8)),
    "Optuna's TPE with its Hyperband": by_optuna(lambda epochs: optuna.pruners.HyperbandPruner(1, epochs, 3)),
    "Optuna's TPE with its median pruner": by_optuna(lambda epochs: optuna.pruners.MedianPruner()),
}
"""By what they are called."""

"""What a search may spend, what it has spent, and whether it may start another trial.

Nothing is cut off in its middle. A trial is started only if, by the pace so far and with everything that is running and
everything that is still to follow (controls and confirmations), it would end within the budget.
"""

import math
from bisect import bisect_right, insort
from dataclasses import dataclass

HOUR = 3600.0
EPOCH_BUDGET = "search.budget.full_trainings"
"""How the reason begins for which a search ends whose epochs are spent, as every search with such a budget does."""


@dataclass(frozen=True)
class Budget:
    """Limits of a search beside the number of trials; None for no limit.

    hours: of wall-clock time with a driver running, all sessions together. gpu_hours: GPU-hours of trials. cost: in the
    unit of price_per_gpu_hour. target: a completed
    trial's first objective that is good enough, minimize: from above. patience: trials that may end
    one after the other without a better one among them.
    full_trainings: epochs, as multiples of a whole run's.
    """

    hours: float | None = None
    gpu_hours: float | None = None
    cost: float | None = None
    price_per_gpu_hour: float = 0.0
    target: float | None = None
    minimize: bool = False
    patience: int | None = None
    full_trainings: float | None = None

    @property
    def gpu_limit(self) -> tuple[float, str] | None:
        """The tighter of the limits that are about GPUs, in GPU-seconds, and its parameter's name."""
        limits = [] if self.gpu_hours is None else [(self.gpu_hours * HOUR, "gpu_hours")]
        if self.cost is not None and self.price_per_gpu_hour > 0:
            limits.append((self.cost / self.price_per_gpu_hour * HOUR, "cost"))
        return min(limits, key=lambda limit: limit[0], default=None)

    def price(self, gpu_seconds: float) -> float:
        """What so many GPU-seconds cost."""
        return gpu_seconds / HOUR * self.price_per_gpu_hour


def full_epochs(full_trainings: float | None, epochs: int) -> int | None:
    """Epochs that so many trainings in full are, each of so many epochs, rounded down; None without a limit."""
    return None if full_trainings is None else math.floor(full_trainings * epochs + 1e-9)


class BestSoFar:
    """The best of a study's trials by their numbers, whatever the order in which they end. value: None if none."""

    def __init__(self) -> None:
        self.value: float | None = None
        self._number = -1
        self._ended: list[int] = []
        self._paused: list[int] = []

    def add(self, number: int, value: float | None) -> None:
        """A trial has ended. value: its first objective, more is better; None if it has not completed."""
        insort(self._ended, number)
        if value is not None and (self.value is None or (value, -number) > (self.value, -self._number)):
            self.value, self._number = value, number

    def pause(self, number: int) -> None:
        """A trial waits at a rung."""
        insort(self._paused, number)

    def resume(self, number: int) -> None:
        """A trial that waited goes on, or has ended."""
        if number in self._paused:
            self._paused.remove(number)

    @property
    def since(self) -> int:
        """How many trials that were proposed after the best one, of equal ones after the first, have ended, or wait
        while there is a best one.
        """
        waiting = 0 if self.value is None else len(self._paused) - bisect_right(self._paused, self._number)
        return waiting + len(self._ended) - bisect_right(self._ended, self._number)


class EpochAllowance:
    """The epochs that the trials of a study may spend, and those that they have spent or been promised.

    most: None without a limit.
    """

    def __init__(self, most: float | None) -> None:
        self.most = most
        self.total = 0
        self._promised: dict[str, int] = {}

    def promise(self, trial: str, epochs: int) -> None:
        """A trial may come to so many epochs, or has ended with them."""
        self.total += epochs - self._promised.get(trial, 0)
        self._promised[trial] = epochs

    def promised(self, trial: str) -> int:
        return self._promised.get(trial, 0)

    def fits(self, further: int) -> bool:
        """Whether so many epochs more are within the allowance."""
        return self.most is None or self.total + further <= self.most + 1e-9


@dataclass(frozen=True)
class BudgetState:
    """Where a search stands.

    seconds, gpu_seconds: spent. pending_epochs: of what runs, until it may be held. pending_runs: whole runs that must
    follow when all of that has ended. trial_epochs: of a whole run. next_epochs: of what is to start now, until it may
    be held. reserved_epochs: of what must follow so that a trial runs in full. seconds_per_epoch: seconds of a worker
    an epoch, None before the first. gpus: a trial's share. max_concurrent: trials together. best: the best completed
    objective of the study, turned so that more is better; None if none. since_best: trials that have ended since.
    """

    seconds: float
    gpu_seconds: float
    pending_epochs: int
    pending_runs: int
    trial_epochs: int
    next_epochs: int
    seconds_per_epoch: float | None
    gpus: float
    max_concurrent: int
    best: float | None = None
    since_best: int = 0
    reserved_epochs: int = 0

    @property
    def seconds_to_come(self) -> float:
        """Until what starts now, what runs, and what must follow have ended."""
        # However many run together, a run takes as long as it takes, and what follows waits for the last of them.
        longest = self.trial_epochs if self.pending_epochs else self.next_epochs
        now = max((self.pending_epochs + self.next_epochs) / self.max_concurrent, longest) + self.reserved_epochs
        waves = math.ceil(self.pending_runs / self.max_concurrent)
        return (now + waves * self.trial_epochs) * (self.seconds_per_epoch or 0.0)

    @property
    def gpu_seconds_to_come(self) -> float:
        runs = self.pending_runs * self.trial_epochs
        return (self.pending_epochs + self.next_epochs + self.reserved_epochs + runs) * (
            (self.seconds_per_epoch or 0.0) * self.gpus
        )


def exhausted_limit(budget: Budget, state: BudgetState) -> str | None:
    """The limit for which no further trial may start, by its parameter's name and in words; None to go on."""
    if budget.target is not None and state.best is not None:
        sign = -1 if budget.minimize else 1
        if state.best >= sign * budget.target:
            return f"search.budget.target: {sign * state.best:.4f} reached {budget.target:g}"
    if budget.patience is not None and state.since_best >= budget.patience:
        return f"search.budget.patience: {state.since_best} trials in a row were no better"
    if budget.hours is not None and state.seconds + state.seconds_to_come > budget.hours * HOUR:
        return f"search.budget.hours: {state.seconds / HOUR:.2f} of {budget.hours:g} hours spent or promised"
    if (limit := budget.gpu_limit) is not None and state.gpu_seconds + state.gpu_seconds_to_come > limit[0]:
        return f"search.budget.{limit[1]}: {state.gpu_seconds / HOUR:.2f} GPU-hours spent, the rest promised"
    return None

"""Budget of a search: its limits, the amount spent, and whether another trial may start.

No trial is cut off in its middle. A trial starts only if the search would end within the budget, by the pace so
far. This counts everything that is running or still to follow (controls and confirmations).
"""

import math
from bisect import bisect_right, insort
from dataclasses import dataclass

HOUR = 3600.0
EPOCH_BUDGET = "search.budget.full_trainings"
"""Beginning of the reason given when the epochs are spent, which is how every search with such a budget ends."""
TOO_LITTLE = "the rest is needed for the running trials and the confirmations"
"""End of the reason given when what is left of a limit is needed for runs that must still end or follow."""


@dataclass(frozen=True)
class Budget:
    """Limits of a search besides the number of trials; None for no limit.

    Attributes:
        hours: Wall-clock hours in which a driver is running, over all sessions.
        gpu_hours: GPU-hours of trials.
        cost: Cost of trials, in the unit of `price_per_gpu_hour`.
        price_per_gpu_hour: Price of one GPU for one hour; `cost` limits nothing where it is 0.
        target: Value of a completed trial's first objective that is good enough.
        minimize: Whether the first objective is minimised, so that `target` is reached from above.
        patience: Number of consecutive trials that may end without a better one among them.
        full_trainings: Epochs, in multiples of a full training's.
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
        """Tighter one of the limits on GPUs, in GPU-seconds, and its parameter's name; None without such a limit."""
        limits = [] if self.gpu_hours is None else [(self.gpu_hours * HOUR, "gpu_hours")]
        if self.cost is not None and self.price_per_gpu_hour > 0:
            limits.append((self.cost / self.price_per_gpu_hour * HOUR, "cost"))
        return min(limits, key=lambda limit: limit[0], default=None)

    def price(self, gpu_seconds: float) -> float:
        """Returns the cost of an amount of GPU-seconds."""
        return gpu_seconds / HOUR * self.price_per_gpu_hour


def full_epochs(full_trainings: float | None, epochs: int) -> int | None:
    """Returns the epochs of a number of full trainings, rounded down.

    Args:
        full_trainings: Number of full trainings; None for no limit.
        epochs: Epochs of one full training.

    Returns:
        The epochs; None for no limit.
    """
    return None if full_trainings is None else math.floor(full_trainings * epochs + 1e-9)


class BestSoFar:
    """Best one of a study's trials by their numbers, whatever the order in which they end.

    Attributes:
        value: First objective of the best trial, more is better; None if no trial has completed.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self._number = -1
        self._ended: list[int] = []
        self._paused: list[int] = []

    def add(self, number: int, value: float | None) -> None:
        """Adds a trial that has ended.

        Args:
            number: The trial's number in its study.
            value: Its first objective, more is better; None if it has not completed.
        """
        insort(self._ended, number)
        if value is not None and (self.value is None or (value, -number) > (self.value, -self._number)):
            self.value, self._number = value, number

    def pause(self, number: int) -> None:
        """Adds a trial that waits at a rung."""
        insort(self._paused, number)

    def resume(self, number: int) -> None:
        """Removes a trial from those that wait, as it goes on or has ended."""
        if number in self._paused:
            self._paused.remove(number)

    @property
    def since(self) -> int:
        """Number of trials that were proposed after the best one and have ended or wait; of equal bests the
        first counts.

        Trials that wait count only once there is a best one.
        """
        waiting = 0 if self.value is None else len(self._paused) - bisect_right(self._paused, self._number)
        return waiting + len(self._ended) - bisect_right(self._ended, self._number)


class EpochAllowance:
    """Epochs that the trials of a study may spend, and epochs that they have spent or been promised.

    Args:
        most: Largest number of epochs; None for no limit.

    Attributes:
        total: Epochs spent or promised so far.
    """

    def __init__(self, most: float | None) -> None:
        self.most = most
        self.total = 0
        self._promised: dict[str, int] = {}

    def promise(self, trial: str, epochs: int) -> None:
        """Promises a trial this many epochs in total, or records that it has ended with them."""
        self.total += epochs - self._promised.get(trial, 0)
        self._promised[trial] = epochs

    def promised(self, trial: str) -> int:
        """Returns the epochs promised to a trial; 0 if there are none."""
        return self._promised.get(trial, 0)

    def fits(self, further: int) -> bool:
        """Returns whether this many further epochs are within the allowance."""
        return self.most is None or self.total + further <= self.most + 1e-9


@dataclass(frozen=True)
class BudgetState:
    """State of a search as the budget sees it.

    Attributes:
        seconds: Wall-clock seconds spent.
        gpu_seconds: GPU-seconds spent.
        pending_epochs: Epochs left in running trials until they may be paused.
        pending_runs: Full runs still required afterwards (confirmations).
        trial_epochs: Epochs of a full run.
        next_epochs: Epochs of the trial that is to start now, until it may be paused.
        seconds_per_epoch: Seconds of a worker for one epoch, mean so far; None before the first epoch.
        gpus: GPUs of one trial; may be a fraction.
        max_concurrent: Number of trials at the same time.
        best: Best first objective of a completed trial of the study, turned so that more is better; None if
            there is none.
        since_best: Number of trials that have ended since the best one.
        reserved_epochs: Epochs that must remain so that one trial can run in full.
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
        """Wall-clock seconds until the next trial, the running trials and the required runs have ended."""
        # Concurrency does not shorten a single run, and the runs that follow wait for the last of the running ones.
        longest = self.trial_epochs if self.pending_epochs else self.next_epochs
        now = max((self.pending_epochs + self.next_epochs) / self.max_concurrent, longest) + self.reserved_epochs
        waves = math.ceil(self.pending_runs / self.max_concurrent)
        return (now + waves * self.trial_epochs) * (self.seconds_per_epoch or 0.0)

    @property
    def gpu_seconds_to_come(self) -> float:
        """GPU-seconds until the next trial, the running trials and the required runs have ended."""
        runs = self.pending_runs * self.trial_epochs
        return (self.pending_epochs + self.next_epochs + self.reserved_epochs + runs) * (
            (self.seconds_per_epoch or 0.0) * self.gpus
        )


def exhausted_limit(budget: Budget, state: BudgetState) -> str | None:
    """Returns the limit for which no further trial may start.

    Args:
        budget: The limits.
        state: State of the search.

    Returns:
        The limit by its parameter's name and in words; None if a trial may start.
    """
    if budget.target is not None and state.best is not None:
        sign = -1 if budget.minimize else 1
        if state.best >= sign * budget.target:
            return f"search.budget.target: {sign * state.best:.4f} reached {budget.target:g}"
    if budget.patience is not None and state.since_best >= budget.patience:
        return f"search.budget.patience: {state.since_best} trials in a row were no better"
    if budget.hours is not None and state.seconds + state.seconds_to_come > budget.hours * HOUR:
        return f"search.budget.hours: {state.seconds / HOUR:.2f} of {budget.hours:g} hours spent; {TOO_LITTLE}"
    if (limit := budget.gpu_limit) is not None and state.gpu_seconds + state.gpu_seconds_to_come > limit[0]:
        return f"search.budget.{limit[1]}: {state.gpu_seconds / HOUR:.2f} GPU-hours spent; {TOO_LITTLE}"
    return None

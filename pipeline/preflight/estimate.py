"""Estimate of what a search will take, made before it starts: time, GPU-hours, money; and refusals where memory or disk
cannot do.

    low    every trial that the scheduler may pause or stop ends at the first rung
    high   every trial runs in full, as far as the budget's epochs go

Both are laid over the steps that `pipeline.preflight.profile` has timed on this machine just before.
"""

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pipeline.cluster.storage import is_s3
from pipeline.config import Params
from pipeline.console.format import format_count, format_size
from pipeline.errors import UserError
from pipeline.preflight.plan import Plan
from pipeline.preflight.profile import StepCost, profile_steps, role_sizes, steps_per_epoch
from pipeline.preflight.run_resources import retrain_resources
from pipeline.preflight.trial_forecast import forecast_trials, survival_shares
from pipeline.train.memory import out_of_memory_advice
from pipeline.tune.journal.records import TRIAL, SearchHistory
from pipeline.tune.run_counts import budget_epochs, max_runs, requested_trials
from pipeline.tune.schedulers.rungs import first_rung
from pipeline.tune.space import SearchSpace

START_S = (8.0, 30.0)
"""Seconds until the first epoch: Ray's start, and the workers' imports, which slow each other on few cores."""

BESIDE = 1.5
"""How much slower at most a step is on CPU cores whose neighbours train too: caches, memory, halves of one core."""

MARGIN = 2
"""Free disk asked for, in multiples of what the checkpoints take."""

Range = tuple[float, float]


@dataclass(frozen=True)
class RemainingWork:
    """What is to be run. trials: those the scheduler may pause or stop. full_runs: controls and confirmation runs,
    which it may not. epochs: of a full run. max_concurrent: runs together. gpus: share of a GPU of one run, 0 without.
    trial_epochs: what search.budget.full_trainings leaves to all trials; None without it.
    """

    trials: int
    full_runs: int
    epochs: int
    max_concurrent: int
    gpus: float
    trial_epochs: int | None = None


@dataclass(frozen=True)
class Estimate:
    """What is expected, each as (low, high). seconds: of the whole search. epoch: seconds of one epoch of one run.

    gpu_hours: hours times the GPUs held; None without GPUs. cost: in the currency of the price; None without a price.
    Both are of the search alone. retraining: seconds that it takes after it; None where that cannot be told. estimated:
    as of `StepCost`. disk: what its checkpoints take, in words; disk_bytes: the
    same, where it is asked for. searches: how many these are, one after the other.
    """

    seconds: Range
    epoch: Range
    gpu_hours: Range | None
    cost: Range | None
    retraining: Range | None = None
    estimated: str = ""
    disk: str = ""
    searches: int = 1
    disk_bytes: float = 0.0

    def describe(self) -> list[str]:
        """Lines for a person, such as the plan's."""
        epoch = _span(*self.epoch, digits=2)
        what = "the search" if self.searches == 1 else f"{self.searches} searches, one after the other"
        lines = [f"{'expected':<10}{describe_seconds(self.seconds)} for {what} ({epoch} s an epoch measured just now)"]
        more = [f"{_span(*self.gpu_hours, digits=1)} GPU-hours"] if self.gpu_hours else []
        more += [f"a cost of {self.cost[0]:.2f} to {self.cost[1]:.2f}"] if self.cost else []
        if self.estimated:
            lines.append(f"{' ' * 10}an estimate, so that measuring ended: {self.estimated}, scaled up")
        lines += [" " * 10 + ", ".join(more)] if more else []
        lines += [f"{' ' * 10}{describe_seconds(self.retraining)} for retraining"] if self.retraining else []
        return lines + ([f"{'disk':<10}{self.disk}"] if self.disk else [])


def estimate_search(
    plan: Plan, work: RemainingWork, *, price: float | None = None, num_checkpoints: int = 5, recent: bool = False
) -> Estimate:
    """Measure a few steps, refuse what memory or disk cannot do, and tell what the search will take.

    price: as of `estimate`. num_checkpoints: how many checkpoints the search leaves on disk. recent: as of
    `profile_steps`.

    Raises:
        UserError: a training step, or the checkpoints, do not fit.
    """
    cost = profile_steps(plan, recent=recent)
    check_memory(cost, plan)
    check_disk(cost, plan, num_checkpoints)
    found = estimate(plan, cost, work, price=price)
    disk = describe_disk(cost, plan, num_checkpoints)
    return replace(found, retraining=retraining_seconds(plan, cost), estimated=cost.estimated, disk=disk)


def estimate(plan: Plan, cost: StepCost, work: RemainingWork, *, price: float | None = None) -> Estimate:
    """Lay the measured cost of a step over the work.

    price: of an hour of one GPU, or, where runs take no GPU, of an hour of this machine.

    The low end takes the cheapest configuration, and all trials but those that outlive every rung of the scheduler to
    end at its first; the runs fill what runs at a time without gaps. The high end takes the dearest configuration, full
    runs alone, in rounds, and neighbours that slow each other: by `BESIDE` on CPU cores, and on a GPU that is shared by
    the number that share it, as if one alone could fill it. Where the budget gives trials so many epochs, they take no
    more at either end, and of high ends with gaps only those of one run.
    """
    runs = work.trials + work.full_runs
    epoch = _epoch_seconds(plan, cost)
    if not runs:
        return Estimate((0.0, 0.0), epoch, (0.0, 0.0) if work.gpus else None, None if price is None else (0.0, 0.0))
    lasting, grace = _full_length_trials(plan, work), first_rung(plan.params, plan.space)
    of_trials = lasting * work.epochs + (work.trials - lasting) * min(grace, work.epochs)
    longest = work.epochs if lasting + work.full_runs else min(grace, work.epochs)
    most = float(-(-runs // work.max_concurrent) * work.epochs)
    if work.trial_epochs is not None:
        of_trials = min(of_trials, work.trial_epochs)
        gaps = work.epochs * (work.max_concurrent > 1)
        most = min(most, (work.full_runs * work.epochs + work.trial_epochs) / work.max_concurrent + gaps)
    epochs = work.full_runs * work.epochs + of_trials
    seconds = (
        START_S[0] + epoch[0] * max(epochs / work.max_concurrent, longest),
        START_S[1] + epoch[1] * most * _slowdown(work),
    )
    hours = (seconds[0] / 3600, seconds[1] / 3600)
    held = work.gpus * min(work.max_concurrent, runs)
    gpu_hours = (hours[0] * held, hours[1] * held) if work.gpus else None
    paid = gpu_hours or hours
    return Estimate(seconds, epoch, gpu_hours, None if price is None else (paid[0] * price, paid[1] * price))


def retraining_seconds(plan: Plan, cost: StepCost, *, arms: int = 2) -> Range | None:
    """Lay the measured cost of a step over retraining: both arms, every seed, on train and val, each run in full. Where
    the search is to say how many seeds, the low end is of the fewest and the high end of the most. With folds, in each
    of them, where all runs are taken to be as long as that on all images. arms: one, where the control is another
    search's.

    None where what was measured is no measure of it: on a cluster, whose nodes differ; for runs of several workers, or
    of other cores than a trial's.
    """
    params, retrain = plan.params, plan.params.retrain
    folds = params.evaluate.folds
    alike = (retrain.workers_per_run, retrain.cpus_per_run) == (1, params.search.cpus_per_trial)
    if plan.resources.address is not None or not alike:
        return None
    there = retrain_resources(params)
    fewest, most = (
        RemainingWork(
            trials=0,
            full_runs=runs,
            epochs=params.train.epochs,
            max_concurrent=min(runs, retrain.max_concurrent_runs or runs, there.max_concurrent),
            gpus=there.gpus,
        )
        # In each fold every arm, and of all images what is registered.
        for runs in (arms * seeds if folds is None else arms * seeds * folds + 1 for seeds in retrain.seed_bounds)
    )
    steps = -(-sum(role_sizes(plan)) // params.train.batch_size)
    writing = 2 * cost.seconds_per_checkpoint / params.search.checkpoint_every
    low, high = (params.train.epochs * (steps * step + writing) for step in cost.seconds_per_step)
    rounds = -(-most.full_runs // most.max_concurrent)
    return (
        START_S[0] + low * fewest.full_runs / fewest.max_concurrent,
        START_S[1] + high * rounds * _slowdown(most),
    )


def check_memory(cost: StepCost, plan: Plan) -> None:
    """Refuse a network whose training step holds more of the GPU than a trial gets.

    On a CPU nothing is checked: how much a process really takes there cannot be told from its size (the allocator keeps
    what it frees, and all trials share one copy of the images), and a wrong refusal is worse than a trial that says
    that it ran out of memory.

    Raises:
        UserError: it does not fit; the message names what takes the memory and what to change.
    """
    if cost.memory_bytes is None:
        return
    gpus = plan.resources.gpus
    there = _gpu_bytes(plan.device) * (gpus if 0 < gpus < 1 else 1.0)
    if cost.memory_bytes > there:
        advice = out_of_memory_advice(plan.params.train.config(), device=torch.device(plan.device), gpus=gpus)
        raise UserError(
            f"params.yaml: {advice} It needs {format_size(cost.memory_bytes)}; there are {format_size(there)}."
        )


def check_disk(cost: StepCost, plan: Plan, num_checkpoints: int) -> None:
    """Refuse a search whose checkpoints, those kept and those of the running trials, would fill the disk.

    Raises:
        UserError: too little is free; the message says how much is needed and what to change.
    """
    place, storage = plan.workspace.state, plan.params.search.cluster.storage
    if plan.resources.address is not None and storage is not None:
        if is_s3(storage):  # whose room nobody can tell
            return
        place = Path(storage).expanduser()
    folder = _existing_parent(place)
    running = plan.resources.max_concurrent
    held = num_checkpoints + running
    needed, free = MARGIN * held * cost.checkpoint_bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{place}: {format_size(free)} are free there, and {held} checkpoints of "
            f"{format_size(cost.checkpoint_bytes)} ({num_checkpoints} kept, {running} of running trials) need "
            f"{format_size(needed)} with room to spare. Lower search.keep_checkpoints, free space, or move the "
            "checkout to a disk that has more."
        )


def stored_checkpoints(params: Params, space: SearchSpace) -> int:
    """How many checkpoints of trials that are paused or have ended, and of controls, a search leaves on disk."""
    kept, tried = params.search.keep_checkpoints, forecast_trials(params, space).trials
    return (tried if kept is None else min(kept, tried)) + len(space.controls)


def describe_disk(cost: StepCost, plan: Plan, num_checkpoints: int) -> str:
    """What checkpoints take at most, and which parameter bounds it."""
    held, kept = num_checkpoints + plan.resources.max_concurrent, plan.params.search.keep_checkpoints
    bound = "null: of every trial" if kept is None else kept
    return (
        f"about {format_count(held, 'checkpoint')} of {format_size(cost.checkpoint_bytes)}, "
        f"{format_size(held * cost.checkpoint_bytes)}: {num_checkpoints} of trials that are paused or have ended and "
        f"of controls (search.keep_checkpoints: {bound}), {plan.resources.max_concurrent} of running ones"
    )


def _epoch_seconds(plan: Plan, cost: StepCost) -> Range:
    """Training, scoring and, every now and then, a checkpoint, which is written and then copied by Ray."""
    steps, scoring = steps_per_epoch(plan), role_sizes(plan)[1] * cost.seconds_per_val_image
    rest = scoring + 2 * cost.seconds_per_checkpoint / plan.params.search.checkpoint_every
    return steps * cost.seconds_per_step[0] + rest, steps * cost.seconds_per_step[1] + rest


def _full_length_trials(plan: Plan, work: RemainingWork) -> int:
    """How many trials would run in full, if the scheduler let through as few as it can."""
    median = plan.params.search.scheduler.name == "median"
    share = 0.0 if median else survival_shares(plan.params, plan.space)[-1]
    return math.ceil(max(work.trials * share, min(work.trials, 1)) - 1e-9)


def _slowdown(work: RemainingWork) -> float:
    if 0 < work.gpus < 1:
        return float(min(work.max_concurrent, int(1 / work.gpus + 1e-9)))
    return BESIDE if work.max_concurrent > 1 and not work.gpus else 1.0


def _gpu_bytes(device: str) -> int:
    return int(torch.cuda.get_device_properties(torch.device(device)).total_memory)


def _existing_parent(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def describe_seconds(seconds: Range) -> str:
    """A range of time for people: `4 to 9.5 minutes`."""
    for unit, length, most in (("seconds", 1, 90), ("minutes", 60, 5400), ("hours", 3600, 172_800)):
        if seconds[1] < most:
            return f"{_span(seconds[0] / length, seconds[1] / length, digits=int(length > 1))} {unit}"
    return f"{_span(seconds[0] / 86_400, seconds[1] / 86_400, digits=1)} days"


def _span(low: float, high: float, *, digits: int) -> str:
    """`4 to 9.5`, or `4` where both read the same; no decimals from ten on."""
    first, last = (f"{value:,.{0 if value >= 10 else digits}f}".removesuffix(".0") for value in (low, high))
    return first if first == last else f"{first} to {last}"


def describe_estimate(plan: Plan, history: SearchHistory, *, recent: bool = False) -> list[str]:
    """What is left of the search will take, in lines; a few real steps are timed, unless nothing is left.

    history: of the search, as far as it has come. recent: what a check of the last minutes has timed for the same plan
    will do.

    Raises:
        UserError: as of `measure`.
    """
    work = remaining_work(plan, history)
    if not work.trials + work.full_runs:
        return [f"{'expected':<10}nothing of the search: all of its runs have ended"]
    return measure(plan, work, recent=recent).describe()


def remaining_work(plan: Plan, history: SearchHistory) -> RemainingWork:
    """The runs that the search has at most, less those that have ended."""
    params, resources, epochs = plan.params, plan.resources, plan.params.train.epochs
    asked = sum(requested_trials(params, plan.space).values())
    ended = [trial for trial in history.trials.values() if trial.state is not None]
    tried = sum(trial.role == TRIAL for trial in ended)
    trials = max(0, asked - tried)
    full_runs = max(0, max_runs(params, plan.space) - asked - (len(ended) - tried))
    left = None
    if (budget := budget_epochs(params)) is not None:
        unended = [trial for trial in history.trials.values() if trial.state is None]
        # Of controls and confirmations that have not ended, what they have trained is within their whole runs.
        begun = sum(trial.last_epoch for trial in unended if trial.role != TRIAL)
        spent = sum(trial.trained_epochs for trial in history.trials.values()) - begun
        left = max(0, budget - spent - full_runs * epochs)
        trials = min(
            trials,
            max(left // min(first_rung(params, plan.space), epochs), sum(trial.role == TRIAL for trial in unended)),
        )
    return RemainingWork(
        trials=trials,
        full_runs=full_runs,
        epochs=epochs,
        max_concurrent=resources.max_concurrent,
        gpus=resources.gpus,
        trial_epochs=left,
    )


def measure(plan: Plan, work: RemainingWork, *, recent: bool = False) -> Estimate:
    """Time a few real steps and compare what the work will take with memory, disk and budget.

    recent: as of `describe_estimate`.

    Raises:
        UserError: it cannot do with what there is, or the budget is too small for one trial.
    """
    params, resources = plan.params, plan.resources
    price = (params.search.budget.price_per_gpu_hour or None) if resources.gpus else None
    found = estimate_search(
        plan, work, price=price, num_checkpoints=stored_checkpoints(params, plan.space), recent=recent
    )
    check_budget(params, found, gpus=resources.gpus)
    return found


def check_limits(params: Params, *, gpus: float) -> None:
    """Refuse a budget that can never bind.

    Raises:
        UserError: it is of GPUs that no trial uses, or of a cost without a price.
    """
    budget = params.search.budget
    for name in ("gpu_hours", "cost"):
        if getattr(budget, name) is not None and not gpus:
            raise UserError(
                f"params.yaml: search.budget.{name}: trials use no GPU here (search.gpus_per_trial), so it would never "
                "be reached. Use search.budget.hours."
            )
    if budget.cost is not None and not budget.price_per_gpu_hour:
        raise UserError("params.yaml: search.budget.cost: needs search.budget.price_per_gpu_hour.")


def check_budget(params: Params, estimate: Estimate, *, gpus: float) -> None:
    """Refuse a budget in which not even one trial can run.

    Raises:
        UserError: such a budget, or one that can never bind.
    """
    budget, epochs = params.search.budget, params.train.epochs
    check_limits(params, gpus=gpus)
    hours = epochs * estimate.epoch[0] / 3600
    needed = {"hours": hours, "gpu_hours": hours * gpus, "cost": hours * gpus * budget.price_per_gpu_hour}
    for name, least in needed.items():
        limit = getattr(budget, name)
        if limit is not None and limit < least:
            raise UserError(
                f"params.yaml: search.budget.{name}: given {limit:g}, but a single trial of {epochs} epochs takes "
                f"{least:.3g} by what was measured just now. Raise it, or lower train.epochs."
            )

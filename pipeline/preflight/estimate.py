"""Estimate of a search before it starts: time, GPU-hours and cost; and checks that memory and disk suffice.

    low    every trial that the scheduler may pause or stop ends at the first rung
    high   every trial runs in full, as far as the budget's epochs go

Both are computed from the steps that `pipeline.preflight.profile` has just timed on this machine.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.cluster.storage import is_s3
from pipeline.config import Params
from pipeline.console.format import format_count, format_size
from pipeline.errors import UserError
from pipeline.preflight.plan import Plan
from pipeline.preflight.profile import StepCost, role_sizes, steps_per_epoch
from pipeline.preflight.run_resources import retrain_resources
from pipeline.preflight.trial_forecast import forecast_trials, survival_shares
from pipeline.train.memory import out_of_memory_advice
from pipeline.tune.journal.records import TRIAL, SearchHistory
from pipeline.tune.requested import surplus_runs
from pipeline.tune.run_counts import budget_epochs, max_runs, requested_trials
from pipeline.tune.schedulers.rungs import first_rung
from pipeline.tune.space import SearchSpace

START_S = (8.0, 30.0)
"""Seconds until the first epoch, (low, high): Ray's start and the workers' imports, which slow each other on few
cores.
"""

PROCESS_BYTES = 600 * 2**20
"""GPU memory that a process takes beside its tensors: the CUDA context and the libraries' workspaces. It is a typical
value, which was not measured here."""

RESERVED = 1.1
"""Memory that torch's allocator reserves, as a multiple of the memory of the tensors."""

BESIDE = 1.5
"""Largest factor by which trials on neighbouring CPU cores slow a step, by shared caches, memory and cores."""

MARGIN = 2
"""Free disk space that is required, in multiples of the checkpoints' size."""

Range = tuple[float, float]
"""A range as (low, high)."""


@dataclass(frozen=True)
class RemainingWork:
    """Work that a search still has to do.

    Attributes:
        trials: Trials that the scheduler may pause or stop.
        full_runs: Controls and confirmations, which always run in full.
        epochs: Epochs of a full run.
        max_concurrent: Number of runs at a time.
        gpus: GPUs of one run, or a fraction of one; 0 without GPUs.
        trial_epochs: Epochs of search.budget.full_trainings that are left for all trials; None without this limit.
    """

    trials: int
    full_runs: int
    epochs: int
    max_concurrent: int
    gpus: float
    trial_epochs: int | None = None


@dataclass(frozen=True)
class Estimate:
    """Expected duration and cost of one or more searches. Ranges are (low, high).

    Attributes:
        seconds: Seconds of all searches.
        epoch: Seconds of one epoch of one run.
        gpu_hours: Hours of the searches times the GPUs in use; None without GPUs.
        cost: Cost of the searches, in the currency of the price; None without a price.
        retraining: Seconds of the retraining that follows; None if it cannot be estimated.
        estimated: Reductions of the measurement in words, as in `StepCost`; empty without any.
        disk: Size of the checkpoints, in words.
        searches: Number of searches, which run one after another.
        disk_bytes: Size of the checkpoints in bytes; 0 where it is not computed.
        gpu_memory: Number of trials that a GPU holds, in words; empty without a GPU.
        busy: Why there is no estimate of time, in words; empty if there is one.
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
    gpu_memory: str = ""
    busy: str = ""

    def describe(self) -> list[str]:
        """Returns the estimate as lines of text, in the layout of the plan's."""
        epoch = _span(*self.epoch, digits=2)
        what = "the search" if self.searches == 1 else f"{self.searches} searches, one after the other"
        held = [f"{'memory':<10}{self.gpu_memory}"] if self.gpu_memory else []
        held += [f"{'disk':<10}{self.disk}"] if self.disk else []
        if self.busy:
            return [
                f"{'expected':<10}no estimate of time: {self.busy}; `sar-search check` gives one when it is idle",
                *held,
            ]
        lines = [f"{'expected':<10}{describe_seconds(self.seconds)} for {what} ({epoch} s an epoch measured just now)"]
        more = [f"{_span(*self.gpu_hours, digits=1)} GPU-hours"] if self.gpu_hours else []
        more += [f"a cost of {self.cost[0]:.2f} to {self.cost[1]:.2f}"] if self.cost else []
        if self.estimated:
            lines.append(f"{' ' * 10}an estimate, scaled up from a shorter measurement: {self.estimated}")
        lines += [" " * 10 + ", ".join(more)] if more else []
        lines += [f"{' ' * 10}{describe_seconds(self.retraining)} for retraining"] if self.retraining else []
        return [*lines, *held]


def estimate(plan: Plan, cost: StepCost, work: RemainingWork, *, price: float | None = None) -> Estimate:
    """Computes the duration and the cost of the work from the measured cost of a step.

    The low end assumes the cheapest configuration. Only the trials that survive every rung run in full, and the others
    end at the first rung. Runs follow each other without gaps.

    The high end assumes the most expensive configuration and full runs only, in rounds. Concurrent runs slow each
    other: on CPU cores by `BESIDE`, on a shared GPU by the number of runs that share it, as if one could use it all.

    If the budget limits the epochs of trials, neither end exceeds them. The high end then has gaps of at most one run.

    Args:
        plan: The plan of the search.
        cost: The measured cost of a step.
        work: The remaining work.
        price: Price of an hour of one GPU, or of this machine if runs use no GPU; None for no cost.
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
    """Estimates the seconds of retraining: both arms, every seed, on train and val, each run in full.

    If the search decides the number of seeds, the low end has the fewest and the high end the most. With folds, both
    arms are retrained in each fold, and every run is assumed to be as long as one on all images.

    Args:
        plan: The plan of the search.
        cost: The measured cost of a step.
        arms: Number of arms; 1 if the control is another search's.

    Returns:
        (low, high); None if the measured steps do not apply: on a cluster, whose nodes differ, for runs with several
        workers, or for runs with other numbers of cores than trials.
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
        # With folds: all arms in each fold, and the network to be registered on all images.
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
    """Checks that a training step fits in a trial's share of the GPU's memory.

    On a CPU nothing is checked, because the memory of a process cannot be told from the size of its network. The
    allocator retains freed memory, and all trials share one copy of the images. To reject a search wrongly is worse
    than a trial that reports that it ran out of memory.

    Raises:
        UserError: A step does not fit; the message names the cause and the parameters to change.
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


def trials_per_gpu(memory_bytes: int, gpu_bytes: int) -> int:
    """Returns how many trials a GPU holds at the same time, by its memory; 0 if it does not hold one.

    Each trial is a process of its own, and takes `PROCESS_BYTES` beside its tensors.

    Args:
        memory_bytes: Largest memory of a trial's tensors.
        gpu_bytes: Memory of the GPU.
    """
    return int(gpu_bytes // (memory_bytes * RESERVED + PROCESS_BYTES))


def describe_gpu_memory(cost: StepCost, plan: Plan) -> str:
    """Returns how many trials a GPU holds, in words, with the value of `search.gpus_per_trial`; empty on a CPU.

    Args:
        cost: The measured cost of a step.
        plan: The plan of the search.
    """
    if cost.memory_bytes is None or not plan.resources.gpus:
        return ""
    there = _gpu_bytes(plan.device)
    most = trials_per_gpu(cost.memory_bytes, there)
    takes = f"a trial takes {format_size(cost.memory_bytes)} of the GPU's {format_size(there)}"
    if most < 2:
        return f"{takes}, so a GPU holds one trial"
    resources = plan.resources
    cores = resources.machine_cpus // (resources.cpus * max(1, resources.machine_gpus))
    count = max(1, min(most, cores))
    fewer = f", and the CPU cores suffice for {count} on each" if count < most else ""
    share = math.floor(1000 / count) / 1000 if count > 1 else 1
    return f"{takes}, so a GPU holds {most}{fewer}: search.gpus_per_trial: {share:g}"


def check_disk(cost: StepCost, plan: Plan, num_checkpoints: int) -> None:
    """Checks that the stored checkpoints and those of running trials fit on the disk with space to spare.

    Args:
        cost: The measured cost of a step, with the size of a checkpoint.
        plan: The plan of the search.
        num_checkpoints: Number of checkpoints that the search leaves on disk.

    Raises:
        UserError: They do not fit; the message says how much is needed and what to change.
    """
    place, storage = plan.workspace.state, plan.params.search.cluster.storage
    if plan.resources.address is not None and storage is not None:
        if is_s3(storage):  # a bucket has no known capacity
            return
        place = Path(storage).expanduser()
    running = plan.resources.max_concurrent
    held = num_checkpoints + running
    what = f"{held} checkpoints of {format_size(cost.checkpoint_bytes)}"
    what += f" ({num_checkpoints} kept, {running} of running trials)"
    check_space(place, held * cost.checkpoint_bytes, what)


def check_space(place: Path, size: float, what: str) -> None:
    """Checks that a folder's disk has room for checkpoints, with space to spare.

    Args:
        place: The folder, which need not exist.
        size: Size of the checkpoints in bytes.
        what: The checkpoints in words, for the message.

    Raises:
        UserError: They do not fit; the message says how much is needed and what to change.
    """
    needed, free = MARGIN * size, shutil.disk_usage(_existing_parent(place)).free
    if free < needed:
        raise UserError(
            f"{place}: {format_size(free)} are free there, and {what} need {format_size(needed)} with room to spare. "
            "Lower search.keep_checkpoints, free space, or move the checkout to a disk that has more."
        )


def stored_checkpoints(params: Params, space: SearchSpace) -> int:
    """Returns the number of checkpoints that a search leaves on disk: of paused and ended trials, and of controls."""
    kept, tried = params.search.keep_checkpoints, forecast_trials(params, space).trials
    return (tried if kept is None else min(kept, tried)) + len(space.controls)


def describe_disk(cost: StepCost, plan: Plan, num_checkpoints: int) -> str:
    """Returns the maximum size of the checkpoints in words, with the parameter that limits it.

    Args:
        cost: The measured cost of a step, with the size of a checkpoint.
        plan: The plan of the search.
        num_checkpoints: Number of checkpoints that the search leaves on disk.
    """
    held, kept = num_checkpoints + plan.resources.max_concurrent, plan.params.search.keep_checkpoints
    bound = "null, all stay" if kept is None else kept
    return (
        f"about {format_size(held * cost.checkpoint_bytes)}: {format_count(held, 'checkpoint')} of "
        f"{format_size(cost.checkpoint_bytes)} (search.keep_checkpoints: {bound})"
    )


def _epoch_seconds(plan: Plan, cost: StepCost) -> Range:
    """Returns the seconds of an epoch: training, scoring, and its share of a checkpoint, which is written and then
    copied.
    """
    steps, scoring = steps_per_epoch(plan), role_sizes(plan)[1] * cost.seconds_per_val_image
    rest = scoring + 2 * cost.seconds_per_checkpoint / plan.params.search.checkpoint_every
    return steps * cost.seconds_per_step[0] + rest, steps * cost.seconds_per_step[1] + rest


def _full_length_trials(plan: Plan, work: RemainingWork) -> int:
    """Returns the smallest number of trials that the scheduler lets run in full."""
    median = plan.params.search.scheduler.name == "median"
    share = 0.0 if median else survival_shares(plan.params, plan.space)[-1]
    return math.ceil(max(work.trials * share, min(work.trials, 1)) - 1e-9)


def _slowdown(work: RemainingWork) -> float:
    """Returns the factor by which concurrent runs slow each other."""
    if 0 < work.gpus < 1:
        return float(min(work.max_concurrent, int(1 / work.gpus + 1e-9)))
    return BESIDE if work.max_concurrent > 1 and not work.gpus else 1.0


def _existing_parent(folder: Path) -> Path:
    """Returns the folder itself, or its closest parent that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


def describe_seconds(seconds: Range) -> str:
    """Returns a range of time in words: `4 to 9.5 minutes`.

    Args:
        seconds: The range in seconds.
    """
    for unit, length, most in (("seconds", 1, 90), ("minutes", 60, 5400), ("hours", 3600, 172_800)):
        if seconds[1] < most:
            return f"{_span(seconds[0] / length, seconds[1] / length, digits=int(length > 1))} {unit}"
    return f"{_span(seconds[0] / 86_400, seconds[1] / 86_400, digits=1)} days"


def _span(low: float, high: float, *, digits: int) -> str:
    """Returns a range as text: `4 to 9.5`, or `4` if both ends read the same; numbers from ten on have no decimals.

    Args:
        low: Low end.
        high: High end.
        digits: Decimals of a number below ten.
    """
    first, last = (f"{value:,.{0 if value >= 10 else digits}f}".removesuffix(".0") for value in (low, high))
    return first if first == last else f"{first} to {last}"


def remaining_work(plan: Plan, history: SearchHistory) -> RemainingWork:
    """Returns the maximum number of runs of the search, less those that have ended.

    Args:
        plan: The plan of the search.
        history: History of the search so far.
    """
    params, resources, epochs = plan.params, plan.resources, plan.params.train.epochs
    asked = sum(requested_trials(params, plan.space).values())
    surplus = {trial.id for trial in surplus_runs(history.trials, params, plan.space)}
    ended = [trial for trial in history.trials.values() if trial.state is not None and trial.id not in surplus]
    tried = sum(trial.role == TRIAL for trial in ended)
    trials = max(0, asked - tried)
    full_runs = max(0, max_runs(params, plan.space) - asked - (len(ended) - tried))
    left = None
    if (budget := budget_epochs(params)) is not None:
        unended = [trial for trial in history.trials.values() if trial.state is None and trial.id not in surplus]
        # Controls and confirmations that have not ended count with all of their epochs, in full_runs.
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


def _gpu_bytes(device: str) -> int:
    return int(torch.cuda.get_device_properties(torch.device(device)).total_memory)

"""Cost of training on this machine, from a few real steps of the plan's own network and configurations.

The controls and two corners of the search space are measured. A regulariser can multiply the cost of a step,
depending on its parameters and blocks. A measurement is stored, and reused for ten minutes by the stage that follows
a check.
"""

import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.assembly import TrainingData, TrainingRun, build_run
from pipeline.compute.limits import usable_cpus
from pipeline.config import Params, Values
from pipeline.console.format import format_count
from pipeline.data.prepared.prepared import Manifest, Prepared, open_prepared
from pipeline.data.splits.split import Ids, Split, read_split
from pipeline.errors import UserError
from pipeline.models.freeze import enter_training
from pipeline.preflight.plan import Plan
from pipeline.preflight.profile_budget import FEW, ProfileBudget
from pipeline.provenance.code_hash import code_hashes
from pipeline.regularizers.regularizer_config import warmup_epochs
from pipeline.train.checkpoint import write_checkpoint
from pipeline.train.cpu.onednn_linear import use_onednn_linear
from pipeline.train.ema import make_average
from pipeline.train.loader import TrainLoader
from pipeline.train.loop import score
from pipeline.train.memory import checkpointed, is_out_of_memory, out_of_memory_advice, retain_freed_memory
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer
from pipeline.train.sidecar import TrainState
from pipeline.train.step import take_step
from pipeline.tune.space import SearchSpace

RECENT_S = 600.0
"""Seconds for which a measurement is used again."""


BUSY = 3.0
"""Processes that want to run, for each core, above which times of a few images are not scaled up."""


BUDGET_S = 2.0
"""Seconds of all configurations' timed steps together; a network with slow steps takes more."""


MOST_CONTROLS = 4
"""Controls that are measured at most."""


SCORED_IMAGES = 256
"""Images that are scored at most to time validation."""


@dataclass(frozen=True)
class StepCost:
    """Cost of training on this machine.

    Attributes:
        seconds_per_step: Seconds of a step of `train.batch_size` images, (low, high): of the cheapest and of the most
            expensive configuration measured.
        seconds_per_val_image: Seconds to score a validation image, the mean over configurations.
        memory_bytes: Largest GPU memory of a configuration's step, with the images of train and val that are there;
            None on a CPU.
        checkpoint_bytes: Bytes of one checkpoint on disk, including the optimizer's state.
        seconds_per_checkpoint: Seconds to write it once.
        estimated: How much less was measured than a trial does, in words; empty if nothing was reduced.
        busy: Why the measured times say nothing about a trial's, in words; empty if they do.
    """

    seconds_per_step: tuple[float, float]
    seconds_per_val_image: float
    memory_bytes: int | None
    checkpoint_bytes: int
    seconds_per_checkpoint: float = 0.0
    estimated: str = ""
    busy: str = ""


@dataclass(frozen=True)
class _Probe:
    """Measurement of one configuration.

    Attributes:
        epoch: Seconds to train on every training image once.
        val_image: Seconds to score a validation image.
        memory: Largest GPU memory in bytes; None on a CPU.
        checkpoint: Bytes of a checkpoint; 0 if none was written.
        writing: Seconds to write the checkpoint.
        step: Images of a timed step.
        batch: Images of a trial's step.
    """

    epoch: float
    val_image: float
    memory: int | None
    checkpoint: int
    writing: float
    step: int
    batch: int


def measure_steps(plan: Plan) -> StepCost:
    """Measures a few training steps, validation batches and a checkpoint, run as a trial of the plan would run them.

    The images are those of data/prepared, or noise of the same shape if these do not match the plan. Threads and random
    streams of this process are restored. It takes about 3 s for a small network. For a large network less is measured,
    so that it ends after about `profile_budget.MOST_S`.

    Raises:
        UserError: A step does not fit in memory, or the checkpoint not on the disk of temporary files; or the network
            cannot be built with any of the configurations.
    """
    configs, load = probe_configs(plan.space), os.getloadavg()[0]  # before the measurement adds its own
    probes: list[_Probe] = []
    left_out = 0
    device = torch.device(plan.device)
    with _as_a_trial(plan.resources.cpus, device), ProfileBudget(_operations(plan, device), len(configs)) as budget:
        for index in budget.order_configs():
            params = plan.params.with_values(configs[index], where=plan.space.file)
            if not budget.begin_config(enough=bool(probes)):
                left_out += 1
                continue
            try:
                probe = _measure(plan, params, device, budget, seconds=BUDGET_S / len(configs), weigh=not probes)
            except (RuntimeError, MemoryError, OSError) as error:
                if not is_out_of_memory(error):
                    raise
                advice = out_of_memory_advice(params.train.config(), device=device, gpus=plan.resources.gpus)
                raise UserError(f"params.yaml: {advice}") from None
            probes += [probe] if probe else []
    if not probes:
        raise UserError(
            f"{plan.space.file}: the network cannot be built with the controls, nor with all ranges at their low or at "
            "their high ends. Correct the controls, the ranges, or `model` in params.yaml."
        )
    steps = steps_per_epoch(plan)
    memory = [probe.memory for probe in probes if probe.memory is not None]
    estimated = _estimated(probes, left_out)
    return StepCost(
        (min(probe.epoch for probe in probes) / steps, max(probe.epoch for probe in probes) / steps),
        statistics.fmean(probe.val_image for probe in probes),
        max(memory, default=None),
        max(probe.checkpoint for probe in probes),
        max(probe.writing for probe in probes),
        estimated,
        _describe_load(load) if estimated else "",
    )


def _describe_load(load: float) -> str:
    """Returns in words that the machine is too busy to scale up what was measured of a few images; empty if it is not.

    A step of few images is short. On a busy machine, its time depends on when the other processes leave off.

    Args:
        load: Load average of the last minute: processes that want to run at a time.
    """
    cores = usable_cpus()
    if load <= BUSY * cores:
        return ""
    return f"the machine is busy (load average {load:.0f} on {format_count(cores, 'core')})"


def _operations(plan: Plan, device: torch.device) -> float | None:
    """Returns the approximate number of operations of a step, forward and backward.

    It is None on a GPU, where whole steps are always timed, because they are short and their memory is measured.
    """
    size = min(plan.params.train.batch_size, role_sizes(plan)[0])
    rows, columns = plan.network.architecture.grid
    return 6.0 * plan.network.num_parameters * rows * columns * size if device.type == "cpu" else None


def _estimated(probes: Sequence[_Probe], left_out: int) -> str:
    """Returns in words how much less was measured than a trial does.

    Args:
        probes: Measurements of the configurations.
        left_out: Number of configurations that were not measured.
    """
    parts = [f"steps of {probe.step} images for {probe.batch}" for probe in probes if probe.step < probe.batch][:1]
    if left_out:
        parts.append(f"{len(probes)} of {len(probes) + left_out} configurations")
    return " and ".join(parts)


def probe_configs(space: SearchSpace) -> list[Values]:
    """Returns the configurations to measure: the first controls, and two corners of the search space.

    One corner has the low end or first choice of every dimension, the other one the high end or last choice. Costs
    mostly grow along a dimension (blocks, sizes, batch), so the corners enclose the costs of most trials.
    """
    controls = list(space.controls.values())[:MOST_CONTROLS]
    corners: list[Values] = [{path: space.values_at_ends(path)[end] for path in space.dimensions} for end in (0, -1)]
    return [*controls, *corners]


def role_sizes(plan: Plan) -> tuple[int, int]:
    """Returns the numbers of train and val images; for a fold, of those outside of it. Rounding may change them
    slightly.
    """
    split, test, evaluate = plan.params.split, plan.source.test_images, plan.params.evaluate
    free = plan.images * (1 - split.test_fraction) if test is None else plan.images - test
    if evaluate.folds is not None:
        free = plan.images * (1 - evaluate.holdout)
        free *= 1 - 1 / evaluate.folds if plan.part is not None and plan.part.number else 1
    used = free * split.train_fraction
    return max(1, round(used * (1 - split.val_fraction))), max(1, round(used * split.val_fraction))


def steps_per_epoch(plan: Plan) -> int:
    """Returns the number of steps of an epoch, at the batch size of params.yaml."""
    return -(-role_sizes(plan)[0] // plan.params.train.batch_size)


def _measure(
    plan: Plan, params: Params, device: torch.device, budget: ProfileBudget, *, seconds: float, weigh: bool
) -> _Probe | None:
    """Measures one configuration.

    Args:
        plan: The plan of the search.
        params: Parameters with the configuration.
        device: Device of the trials.
        budget: Time left for the measurement.
        seconds: Approximate seconds for this configuration.
        weigh: Whether a checkpoint is written even if the time is limited.

    Returns:
        The measurement; None if the network cannot be built with this configuration.
    """
    images, val_images = role_sizes(plan)
    batch = min(params.train.batch_size, images)
    size = budget.num_images(batch, params.train.accumulate)
    data = _sample(plan, size, min(val_images, FEW if budget.is_limited else SCORED_IMAGES), device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    config = params.train.config()
    try:
        run = build_run(params, data, seed=params.base.seed, weights=plan.pretrained, fresh_guide=True)
        average = make_average(run.model, config)
        objective = Objective(run.model, run.regularizers, planned_epochs=config.epochs)
        masked = objective.needs_masks
        loader = TrainLoader(data.batches("train"), config, model=run.model, seed=0, masks=masked)
    except (UserError, ValueError):
        # The ends of all ranges together may be no valid network, although most of the search space is valid.
        return None
    optimizer = make_optimizer(run.model, config, beside=objective.trainable)
    peak = min(warmup_epochs(config.epochs), config.epochs - 1)  # the first epoch in which a method has its full weight
    val = data.batches("val")

    def step() -> None:
        inputs, labels, masks = next(drawn)
        take_step(run.model, objective, optimizer, inputs, labels, masks=masks, epoch=peak, config=config)
        if average is not None:
            average.update(run.model, next(taken_so_far))

    with objective, checkpointed(run.model, config.grad_checkpointing), use_onednn_linear(run.model):
        drawn, taken_so_far = _endless(loader), itertools.count(1)
        enter_training(run.model)
        first = _time_calls(step, device, 0.0, least=1, most=1)  # also allocates, and creates the optimizer's state
        if budget.is_too_slow(first) and first < budget.seconds_left / 3:
            # Other processes may have held it up, and few images at a time say much less.
            first = min(first, _time_calls(step, device, 0.0, least=1, most=1))
        budget.record_step(first)
        if budget.is_limited:
            taken = first if first > budget.seconds_left / 3 else _time_calls(step, device, first, least=1, most=3)
            val = _sample(plan, size, min(val_images, FEW), device).batches("val")
            scored = taken / size * len(val) / 3  # estimated: a forward pass takes about a third of a step
            if budget.seconds_left > scored:
                scored = _time_calls(lambda: score(run.model, objective, val, config), device, 0.0, least=1, most=1)
        else:
            score(run.model, objective, val, config)  # a first call may compile, which must not be timed
            enter_training(run.model)
            taken = _time_calls(step, device, seconds * 0.7, most=40)
            scored = _time_calls(lambda: score(run.model, objective, val, config), device, seconds * 0.2, most=5)
    memory = None
    if device.type == "cuda":
        # The sample's images are already on the device; a trial holds all of its train and val images there.
        absent = images + val_images - size - len(val)
        memory = torch.cuda.max_memory_allocated(device) + absent * int(data.prepared.images[0].nbytes)
    if budget.is_limited and not weigh:
        return _Probe(taken * -(-images // size), scored / len(val), memory, 0, 0.0, size, batch)
    started = time.perf_counter()
    state = {"epoch": 1, "optimizer": optimizer.state_dict(), "regularizers": objective.state()}
    if average is not None:
        state["model"] = run.model.state_dict()
    written = _checkpoint_bytes(run, state)
    writing = time.perf_counter() - started
    return _Probe(taken * -(-images // size), scored / len(val), memory, written, writing, size, batch)


def _time_calls(work: Any, device: torch.device, seconds: float, *, most: int, least: int = 2) -> float:
    """Returns the median seconds of a call.

    Args:
        work: Function without parameters.
        device: Device that the function uses; a GPU is synchronised after each call.
        seconds: Seconds after which no further call is made.
        most: Maximum number of calls.
        least: Minimum number of calls.
    """
    times: list[float] = []
    while len(times) < least or (len(times) < most and sum(times) < seconds):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _endless(loader: TrainLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
    """Yields the loader's batches, epoch after epoch, without end."""
    for epoch in itertools.count():
        yield from loader.with_masks(epoch)


def _sample(plan: Plan, images: int, val_images: int, device: torch.device) -> TrainingData:
    """Returns a small set of images of the plan's shape; no test images are used.

    Args:
        plan: The plan of the search.
        images: Number of training images.
        val_images: Number of validation images.
        device: Device of the trials.

    Returns:
        Images of data/prepared; noise if these are missing or do not match the plan.
    """
    side, channels, classes = plan.params.prepare.image_size, plan.source.channels, plan.source.classes
    split = Split(np.arange(images), np.arange(images, images + val_images), np.arange(0))
    try:
        prepared = open_prepared(plan.workspace.prepared)
        made = read_split(plan.workspace.split, data_hash=prepared.data_hash)
        fits = prepared.images.shape[1:] == (side, side, channels) and prepared.classes == classes
        if fits and len(made.train) and len(made.val):
            rows = np.concatenate([_spread(made.train, images), _spread(made.val, val_images)])
            return TrainingData(_rows_of(prepared, rows), split, device)
    except UserError:
        pass  # not prepared yet, or about to be prepared again
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (images + val_images, side, side, channels), dtype=np.uint8)
    labels = rng.integers(0, len(classes), len(noise), dtype=np.int64)
    manifest: Manifest = {"classes": list(classes), "data_hash": ""}
    masks = (noise[..., 0] > 127).astype(np.uint8)  # for methods that need masks
    return TrainingData(Prepared(noise, labels, masks, manifest), split, device)


def _spread(ids: Ids, count: int) -> Ids:
    # Evenly spread, because data sets are often sorted by class.
    return ids[np.linspace(0, len(ids) - 1, count).astype(np.int64)]


def _rows_of(prepared: Prepared, rows: Ids) -> Prepared:
    masks = None if prepared.masks is None else prepared.masks[rows]
    return Prepared(prepared.images[rows], prepared.labels[rows], masks, prepared.manifest)


def _checkpoint_bytes(run: TrainingRun, state: TrainState) -> int:
    """Returns the bytes of a checkpoint, after writing one to the temporary folder, where trials write theirs."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_checkpoint(Path(folder), run.model, run.sidecar, state=state)
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: a checkpoint cannot be written ({error.strerror or error}). Free space "
                "there, or set TMPDIR to a folder that has more."
            ) from None
        return sum(path.stat().st_size for path in Path(folder).iterdir())


@contextmanager
def _as_a_trial(threads: int, device: torch.device) -> Iterator[None]:
    """Uses as many threads as a trial, and restores threads, random streams and the GPU's memory afterwards."""
    before = torch.get_num_threads()
    retain_freed_memory()
    on_gpu = device.type == "cuda"
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
            torch.set_num_threads(threads)
            yield
    finally:
        torch.set_num_threads(before)
        if on_gpu:
            torch.cuda.empty_cache()


def profile_steps(plan: Plan, *, recent: bool = False) -> StepCost:
    """Returns the cost of the plan's training steps on this machine.

    Args:
        plan: The plan of the search.
        recent: Whether a measurement of the last minutes is reused, if it has the same plan, machine and code.

    Raises:
        UserError: As in `measure_steps`.
    """
    kept, key = plan.workspace.state / "step_cost.json", _key(plan)
    found = _read(kept, key) if recent else None
    if found is not None:
        return found
    cost = measure_steps(plan)
    with suppress(OSError):  # a new checkout may lack the folder; a full disk is reported elsewhere
        kept.write_text(json.dumps({"key": key, "at": time.time(), "cost": asdict(cost)}))
    return cost


def _key(plan: Plan) -> str:
    """Returns a hash of everything on which a measurement depends."""
    decides = {
        "params": plan.params.model_dump(mode="json"),
        "space": plan.space.content(),
        "device": plan.device,
        "resources": asdict(plan.resources),
        "images": plan.images,
        "weights": {spec: weights.sha256 for spec, weights in plan.pretrained.items()},
        "code": code_hashes(),
        "machine": platform.node(),
    }
    return sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()


def _read(cache: Path, key: str) -> StepCost | None:
    """Returns the stored measurement; None if there is none, or if it is old or has another key."""
    try:
        found = json.loads(cache.read_text())
        # A negative age, after the clock was set back, does not count as recent.
        if found["key"] != key or not 0 <= time.time() - found["at"] < RECENT_S:
            return None
        low, high = found["cost"]["seconds_per_step"]
        return StepCost(**{**found["cost"], "seconds_per_step": (low, high)})
    except (OSError, ValueError, KeyError, TypeError):
        return None

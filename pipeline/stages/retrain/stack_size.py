"""Number of seeds of an arm that one worker trains together: a given one, or that which is fastest on its GPU."""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from pipeline.config import Params
from pipeline.models.model_config import Weights
from pipeline.models.stacked_network import CannotStack
from pipeline.stages.retrain.worker import ROLE, RetrainJob, open_run
from pipeline.train.memory import is_out_of_memory

if TYPE_CHECKING:
    from pipeline.assembly import TrainingData

STEPS = 20
"""Steps of an epoch that is timed. One such epoch goes before, and does not count."""

GAIN = 1.05
"""Least gain in speed for which a larger stack is taken."""


@dataclass(frozen=True)
class StackQuestion:
    """Question to a worker about the runs of an arm.

    Attributes:
        job: One of the runs.
        most: Number of runs that one worker may train together.
        measured: Whether the fastest number is measured; otherwise `most` is taken where the runs can be stacked.
    """

    job: RetrainJob
    most: int
    measured: bool


@dataclass(frozen=True)
class StackChoice:
    """A worker's answer.

    Attributes:
        size: Number of runs to train together.
        why: Why the runs are not trained together; None if they are.
        gain: How many times as fast as single runs they are; None if nothing was measured.
    """

    size: int
    why: str | None = None
    gain: float | None = None


def choose_stack(question: StackQuestion) -> StackChoice:
    """Returns how many runs are trained together, as a worker with the resources of a run finds it.

    Args:
        question: The question.
    """
    from pipeline.assembly import build_run
    from pipeline.train.stacked.stacked_loop import check_stacking

    params, data, weights = open_run(question.job)
    run = build_run(params, data, seed=question.job.seed, scaled_by=ROLE, weights=weights)
    try:
        check_stacking([run.model], params.train.config(), [run.regularizers])
    except CannotStack as error:
        return StackChoice(1, str(error))
    if not question.measured:
        return StackChoice(question.most)
    speeds: dict[int, float] = {}
    for size in sizes(question.most):
        try:
            speeds[size] = size / time_epoch(params, data, weights, size)
        except Exception as error:
            if not is_out_of_memory(error) or size == 1:
                raise
            break
    return fastest(speeds)


def sizes(most: int) -> list[int]:
    """Returns the numbers of runs that are tried: powers of two, and the largest number.

    Args:
        most: Largest number.
    """
    powers = [2**power for power in range(most.bit_length()) if 2**power < most]
    return [*powers, most]


def fastest(speeds: Mapping[int, float]) -> StackChoice:
    """Returns the fastest number of runs; of numbers that are about as fast, the smallest one.

    Args:
        speeds: Runs a second by number of runs; that of a single run is among them.
    """
    best = 1
    for size, speed in speeds.items():
        if speed > GAIN * speeds[best]:
            best = size
    if best == 1:
        return StackChoice(1, "together they would not be faster on this device")
    return StackChoice(best, gain=speeds[best] / speeds[1])


def time_epoch(params: Params, data: "TrainingData", weights: Mapping[str, Weights], size: int) -> float:
    """Returns the seconds of a short epoch of some runs together, or of a single run as `fit` trains it.

    A single run may be compiled. Under `train.compile: auto`, that is timed too where a run may be long enough.

    Args:
        params: The configuration.
        data: The data.
        weights: Pretrained weights by specification.
        size: Number of runs.
    """
    from pipeline.assembly import build_run
    from pipeline.data.batches.batches import ImageBatches
    from pipeline.train.compilation import ASSUMED_SAVING, ASSUMED_SECONDS, may_compile
    from pipeline.train.loop import fit
    from pipeline.train.stacked.stacked_loop import fit_stacked

    config, ids = params.train.config(), data.ids(ROLE)
    config = dataclasses.replace(config, epochs=max(2, config.epochs))
    if size == 1 and config.compile == "auto" and may_compile(config, data.device):
        plain = time_epoch(params.with_values({"train.compile": "never"}, where="eager"), data, weights, size)
        share = min(1.0, STEPS * config.batch_size / len(ids))  # of an epoch of the run
        if plain / share * config.epochs * ASSUMED_SAVING <= ASSUMED_SECONDS:
            return plain
        return min(
            plain, time_epoch(params.with_values({"train.compile": "always"}, where="compiled"), data, weights, 1)
        )
    if size > 1:
        config = dataclasses.replace(config, compile="never")
    images = ImageBatches(data.prepared, ids[: STEPS * config.batch_size], data.scale(ROLE), data.device)
    runs = [build_run(params, data, seed=seed, scaled_by=ROLE, weights=weights) for seed in range(size)]
    epochs: Iterator[object]
    if size == 1:
        epochs = fit(runs[0].model, images, config, regularizers=runs[0].regularizers)
    else:
        models, methods = [run.model for run in runs], [run.regularizers for run in runs]
        epochs = fit_stacked(models, images, config, seeds=range(size), regularizers=methods)
    next(epochs)
    started = time.perf_counter()
    next(epochs)  # it reads its means from the device, and so waits for it
    return time.perf_counter() - started


def group_runs(jobs: Sequence[RetrainJob], choices: Mapping[tuple[str, int], StackChoice]) -> list[list[int]]:
    """Returns the indices of the runs that each worker trains together, in the order of their first runs.

    Args:
        jobs: The runs.
        choices: The choice for every arm and fold, as `arm_of` names it.
    """
    groups: dict[tuple[tuple[str, int], int], list[int]] = {}
    counters = {arm: count() for arm in choices}
    for index, job in enumerate(jobs):
        arm = arm_of(job)
        groups.setdefault((arm, next(counters[arm]) // choices[arm].size), []).append(index)
    return list(groups.values())


def arm_of(job: RetrainJob) -> tuple[str, int]:
    """Returns the arm and the fold of a run, whose runs differ in their seeds alone.

    Args:
        job: The run.
    """
    return job.arm, job.fold

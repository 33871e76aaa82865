"""Number of networks of one configuration that are trained fastest together on this device, by a measurement."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn

from pipeline.data.batches.batches import ImageBatches
from pipeline.models.stacked_network import CannotStack
from pipeline.regularizers.base import Regularizer, device_of
from pipeline.train.compilation import ASSUMED_SAVING, ASSUMED_SECONDS, may_compile
from pipeline.train.loop import fit
from pipeline.train.memory import is_out_of_memory
from pipeline.train.stacked.stacked_loop import check_stacking, fit_stacked
from pipeline.train.train_config import TrainConfig

STEPS = 20
"""Steps of an epoch that is timed. One such epoch goes before, and does not count."""

GAIN = 1.05
"""Least gain in speed for which a larger stack is taken."""

Build = Callable[[int], tuple[nn.Module, Mapping[str, Regularizer]]]
"""Returns a fresh network with its methods, by a seed."""


@dataclass(frozen=True)
class StackChoice:
    """Number of runs of one configuration that one worker trains together.

    Attributes:
        size: Number of runs to train together.
        why: Why the runs are not trained together; None if they are.
        gain: How many times as fast as single runs they are; None if nothing was measured.
    """

    size: int
    why: str | None = None
    gain: float | None = None


def try_stack(train: Callable[[], None], members: int) -> str | None:
    """Trains a stack, and returns why its runs must be trained apart; None if they have been trained.

    Args:
        train: Trains the stack.
        members: Number of its runs.
    """
    try:
        train()
    except CannotStack as error:
        return str(error)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return f"memory does not suffice for {members} seeds together"
    return None


def measure_stack(build: Build, images: ImageBatches, config: TrainConfig, *, most: int, steps: int) -> StackChoice:
    """Returns how many runs are trained fastest together.

    If a single run may be compiled (`train.compile: auto`) and is long enough for it, a compiled run is timed too.

    Args:
        build: Builds a network.
        images: Training images; an epoch of some `STEPS` steps is enough.
        config: The recipe.
        most: Largest number of runs.
        steps: Number of steps of a whole run.

    Raises:
        CannotStack: The runs cannot be trained together.
    """
    model, methods = build(0)
    check_stacking([model], config, [methods])
    speeds: dict[int, float] = {}
    for size in sizes(most):
        try:
            seconds = time_epoch(build, images, config, size, compiled=False)
            whole = seconds * steps / -(-len(images) // config.batch_size)
            if size == 1 and may_compile(config, device_of(model)) and whole * ASSUMED_SAVING > ASSUMED_SECONDS:
                seconds = min(seconds, time_epoch(build, images, config, size, compiled=True))
            speeds[size] = size / seconds
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


def time_epoch(build: Build, images: ImageBatches, config: TrainConfig, size: int, *, compiled: bool) -> float:
    """Returns the seconds of an epoch of some runs together, or of a single run as `fit` trains it.

    Args:
        build: Builds a network.
        images: Training images.
        config: The recipe.
        size: Number of runs.
        compiled: Whether the network is compiled; a stack is not.
    """
    config = replace(config, epochs=max(2, config.epochs), compile="always" if compiled else "never")
    models, methods = zip(*(build(seed) for seed in range(size)), strict=True)
    epochs: Iterator[object]
    if size == 1:
        epochs = fit(models[0], images, config, regularizers=methods[0])
    else:
        epochs = fit_stacked(models, images, config, seeds=range(size), regularizers=methods)
    next(epochs)
    started = time.perf_counter()
    next(epochs)  # it reads its means from the device, and so waits for it
    return time.perf_counter() - started

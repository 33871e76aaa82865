"""Prediction speed of a network on its own device, for one image at a time and for batches."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

MANY = 64
"""Images of a batch, for the throughput."""
LONGEST_S = 2.0
"""Most seconds that each of the two measurements takes, apart from its first passes."""


def latency_ms(model: nn.Module, image_size: tuple[int, int], channels: int) -> float:
    """Returns the median milliseconds of a forward pass of one image, over 30 passes after 5 others.

    Args:
        model: The network.
        image_size: (height, width) in pixels.
        channels: Channels of the images.
    """
    return 1000 * _median_seconds(model, (1, channels, *image_size), first=5, times=30)


def images_per_s(model: nn.Module, image_size: tuple[int, int], channels: int) -> float:
    """Returns the images per second in batches of `MANY`, by the median of 10 forward passes after 2 others.

    Args:
        model: The network.
        image_size: (height, width) in pixels.
        channels: Channels of the images.
    """
    return MANY / _median_seconds(model, (MANY, channels, *image_size), first=2, times=10)


def _median_seconds(model: nn.Module, shape: tuple[int, ...], *, first: int, times: int) -> float:
    """Returns the median seconds of a forward pass in evaluation mode.

    The network's precision and the number of threads of this process are used as they are. The network's mode
    is restored.

    Args:
        model: The network.
        shape: Shape of the input.
        first: Number of passes before the measurement.
        times: Number of measured passes.
    """
    was_training, device = model.training, next(model.parameters()).device
    images = torch.zeros(shape, device=device)
    model.eval()
    try:
        with torch.no_grad():
            for _ in range(first):
                model(images)
            return statistics.median(_timed(lambda: model(images), device, times))
    finally:
        model.train(was_training)


def _timed(work: Callable[[], object], device: torch.device, times: int) -> list[float]:
    """Returns the seconds of each call.

    Args:
        work: The call.
        device: Device to wait for.
        times: Number of calls; fewer, but at least 3, if `LONGEST_S` is exceeded.
    """
    taken: list[float] = []
    while len(taken) < times and (len(taken) < 3 or sum(taken) < LONGEST_S):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return taken

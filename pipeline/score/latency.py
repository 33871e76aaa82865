"""How fast a network predicts, on the device that it lies on: one image at a time, and many at once."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

MANY = 64
"""Images of a batch, for the throughput."""
LONGEST_S = 2.0
"""Seconds that each of the two figures takes at most, but for its first passes."""


def latency_ms(model: nn.Module, image_size: tuple[int, int], channels: int) -> float:
    """Median milliseconds of a forward pass of one image (1, channels, *image_size), over 30 of them after 5 others."""
    return 1000 * _median_seconds(model, (1, channels, *image_size), first=5, times=30)


def images_per_s(model: nn.Module, image_size: tuple[int, int], channels: int) -> float:
    """Images a second in batches of `MANY`: by the median of 10 forward passes after 2 others."""
    return MANY / _median_seconds(model, (MANY, channels, *image_size), first=2, times=10)


def _median_seconds(model: nn.Module, shape: tuple[int, ...], *, first: int, times: int) -> float:
    """In evaluation mode, the network's own precision, and as many threads as this process has; it stays as it was."""
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
    """Seconds of each of so many calls, or of fewer, if they take long."""
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

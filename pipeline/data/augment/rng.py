"""Random streams that do not depend on the global ones.

Each draw starts from a seed made of numbers that say what it is for (seed, epoch, image, ...). So it does not
depend on earlier draws, and the global streams continue as if nothing had been drawn.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

SHIFTS, PIXELS, ERASING, MIXING = range(1, 5)
"""Purposes of draws. The number follows seed and epoch in the stream's seed, so that no two purposes share a stream.
"""


@contextmanager
def isolated_rng() -> Iterator[Callable[..., None]]:
    """Yields a function that seeds the global CPU streams of Python, numpy and torch from whole numbers of 0 or more.

    For libraries that draw from global streams. The streams' states are restored on leaving.
    """
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield _seed
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


def _seed(*numbers: int) -> None:
    words = np.random.SeedSequence(numbers).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)
    torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))


def uniform_draws(stream: Sequence[int], ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Returns uniform draws (B, count) in 0 .. 1, without 1; a row depends only on the stream and its id.

    The generator is SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA
    2014), started for every image at a point given by the stream and the id. A numpy generator per image
    would take longer than its augmentation.

    Args:
        stream: Whole numbers that name the stream, e.g. (seed, epoch, purpose).
        ids: Keys of the images (B,).
        count: Draws per image.
    """
    key = np.random.SeedSequence(stream).generate_state(1, dtype=np.uint64)
    starts = _mixed(key + ids.astype(np.uint64) * _STEP)
    steps = np.arange(1, count + 1, dtype=np.uint64) * _STEP
    bits: NDArray[np.uint64] = _mixed(starts[:, None] + steps) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words ^ (words >> np.uint64(31))

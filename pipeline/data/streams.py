"""Random streams for libraries that draw from the global ones.

Whoever draws here begins with a seed made of numbers that say what is drawn for (seed, epoch, image, ...), so that no
draw depends on what came before it, and the global streams go on afterwards as if nothing had been drawn.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

SHIFTS, PIXELS, ERASING, MIXING = range(1, 5)
"""What is drawn: the number that follows seed and epoch, so that no two purposes share a stream."""


@contextmanager
def borrowed_streams() -> Iterator[Callable[..., None]]:
    """Python's, numpy's and torch's global streams (of the CPU), borrowed.

    Gives a function that seeds all three from whole numbers of 0 or more; they are put back at the end.
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

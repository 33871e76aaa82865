"""Claims about borrowed streams: decided by the numbers given, and nobody else notices."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.streams import borrowed_streams


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def states() -> list[Any]:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # type: ignore[index, union-attr]


def test_draws_are_those_of_the_numbers_whatever_was_drawn_before() -> None:
    with borrowed_streams() as seed:
        seed(1, 2, 3)
        first = drawn()
        seed(1, 2, 4)
        other = drawn()
        seed(1, 2, 3)
        assert drawn() == first
    drawn()
    with borrowed_streams() as seed:
        seed(1, 2, 3)
        assert drawn() == first
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_streams_are_put_back_even_after_an_error() -> None:
    before = states()
    with borrowed_streams() as seed:
        seed(7)
        drawn()
    assert states() == before
    with pytest.raises(ZeroDivisionError):
        broken()
    assert states() == before


def broken() -> None:
    with borrowed_streams() as seed:
        seed(7)
        raise ZeroDivisionError

"""Claims about borrowed streams: decided by the numbers given, and nobody else notices."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.data.augment.rng import _STEP, _mixed, isolated_rng, uniform_draws


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def states() -> list[Any]:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # type: ignore[index, union-attr]


def test_draws_are_those_of_the_numbers_whatever_was_drawn_before() -> None:
    with isolated_rng() as seed:
        seed(1, 2, 3)
        first = drawn()
        seed(1, 2, 4)
        other = drawn()
        seed(1, 2, 3)
        assert drawn() == first
    drawn()
    with isolated_rng() as seed:
        seed(1, 2, 3)
        assert drawn() == first
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_streams_are_put_back_even_after_an_error() -> None:
    before = states()
    with isolated_rng() as seed:
        seed(7)
        drawn()
    assert states() == before
    with pytest.raises(ZeroDivisionError):
        broken()
    assert states() == before


def broken() -> None:
    with isolated_rng() as seed:
        seed(7)
        raise ZeroDivisionError


def test_draws_of_an_image_depend_on_stream_and_id_alone() -> None:
    many = uniform_draws([3, 1, 4], np.arange(50), 7)
    assert np.array_equal(uniform_draws([3, 1, 4], np.array([8, 2, 2]), 7), many[[8, 2, 2]])
    assert np.array_equal(uniform_draws([3, 1, 4], np.arange(50), 3), many[:, :3])
    assert len(np.unique(many)) == many.size
    for other in ([3, 1, 5], [3, 2, 4], [1, 3, 4]):
        assert not np.isin(uniform_draws(other, np.arange(50), 7), many).any()


def test_draws_are_uniform_and_those_of_neighbours_have_nothing_in_common() -> None:
    many = uniform_draws([0, 0, 2], np.arange(20000), 6)
    assert many.min() >= 0.0
    assert many.max() < 1.0
    assert stats.kstest(many.ravel(), "uniform").pvalue > 1e-3
    beside = np.corrcoef(np.concatenate([many[:-1], many[1:]], axis=1).T) - np.eye(12)
    assert abs(beside).max() < 0.04


def test_draws_are_splitmix64s() -> None:
    """Its published first numbers from the seed 0."""
    steps = np.arange(1, 4, dtype=np.uint64) * _STEP
    assert [hex(word) for word in _mixed(steps)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]

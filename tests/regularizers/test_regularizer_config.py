"""Claims about the schedule of every regulariser's weight: the published one, scaled to runs of any length."""

import math
from typing import get_args

import numpy as np
import pytest

from pipeline.config import parameters
from pipeline.regularizers.regularizer_config import SCHEDULES, warmup_epochs, weight_at


def schedule(peak: float, epochs: int) -> list[float]:
    return [weight_at(peak, epoch, epochs) for epoch in range(epochs)]


def test_weight_of_a_hundred_epochs_is_the_published_line_then_cosine() -> None:
    weights = schedule(0.01, 100)
    np.testing.assert_allclose(weights[:10], np.linspace(0, 0.01, 10), atol=1e-15)
    np.testing.assert_allclose(
        weights[10:], [0.005 * (1 + math.cos(math.pi * step / 90)) for step in range(90)], atol=1e-15
    )


def test_weight_of_a_hundred_epochs_starts_at_zero_peaks_twice_and_ends_above_zero() -> None:
    weights = schedule(0.01, 100)
    assert weights[0] == 0.0
    assert weights[9] == weights[10] == 0.01
    assert max(weights) == 0.01
    assert sorted(weights[10:], reverse=True) == weights[10:]
    assert 0 < weights[99] < 1e-5


@pytest.mark.parametrize(("epochs", "rise"), [(1, 1), (5, 1), (16, 2), (25, 2), (100, 10), (300, 10)])
def test_warmup_is_a_tenth_of_the_planned_epochs_within_one_and_ten(epochs: int, rise: int) -> None:
    assert warmup_epochs(epochs) == rise
    weights = schedule(1.0, epochs)
    assert weights[0] == 0.0
    assert len(weights) == epochs
    if epochs > rise:
        assert weights[rise] == 1.0  # the first epoch after the rise is at the peak again
        assert weights[-1] > 0.0
    assert sorted(set(weights[:rise])) == weights[:rise]


def test_weight_of_the_demo_length_is_these_numbers() -> None:
    assert schedule(1.0, 16)[:4] == pytest.approx([0.0, 1.0, 1.0, 0.98746395])
    assert schedule(1.0, 5) == pytest.approx([0.0, 1.0, 0.85355339, 0.5, 0.14644661])


def test_weight_of_a_single_epoch_is_zero() -> None:
    assert schedule(1.0, 1) == [0.0]


def test_weight_with_peak_zero_is_always_zero() -> None:
    assert set(schedule(0.0, 25)) == {0.0}


@pytest.mark.parametrize(("epoch", "epochs"), [(-1, 10), (10, 10), (11, 10), (0, 0)])
def test_weight_outside_the_planned_epochs_is_refused(epoch: int, epochs: int) -> None:
    with pytest.raises(ValueError, match=f"epoch {epoch} is outside the {epochs} planned epochs"):
        weight_at(1.0, epoch, epochs)


def test_linear_schedule_rises_as_the_other_and_falls_in_a_line() -> None:
    weights = [weight_at(0.5, epoch, 100, "warmup_linear") for epoch in range(100)]
    np.testing.assert_allclose(weights[:10], np.linspace(0, 0.5, 10), atol=1e-15)
    np.testing.assert_allclose(weights[10:], np.linspace(0.5, 0, 91)[:-1], atol=1e-15)
    assert [weight_at(1.0, epoch, 5, "warmup_linear") for epoch in range(5)] == [0.0, 1.0, 0.75, 0.5, 0.25]
    assert weight_at(1.0, 0, 1, "warmup_linear") == 0.0


def test_constant_schedule_is_the_weight_from_the_first_epoch_to_the_last() -> None:
    assert {weight_at(0.3, epoch, 25, "constant") for epoch in range(25)} == {0.3}


def test_schedule_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown schedule 'cosine'; known: warmup_cosine, warmup_linear, constant"):
        weight_at(1.0, 0, 10, "cosine")


def test_schedules_of_the_parameters_are_those_there_are() -> None:
    schedules = {path: get_args(field.annotation) for path, field in parameters().items() if path.endswith("schedule")}
    assert len(schedules) == 8
    assert set(schedules.values()) == {SCHEDULES}

"""Claims about the rungs: the first one comes after every warm-up that a trial may have and no later if nobody says it,
and those of the scheduler that pauses are early and few.
"""

from typing import Any

import pytest

from pipeline.config import Params
from pipeline.tune.schedulers.rungs import LATEST_RUNG, first_rung, pausing_rungs
from pipeline.tune.space import SearchSpace

ENTROPY, VARIATION = "regularizer.spatial_entropy", "regularizer.total_variation"
WEIGHT = {"type": "float", "low": 0.01, "high": 1.0, "log": True}
RATE = {"train.lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True}}
SCHEDULES = ["constant", "warmup_linear"]


def asked(**changes: Any) -> Params:
    automatic = {"train.warmup_epochs": 0, "train.epochs": 40, "search.scheduler.grace_period": None}
    return Params().with_values(automatic | changes, where="the test")


def space(dimensions: dict[str, Any]) -> SearchSpace:
    return SearchSpace("space.yaml", dimensions, {"baseline": {}})


@pytest.mark.parametrize(
    ("changes", "dimensions", "first"),
    [
        ({}, RATE, 1),
        ({"train.warmup_epochs": 2}, RATE, 3),
        ({}, {"train.warmup_epochs": {"type": "int", "low": 0, "high": 6}}, 7),
        # A regulariser's weight rises over a tenth of the epochs, 10 at most.
        ({}, {f"{ENTROPY}.weight": WEIGHT}, 5),
        ({"train.warmup_epochs": 6}, {f"{ENTROPY}.weight": WEIGHT}, 7),
        ({"train.warmup_epochs": 1}, {f"{ENTROPY}.weight": WEIGHT}, 5),
        ({f"{VARIATION}.weight": 0.1}, RATE, 5),
        ({f"{VARIATION}.watch": True}, RATE, 1),
        ({f"{VARIATION}.weight": 0.1, f"{VARIATION}.schedule": "constant"}, RATE, 1),
        (
            {},
            {f"{VARIATION}.weight": WEIGHT, f"{VARIATION}.schedule": {"type": "categorical", "choices": SCHEDULES}},
            5,
        ),
        ({"regularizer.plugin": "mine:Method", "regularizer.plugin_weight": 0.1}, RATE, 5),
        ({"regularizer.plugin": "mine:Method"}, RATE, 1),
        ({"train.epochs": 400}, {f"{ENTROPY}.weight": WEIGHT}, 11),
        ({"train.epochs": 3, "train.warmup_epochs": 5}, RATE, 3),
        ({"search.scheduler.grace_period": 4, "train.warmup_epochs": 6}, RATE, 4),
        ({"search.scheduler.grace_period": 50}, RATE, 40),
    ],
)
def test_first_rung_comes_one_epoch_after_the_longest_warmup(
    changes: dict[str, Any], dimensions: dict[str, Any], first: int
) -> None:
    assert first_rung(asked(**changes), space(dimensions)) == first


@pytest.mark.parametrize(
    ("first", "epochs", "rungs"),
    [
        (1, 1, []),
        (1, 2, [1]),
        (1, 4, [1]),
        (1, 8, [1, 2]),
        (2, 8, [2]),
        (5, 8, [5]),
        (8, 8, []),
        (1, 20, [1, 2]),
        (1, 40, [1, 2, 4]),
        (2, 40, [2, 4]),
        (1, 50, [1, 2, 5]),
        (3, 50, [3, 6]),
        (5, 50, [5, 10]),
        (8, 50, [8, 12]),
        (20, 50, [20]),
        (1, 100, [1, 3, 10]),
        (2, 100, [2, 4, 10]),
        (11, 100, [11, 22]),
        (11, 300, [11, 30]),
    ],
)
def test_rungs_at_which_trials_pause_are_these(first: int, epochs: int, rungs: list[int]) -> None:
    """A tenth of the epochs or twice the first, a quarter at most; a third one halfway where they are far apart."""
    assert pausing_rungs(first, epochs) == rungs


def test_rungs_at_which_trials_pause_are_early_and_few_for_any_number_of_epochs() -> None:
    for epochs in range(1, 301):
        for first in range(1, epochs + 1):
            rungs = pausing_rungs(first, epochs)
            assert rungs == sorted(set(rungs))
            assert len(rungs) <= 3
            assert rungs[:1] == ([first] if first < epochs else [])
            assert all(rung < epochs and rung <= max(first, LATEST_RUNG * epochs) for rung in rungs)

"""Claims about how many configurations a budget is said to try: worked out by hand, and against rungs that are played."""

import random
from typing import Any

import pytest
from support.example_plans import SPACE

from pipeline.config import Params
from pipeline.preflight.trial_forecast import TrialForecast, forecast_trials, survival_shares
from pipeline.tune.schedulers.rungs import pausing_rungs

FULL = "search.budget.full_trainings"


def asked(**changes: Any) -> Params:
    small = {
        "train.epochs": 8,
        "search.trials": None,
        FULL: 20,
        "search.scheduler.grace_period": 2,
        "search.scheduler.reduction_factor": 4.0,
        "search.confirm.top": 3,
        "search.confirm.seeds": 2,
    }
    return Params().with_values(small | changes, where="the test")


def test_forecast_is_what_can_be_worked_out_by_hand() -> None:
    # Two controls and ten confirmations leave 8 trainings, 64 epochs. A rung at 2: of 20 trials 5 go on by 6 epochs, which
    # are 70; of 19 trials 4 do, which are 62.
    assert survival_shares(asked(), SPACE) == [1.0] * 2 + [0.25] * 6
    assert forecast_trials(asked(), SPACE) == TrialForecast(trials=19, in_full=4, epochs=62)


def test_number_of_trials_is_the_forecast_where_it_comes_first() -> None:
    assert forecast_trials(asked(**{"search.trials": 8}), SPACE) == TrialForecast(8, 2, 8 * 2 + 2 * 6)
    assert forecast_trials(asked(**{"search.trials": 8, FULL: None}), SPACE) == TrialForecast(8, 2, 28)
    assert forecast_trials(asked(**{"search.trials": 400}), SPACE).trials == 19


def test_one_trial_runs_in_full_however_few_there_are() -> None:
    # 8 epochs are one training in full, and nothing beside it.
    assert forecast_trials(asked(**{FULL: 13}), SPACE) == TrialForecast(1, 1, 8)
    assert forecast_trials(asked(**{FULL: 14}), SPACE) == TrialForecast(5, 1, 16)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"search.scheduler.name": "none"}, TrialForecast(8, 8, 64)),
        ({"search.scheduler.name": "asha_stopping"}, TrialForecast(19, 4, 62)),
        # Half of the trials are taken to be stopped after the grace period: 2 epochs each, and 6 more of a half.
        ({"search.scheduler.name": "median"}, TrialForecast(13, 6, 62)),
        # By accuracy or by attention, 1 - .75 * .75 of the trials go on: 5 of 13 more than 2 epochs.
        ({"search.choose.then": "val/attention/auroc"}, TrialForecast(14, 6, 64)),
    ],
)
def test_forecast_follows_the_scheduler(changes: dict[str, Any], expected: TrialForecast) -> None:
    assert forecast_trials(asked(**changes), SPACE) == expected


def test_brackets_of_hyperband_are_weighed_by_their_sizes() -> None:
    # One rung, at 2. The bracket that has it begins with 4 trials, 1 of which goes on; the other with 2, which run in full.
    shares = survival_shares(asked(**{"search.scheduler.name": "hyperband"}), SPACE)
    assert shares == pytest.approx([1.0] * 2 + [3 / 6] * 6)


@pytest.mark.parametrize(("epochs", "grace", "factor"), [(8, 2, 4.0), (27, 1, 3.0), (50, 2, 3.0), (100, 11, 4.0), (30, 3, 2.0)])  # fmt: skip
def test_forecast_is_near_what_pausing_at_rungs_comes_to(epochs: int, grace: int, factor: float) -> None:
    settings = {"train.epochs": epochs, "search.scheduler.grace_period": grace, FULL: 60}
    params = asked(**settings | {"search.scheduler.reduction_factor": factor, "search.confirm.seeds": 0})
    found = forecast_trials(params, SPACE)
    played = [play(58 * epochs, epochs, grace, factor, seed) for seed in range(20)]
    trials, in_full = (sum(counts) / len(played) for counts in zip(*played, strict=True))
    # Rungs are passed by trials that are no longer among the best later on, so a few more run in full.
    assert 0.75 * trials <= found.trials <= 1.35 * trials
    assert found.in_full <= in_full + 1 <= 2.5 * (found.in_full + 1)


def play(budget: int, epochs: int, grace: int, factor: float, seed: int) -> tuple[int, int]:
    """Trials and those that ran in full, of values drawn by chance that do not change with the epochs."""
    draw, ends = random.Random(seed), [*pausing_rungs(grace, epochs), epochs]
    reached: list[list[float]] = [[] for _ in ends]
    promoted: list[set[float]] = [set() for _ in ends]
    while True:
        step, value = 0, draw.random()
        for rung in reversed(range(len(ends) - 1)):
            best = sorted(reached[rung], reverse=True)[: int(len(reached[rung]) / factor)]
            waiting = [each for each in best if each not in promoted[rung]]
            if waiting:
                step, value = rung + 1, waiting[0]
                break
        budget -= ends[step] - (ends[step - 1] if step else 0)
        if budget < 0:
            return len(reached[0]), len(reached[-1])
        if step:
            promoted[step - 1].add(value)
        reached[step].append(value)

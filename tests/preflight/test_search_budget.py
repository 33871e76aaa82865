"""Claims about what is said of a search's budget and rungs, and about the budgets and rungs that are refused."""

from typing import Any

import pytest
from support.example_plans import SPACE

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.preflight.search_budget import (
    check_budget_epochs,
    check_checkpoints,
    check_grace_period,
    describe_budget,
    describe_rungs,
    describe_trials,
    max_epochs,
)
from pipeline.tune.space import SearchSpace
from pipeline.tune.task import Resources

FULL, GRACE = "search.budget.full_trainings", "search.scheduler.grace_period"
RATE = {"train.lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True}}
WIDE = SearchSpace("space.yaml", {**SPACE.dimensions, **RATE}, SPACE.controls)
RECIPE = SearchSpace("space.yaml", RATE, {"baseline": {}})
FEW = SearchSpace(
    "space.yaml", {"model.drop_path": {"type": "float", "low": 0.0, "high": 0.2, "step": 0.1}}, {"baseline": {}}
)
SAME = {"search.compare": "same_budget"}


def asked(**changes: Any) -> Params:
    small = {"train.epochs": 8, "search.trials": None, FULL: 20, GRACE: None, "search.scheduler.reduction_factor": 4.0}
    return Params().with_values(small | changes, where="the test")


def test_budget_is_told_by_what_it_goes_into_and_what_it_will_try() -> None:
    assert describe_budget(asked(), SPACE) == (
        "20 full trainings of 8 epochs = 160 epochs: controls 2, confirmations up to 10, trials the rest: about 19 "
        "configurations, of which about 4 run in full"
    )
    assert describe_trials(asked(), SPACE) == "about 19 trials"
    assert max_epochs(asked(), SPACE) == 160


def test_other_limits_follow_the_epochs() -> None:
    assert describe_budget(asked(**{FULL: 13.5, "search.budget.hours": 3}), SPACE).endswith(
        "= 108 epochs: controls 2, confirmations up to 10, trials the rest: about 3 configurations, of which about 1 runs "
        "in full; hours 3"
    )
    assert describe_budget(asked(**{FULL: None, "search.trials": 4, "search.budget.hours": 3}), SPACE) == "hours 3"
    assert describe_budget(asked(**{FULL: None, "search.trials": 4}), SPACE) == "no limit but the number of trials"


def test_budget_of_two_studies_is_told_in_halves() -> None:
    said = describe_budget(asked(**{FULL: 40} | SAME), WIDE)
    assert "trials the rest, half of it for baseline's own study: about 52 configurations" in said
    assert describe_trials(asked(**{FULL: 40} | SAME), WIDE) == "about 52 trials in two studies"


def test_trials_are_told_by_whatever_bounds_them() -> None:
    assert describe_trials(asked(**{"search.trials": 4}), SPACE) == "4 trials"
    assert max_epochs(asked(**{"search.trials": 4}), SPACE) == (2 + 4 + 10) * 8
    assert describe_trials(asked(**{"search.trials": 400}), SPACE) == "about 19 trials"
    assert describe_trials(asked(), FEW) == "3 trials, every configuration that the space has,"
    assert describe_trials(asked(**{FULL: 4}), SPACE) == "1 trial, as many as the budget allows,"
    by_number = asked(**{"search.trials": 10, FULL: None})
    assert describe_trials(by_number, FEW) == "3 trials, every configuration that the space has (search.trials: 10),"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ", rungs after 2 epochs"),
        ({"train.epochs": 50}, ", rungs after 6, 12 epochs"),
        ({GRACE: 8}, ", no rung before the last epoch"),
        ({"search.scheduler.name": "median"}, " from epoch 2 on"),
        ({"search.scheduler.name": "none"}, ""),
    ],
)
def test_rungs_are_told(changes: dict[str, Any], said: str) -> None:
    assert describe_rungs(asked(**changes), SPACE) == said


def test_search_that_nothing_ends_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"full_trainings and search\.trials are both null.*Set search\.budget\.full_tr"
    ):
        check_budget_epochs(asked(**{FULL: None}), SPACE)
    check_budget_epochs(asked(**{FULL: None, "search.trials": 1}), SPACE)


@pytest.mark.parametrize(
    ("space", "changes", "least", "said"),
    [
        (SPACE, {}, 13, "for 2 controls, up to 10 confirmations and one training in full. Raise it, or lower "),
        (
            RECIPE,
            {"search.confirm.seeds": 1},
            6,
            "for 1 control, up to 4 confirmations and one training in full. Raise",
        ),
        (WIDE, SAME, 20, "up to 16 confirmations and one training in full of each study. Raise it, or lower"),
        (SPACE, {"search.trials": 5}, 13, "search.confirm.top (3) or search.confirm.seeds (2)."),
    ],
)
def test_budget_that_does_not_hold_what_must_run_is_refused(
    space: SearchSpace, changes: dict[str, Any], least: int, said: str
) -> None:
    check_budget_epochs(asked(**{FULL: least} | changes), space)
    with pytest.raises(UserError) as refused:
        check_budget_epochs(asked(**{FULL: least - 0.5} | changes), space)
    assert f"full_trainings: given {least - 0.5:g}; needed: {least} or more, for " in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("space", "changes", "least", "said"),
    [
        (SPACE, {"train.epochs": 40}, 5, "Up to epoch 4 (the regulariser's warm-up) its weight is still rising, and"),
        (RECIPE, {"train.epochs": 40, "train.warmup_epochs": 2}, 3, "Up to epoch 2 (train.warmup_epochs) the learning"),
        (SPACE, {"train.epochs": 40, "train.warmup_epochs": 9}, 10, "Up to epoch 9 (train.warmup_epochs) the learning"),
    ],
)
def test_grace_period_within_a_warmup_is_refused(
    space: SearchSpace, changes: dict[str, Any], least: int, said: str
) -> None:
    for allowed in (None, least, 40):
        check_grace_period(asked(**changes | {GRACE: allowed}), space)
    for given in (least - 1, 41):
        with pytest.raises(UserError) as refused:
            check_grace_period(asked(**changes | {GRACE: given}), space)
        assert f"grace_period: given {given}; allowed: {least} to 40 (train.epochs), or null, " in str(refused.value)
        assert (said in str(refused.value)) == (given < least)
        assert f"null, which is {least} here, or search.scheduler.name: none." in str(refused.value)
        check_grace_period(asked(**changes | {GRACE: given, "search.scheduler.name": "none"}), space)


def test_warmup_of_a_regulariser_that_is_off_forbids_no_grace_period() -> None:
    check_grace_period(asked(**{"train.epochs": 40, "train.warmup_epochs": 0, GRACE: 1}), RECIPE)


def test_fewer_checkpoints_than_trials_at_a_time_are_refused_where_trials_pause() -> None:
    eight, kept = Resources(1, 0.0, 8, 8, 0), "search.keep_checkpoints"
    for allowed in (8, None):
        check_checkpoints(asked(**{kept: allowed}), SPACE, eight)
    with pytest.raises(
        UserError, match=r"search\.keep_checkpoints: given 7; allowed: 8 or more.*or null, which keeps all"
    ):
        check_checkpoints(asked(**{kept: 7}), SPACE, eight)
    check_checkpoints(asked(**{kept: 7, "search.scheduler.name": "asha_stopping"}), SPACE, eight)
    check_checkpoints(asked(**{kept: 7, "search.trials": 7}), SPACE, eight)

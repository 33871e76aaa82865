"""Claims about what a search asks for at most, by the number of its trials or by the epochs that it may spend."""

from typing import Any

import pytest
from support.simulated_search import LR, RATE, SPACE, WIDE

from pipeline.config import Params
from pipeline.tune.journal.records import CONTROL_STUDY, METHOD
from pipeline.tune.run_counts import (
    budget_epochs,
    control_seeds,
    least_full_trainings,
    max_confirmation_runs,
    max_runs,
    requested_trials,
    study_allowance,
)
from pipeline.tune.space import SearchSpace

FULL, GRACE = "search.budget.full_trainings", "search.scheduler.grace_period"
TUNED = {"search.compare": "same_budget"}


def asked(**changes: Any) -> Params:
    by_epochs = {
        "train.epochs": 8,
        "search.trials": None,
        FULL: None,
        GRACE: 2,
        "search.confirm.top": 3,
        "search.confirm.seeds": 2,
    }
    return Params().with_values(by_epochs | changes, where="the test")


@pytest.mark.parametrize(("full", "epochs"), [(None, None), (20, 160), (2.5, 20), (1.3, 10), (0.1 + 0.2, 2)])
def test_full_trainings_are_so_many_epochs_rounded_down(full: float | None, epochs: int | None) -> None:
    assert budget_epochs(asked(**{FULL: full})) == epochs


def test_trials_alone_decide_where_there_is_no_budget_of_epochs() -> None:
    params = asked(**{"search.trials": 12})
    assert study_allowance(params, WIDE) is None
    assert requested_trials(params, WIDE) == {METHOD: 12}
    assert max_runs(params, WIDE) == 2 + 12 + (2 * 2 + 3 * 2)
    assert requested_trials(asked(**{"search.trials": 12} | TUNED), WIDE) == {METHOD: 12, CONTROL_STUDY: 12}
    assert control_seeds(asked(**{"search.trials": 12} | TUNED), SPACE) == {"baseline": 12}


def test_trials_get_what_controls_and_confirmations_do_not_take() -> None:
    params = asked(**{FULL: 20})
    # Two controls, two further seeds of each, and of three candidates.
    assert max_confirmation_runs(params, WIDE) == 4 + 6
    assert study_allowance(params, WIDE) == (20 - 2 - 10) * 8
    assert requested_trials(params, WIDE) == {METHOD: 64 // 2}
    assert requested_trials(asked(**{FULL: 20, GRACE: None, "train.warmup_epochs": 3}), WIDE) == {METHOD: 64 // 4}
    assert requested_trials(asked(**{FULL: 20, "search.scheduler.name": "none"}), WIDE) == {METHOD: 8}
    assert max_runs(params, WIDE) == 2 + 32 + 10


def test_number_of_trials_bounds_a_search_that_has_a_budget_too() -> None:
    assert requested_trials(asked(**{FULL: 20, "search.trials": 5}), WIDE) == {METHOD: 5}
    assert requested_trials(asked(**{FULL: 20, "search.trials": 50}), WIDE) == {METHOD: 32}
    few = SearchSpace("space.yaml", {LR: RATE | {"log": False, "step": 0.333}}, {"baseline": {}})
    assert few.size() == 4
    assert requested_trials(asked(**{FULL: 20}), few) == {METHOD: 4}


def test_control_of_the_same_budget_shares_it_in_halves() -> None:
    params = asked(**{FULL: 30} | TUNED)
    # Candidates of both studies are confirmed.
    assert study_allowance(params, WIDE) == (30 - 2 - 4 - 12) * 8 // 2
    assert requested_trials(params, WIDE) == dict.fromkeys((METHOD, CONTROL_STUDY), 24)


def test_control_that_has_nothing_to_tune_gets_its_half_in_seeds() -> None:
    params = asked(**{FULL: 20} | TUNED)
    # One control and six confirmations leave 13: six further seeds, and seven for the trials.
    assert control_seeds(params, SPACE) == {"baseline": 6}
    assert study_allowance(params, SPACE) == 7 * 8
    assert control_seeds(asked(**{FULL: 20, "search.trials": 4} | TUNED), SPACE) == {"baseline": 4}
    assert control_seeds(asked(**{FULL: 8} | TUNED), SPACE) == {"baseline": 2}


@pytest.mark.parametrize(
    ("space", "changes", "least"),
    [
        (WIDE, {}, 2 + 4 + 6 + 1),
        (WIDE, TUNED, 2 + 4 + 12 + 2),
        (SPACE, TUNED, 1 + 2 + 6 + 1),
        (WIDE, {"search.confirm.seeds": 0}, 3),
    ],
)
def test_least_budget_holds_controls_confirmations_and_a_training_of_every_study(
    space: SearchSpace, changes: dict[str, Any], least: int
) -> None:
    params = asked(**changes)
    assert least_full_trainings(params, space) == least
    assert (study_allowance(asked(**changes | {FULL: least}), space) or 0) >= 8
    assert (study_allowance(asked(**changes | {FULL: least - 1}), space) or 0) < 8

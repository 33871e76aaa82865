"""Claims about budgets: which limit stops a search, when, under which name; and the best of trials that end anyhow."""

import itertools
from dataclasses import replace

import pytest

from pipeline.tune.budget import HOUR, TOO_LITTLE, BestSoFar, Budget, BudgetState, EpochAllowance, exhausted_limit

FRESH = BudgetState(
    seconds=0.0,
    gpu_seconds=0.0,
    pending_epochs=0,
    pending_runs=0,
    trial_epochs=10,
    next_epochs=10,
    seconds_per_epoch=None,
    gpus=0.5,
    max_concurrent=1,
)
"""Before the first epoch. In the tests an epoch takes 36 s, so that a trial of ten takes a tenth of an hour."""

NO_LIMIT = Budget()


def account(**changes: float | None) -> BudgetState:
    return replace(FRESH, **{"seconds_per_epoch": 36.0, **changes})  # type: ignore[arg-type]


def test_search_without_a_limit_never_stops() -> None:
    assert exhausted_limit(NO_LIMIT, FRESH) is None
    spent = account(seconds=1e9, gpu_seconds=1e9, pending_epochs=10**6, best=1.0, since_best=10**6)
    assert exhausted_limit(NO_LIMIT, spent) is None
    assert exhausted_limit(Budget(price_per_gpu_hour=3.0), spent) is None


@pytest.mark.parametrize("limits", [{"hours": 1e-9}, {"gpu_hours": 1e-9}, {"cost": 1e-9, "price_per_gpu_hour": 1.0}])
def test_first_trial_starts_before_any_pace_is_known(limits: dict[str, float]) -> None:
    assert exhausted_limit(Budget(**limits), FRESH) is None


def test_hours_stop_when_one_more_trial_would_not_end_within_them() -> None:
    budget = Budget(hours=1.0)
    assert exhausted_limit(budget, account(seconds=0.9 * HOUR)) is None
    said = exhausted_limit(budget, account(seconds=0.9 * HOUR + 1))
    assert said == f"search.budget.hours: 0.90 of 1 hours spent; {TOO_LITTLE}"


def test_what_is_owed_counts_as_spent() -> None:
    budget = Budget(hours=1.0)
    assert exhausted_limit(budget, account(seconds=0.4 * HOUR, pending_epochs=20, pending_runs=3)) is None
    for more in (
        account(seconds=0.4 * HOUR, pending_epochs=21, pending_runs=3),
        account(seconds=0.5 * HOUR, pending_runs=5),
    ):
        assert exhausted_limit(budget, more) is not None


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 8])
def test_no_number_of_workers_makes_a_run_shorter_and_what_follows_waits_for_it(at_a_time: int) -> None:
    # Three confirmations, in waves, each of which takes as long as a run.
    hours = {1: 0.4, 2: 0.3, 3: 0.2, 8: 0.2}[at_a_time]
    waiting = account(pending_runs=3, max_concurrent=at_a_time)
    assert exhausted_limit(Budget(hours=hours + 0.001), waiting) is None
    assert exhausted_limit(Budget(hours=hours - 0.001), waiting) is not None


def test_more_trials_at_a_time_promise_less_time_and_as_many_gpu_hours() -> None:
    alone, many = account(pending_epochs=190, max_concurrent=1), account(pending_epochs=190, max_concurrent=8)
    assert exhausted_limit(Budget(hours=1.0), alone) is not None
    assert exhausted_limit(Budget(hours=1.0), many) is None
    for same in (alone, many):
        assert exhausted_limit(Budget(gpu_hours=1.0), same) is None
        assert exhausted_limit(Budget(gpu_hours=0.99), same) is not None


def test_gpu_hours_count_a_trials_share() -> None:
    # A trial of 0.1 hours on half a GPU: 0.05 GPU-hours.
    assert exhausted_limit(Budget(gpu_hours=1.0), account(gpu_seconds=0.95 * HOUR)) is None
    said = exhausted_limit(Budget(gpu_hours=1.0), account(gpu_seconds=0.96 * HOUR))
    assert said == f"search.budget.gpu_hours: 0.96 GPU-hours spent; {TOO_LITTLE}"


def test_cost_is_gpu_hours_at_a_price() -> None:
    budget = Budget(cost=3.0, price_per_gpu_hour=1.5)
    assert budget.price(2 * HOUR) == 3.0
    assert exhausted_limit(budget, account(gpu_seconds=1.95 * HOUR)) is None
    said = exhausted_limit(budget, account(gpu_seconds=1.96 * HOUR))
    assert said == f"search.budget.cost: 1.96 GPU-hours spent; {TOO_LITTLE}"


def test_cost_without_a_price_is_no_limit() -> None:
    assert exhausted_limit(Budget(cost=1.0), account(gpu_seconds=1e9)) is None
    assert Budget(cost=1.0).gpu_limit is None
    assert Budget().price(1e9) == 0.0


@pytest.mark.parametrize(("cost", "named"), [(1.0, "cost"), (100.0, "gpu_hours")])
def test_tighter_of_the_two_gpu_limits_is_the_one_that_is_named(cost: float, named: str) -> None:
    said = exhausted_limit(Budget(gpu_hours=10.0, cost=cost, price_per_gpu_hour=1.0), account(gpu_seconds=10 * HOUR))
    assert said is not None
    assert said.startswith(f"search.budget.{named}: ")


def test_trials_without_a_gpu_spend_no_gpu_hours() -> None:
    assert exhausted_limit(Budget(gpu_hours=0.001), account(gpus=0.0, pending_epochs=1000)) is None


@pytest.mark.parametrize(("best", "stops"), [(None, False), (0.8999, False), (0.9, True), (0.95, True)])
def test_target_is_reached_by_what_is_as_good(best: float | None, stops: bool) -> None:
    said = exhausted_limit(Budget(target=0.9), account(best=best))
    assert (said is not None) == stops
    assert said in (None, f"search.budget.target: {best:.4f} reached 0.9" if best else None)


@pytest.mark.parametrize(("since", "stops"), [(0, False), (3, False), (4, True), (5, True)])
def test_patience_ends_with_so_many_trials_that_were_no_better(since: int, stops: bool) -> None:
    said = exhausted_limit(Budget(patience=4), account(best=0.5, since_best=since))
    assert said == (f"search.budget.patience: {since} trials in a row were no better" if stops else None)


def best_so_far(*ended: tuple[int, float | None]) -> tuple[float | None, int]:
    best = BestSoFar()
    for number, value in ended:
        best.add(number, value)
    return best.value, best.since


def test_best_so_far_counts_the_trials_after_it() -> None:
    assert best_so_far() == (None, 0)
    assert best_so_far((0, 0.5)) == (0.5, 0)
    assert best_so_far((0, 0.5), (1, 0.4), (2, None)) == (0.5, 2)
    assert best_so_far((0, 0.5), (1, 0.4), (2, 0.6)) == (0.6, 0)
    assert best_so_far((0, None), (1, None)) == (None, 2)


def test_equal_trial_is_no_better() -> None:
    assert best_so_far((0, 0.5), (1, 0.5), (2, 0.5)) == (0.5, 2)


def test_best_so_far_does_not_depend_on_the_order_in_which_trials_end() -> None:
    trials = [(0, 0.3), (1, None), (2, 0.7), (3, 0.7), (4, 0.1)]
    assert {best_so_far(*order) for order in itertools.permutations(trials)} == {(0.7, 2)}


def test_trials_that_wait_count_once_there_is_a_best_one_and_only_while_they_wait() -> None:
    best = BestSoFar()
    for number in (0, 1, 2):
        best.pause(number)
    assert best.since == 0
    best.resume(1)
    best.add(1, 0.5)
    assert (best.value, best.since) == (0.5, 1)
    best.resume(2)
    assert best.since == 0
    best.add(2, 0.4)
    assert best.since == 1
    best.resume(7)  # which never waited


def test_time_is_promised_to_the_next_rung_and_for_the_trial_that_must_run_in_full() -> None:
    budget = Budget(hours=1.0)
    assert exhausted_limit(budget, account(seconds=0.97 * HOUR, next_epochs=3)) is None
    assert exhausted_limit(budget, account(seconds=0.97 * HOUR, next_epochs=4)) is not None
    assert exhausted_limit(budget, account(seconds=0.97 * HOUR, next_epochs=3, reserved_epochs=1)) is not None
    assert (
        exhausted_limit(budget, account(seconds=0.8 * HOUR, pending_epochs=7, next_epochs=3, reserved_epochs=10))
        is None
    )


def test_allowance_counts_what_is_promised_once() -> None:
    allowance = EpochAllowance(10.0)
    allowance.promise("t0000", 4)
    allowance.promise("t0001", 4)
    assert allowance.fits(2)
    assert not allowance.fits(3)
    allowance.promise("t0000", 2)  # it ended early
    assert (allowance.total, allowance.promised("t0000"), allowance.promised("t0009")) == (6, 2, 0)
    assert allowance.fits(4)
    assert EpochAllowance(None).fits(10**9)

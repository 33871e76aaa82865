"""Claims about what is told before a search: measured on the real network, and by arithmetic that a person can redo."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.example_plans import COST, TEN_STEPS, THOUSAND

from pipeline.errors import UserError
from pipeline.preflight import estimate as module
from pipeline.preflight.estimate import (
    BESIDE,
    START_S,
    Estimate,
    RemainingWork,
    check_disk,
    describe_disk,
    estimate,
    retraining_seconds,
    stored_checkpoints,
)
from pipeline.preflight.plan import Plan
from pipeline.tune.task import Resources

pytestmark = pytest.mark.usefixtures("quick_steps")

# Estimating.

RUNGS = {"search.scheduler.name": "asha_stopping", "search.scheduler.grace_period": 4}
"""At 4 and 8 epochs."""


def test_estimate_is_what_can_be_worked_out_by_hand(planned: Callable[..., Plan]) -> None:
    plan = planned({**TEN_STEPS, **RUNGS}, source=THOUSAND)
    found = estimate(plan, COST, RemainingWork(trials=12, full_runs=2, epochs=16, max_concurrent=2, gpus=0.0))
    # An epoch: eight steps of 0.5 to 1 s, 200 images of 0.01 s, and every second time a checkpoint, written twice.
    assert found.epoch == (4 + 2 + 0.25, 8 + 2 + 0.25)
    # Rungs at 4 and 8 let a half through each: 3 of 12 trials and 2 controls run 16 epochs, 9 trials run 4.
    assert found.seconds[0] == pytest.approx(START_S[0] + (5 * 16 + 9 * 4) / 2 * 6.25)
    # In full, 14 runs two at a time are seven rounds.
    assert found.seconds[1] == pytest.approx(START_S[1] + 7 * 16 * 10.25 * BESIDE)
    assert (found.gpu_hours, found.cost) == (None, None)


def test_without_a_scheduler_every_trial_runs_in_full(planned: Callable[..., Plan]) -> None:
    plan = planned({**TEN_STEPS, "search.scheduler.name": "none"}, source=THOUSAND)
    found = estimate(plan, COST, RemainingWork(trials=3, full_runs=0, epochs=16, max_concurrent=1, gpus=0.0))
    assert found.seconds == pytest.approx((START_S[0] + 3 * 16 * 6.25, START_S[1] + 3 * 16 * 10.25))


def test_search_is_no_shorter_than_its_longest_run(planned: Callable[..., Plan]) -> None:
    plan = planned(TEN_STEPS, source=THOUSAND)
    found = estimate(plan, COST, RemainingWork(trials=2, full_runs=1, epochs=16, max_concurrent=8, gpus=0.0))
    assert found.seconds[0] == pytest.approx(START_S[0] + 16 * 6.25)


def test_grace_as_long_as_a_run_stops_nothing(planned: Callable[..., Plan]) -> None:
    plan = planned({**TEN_STEPS, "search.scheduler.grace_period": 16}, source=THOUSAND)
    found = estimate(plan, COST, RemainingWork(trials=5, full_runs=0, epochs=16, max_concurrent=1, gpus=0.0))
    assert found.seconds[0] == pytest.approx(START_S[0] + 5 * 16 * 6.25)


@pytest.mark.parametrize(("gpus", "at_a_time", "slowing", "held"), [(1.0, 2, 1, 2), (0.25, 4, 4, 1), (0.25, 2, 2, 0.5), (0.3, 8, 3, 2.4), (2.0, 2, 1, 4)])  # fmt: skip
def test_gpu_hours_and_cost_follow_the_gpus_held(
    planned: Callable[..., Plan], gpus: float, at_a_time: int, slowing: int, held: float
) -> None:
    plan = planned(TEN_STEPS, source=THOUSAND)
    found = estimate(
        plan, COST, RemainingWork(trials=7, full_runs=1, epochs=16, max_concurrent=at_a_time, gpus=gpus), price=3.0
    )
    assert found.seconds[1] == pytest.approx(START_S[1] + -(-8 // at_a_time) * 16 * 10.25 * slowing)
    assert found.gpu_hours == pytest.approx(tuple(seconds / 3600 * held for seconds in found.seconds))
    assert found.cost == pytest.approx(tuple(seconds / 3600 * held * 3.0 for seconds in found.seconds))


def test_trials_take_no_more_epochs_than_the_budget_leaves_them(planned: Callable[..., Plan]) -> None:
    plan = planned({**TEN_STEPS, **RUNGS}, source=THOUSAND)
    work = RemainingWork(trials=100, full_runs=2, epochs=16, max_concurrent=1, gpus=0.0, trial_epochs=160)
    found = estimate(plan, COST, work)
    # However they are spent, they are 160, beside those of two controls.
    assert found.seconds == pytest.approx((START_S[0] + 192 * 6.25, START_S[1] + 192 * 10.25))
    found = estimate(plan, COST, replace(work, max_concurrent=2))
    # Side by side, one run may be the last, and alone.
    assert found.seconds == pytest.approx((START_S[0] + 96 * 6.25, START_S[1] + (96 + 16) * 10.25 * BESIDE))
    # Three trials that end at the first rung, but for one, take less than the budget has for them; two rounds of runs in
    # full are more than both.
    few = estimate(plan, COST, replace(work, trials=3, full_runs=0, max_concurrent=2))
    assert few.seconds == pytest.approx((START_S[0] + 16 * 6.25, START_S[1] + 2 * 16 * 10.25 * BESIDE))


def test_gpus_that_no_run_needs_are_not_counted(planned: Callable[..., Plan]) -> None:
    found = estimate(planned(), COST, RemainingWork(trials=1, full_runs=1, epochs=3, max_concurrent=8, gpus=1.0))
    assert found.gpu_hours == pytest.approx(tuple(seconds / 3600 * 2 for seconds in found.seconds))


def test_price_without_gpus_is_of_the_machine(planned: Callable[..., Plan]) -> None:
    found = estimate(planned(), COST, RemainingWork(4, 1, 3, 2, 0.0), price=2.0)
    assert found.cost == pytest.approx(tuple(seconds / 3600 * 2.0 for seconds in found.seconds))


def test_low_is_below_high_for_any_work(planned: Callable[..., Plan]) -> None:
    plan = planned(TEN_STEPS, source=THOUSAND)
    flat = replace(COST, seconds_per_step=(1.0, 1.0))
    for trials, full, at_a_time in ((1, 0, 1), (1, 1, 4), (7, 3, 3), (1000, 2, 16), (0, 5, 2)):
        found = estimate(plan, flat, RemainingWork(trials, full, 16, at_a_time, 1.0))
        assert 0 < found.seconds[0] < found.seconds[1]


def test_nothing_to_run_takes_nothing(planned: Callable[..., Plan]) -> None:
    found = estimate(planned(), COST, RemainingWork(0, 0, 16, 2, 1.0), price=2.0)
    assert (found.seconds, found.gpu_hours, found.cost) == ((0.0, 0.0),) * 3


def test_retraining_is_both_arms_with_every_seed_on_train_and_val(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "retrain_resources", lambda params: Resources(1, 0.0, 4, 4, 0))
    settings = {**TEN_STEPS, "retrain.seeds": 3}
    # An epoch: ten steps of 0.5 to 1 s, and every second time a checkpoint, written twice. Six runs, four at a time.
    low, high = START_S[0] + 16 * 5.25 * 6 / 4, START_S[1] + 16 * 10.25 * 2 * BESIDE
    assert retraining_seconds(planned(settings, source=THOUSAND), COST) == pytest.approx((low, high))
    one = planned(settings | {"retrain.max_concurrent_runs": 1}, source=THOUSAND)
    assert retraining_seconds(one, COST) == pytest.approx((START_S[0] + 16 * 5.25 * 6, START_S[1] + 16 * 10.25 * 6))


def test_retraining_of_as_many_seeds_as_the_search_will_say_is_a_range_from_the_fewest_to_the_most(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "retrain_resources", lambda params: Resources(1, 0.0, 4, 4, 0))
    settings = {**TEN_STEPS, "retrain.seeds": "auto", "retrain.max_seeds": 5}
    # Four runs, four at a time; ten runs in three rounds.
    low, high = START_S[0] + 16 * 5.25, START_S[1] + 16 * 10.25 * 3 * BESIDE
    assert retraining_seconds(planned(settings, source=THOUSAND), COST) == pytest.approx((low, high))


@pytest.mark.parametrize("setting", [{"retrain.workers_per_run": 2}, {"retrain.cpus_per_run": 2}])
def test_retraining_unlike_what_was_measured_is_not_foretold(
    planned: Callable[..., Plan], setting: dict[str, int]
) -> None:
    assert retraining_seconds(planned({**TEN_STEPS, **setting}, source=THOUSAND), COST) is None


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ((20.0, 80.0), "20 to 80 seconds"),
        ((240.0, 540.0), "4 to 9 minutes"),
        ((45.0, 93.0), "0.8 to 1.6 minutes"),
        ((5000.0, 9000.0), "1.4 to 2.5 hours"),
        ((90_000.0, 3_000_000.0), "1 to 35 days"),
        ((600.0, 600.0), "10 minutes"),
    ],
)
def test_duration_is_told_in_the_unit_of_its_high_end(seconds: tuple[float, float], said: str) -> None:
    lines = Estimate(seconds, (0.312, 0.312), None, None).describe()
    assert lines == [f"expected  {said} for the search (0.31 s an epoch measured just now)"]


def test_gpu_hours_and_cost_are_told_where_there_are_any() -> None:
    lines = Estimate((3600.0, 7200.0), (0.8, 12.3), (2.0, 4.0), (5.0, 10.5)).describe()
    assert lines == [
        "expected  1 to 2 hours for the search (0.80 to 12 s an epoch measured just now)",
        "          2 to 4 GPU-hours, a cost of 5.00 to 10.50",
    ]
    assert Estimate((60.0, 60.0), (1.0, 1.0), None, None, (600.0, 720.0)).describe()[1:] == [
        "          10 to 12 minutes for retraining"
    ]


# Refusing.


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> list[Path]:
    asked: list[Path] = []
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: asked.append(path) or SimpleNamespace(total=free, used=0, free=free)
    )
    return asked


def test_disk_too_small_for_the_checkpoints_is_refused(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Five kept and two of running trials, of 1 MB each, twice.
    asked = disk(monkeypatch, 14_000_000)
    check_disk(COST, planned(), num_checkpoints=5)
    assert asked == [tmp_path]  # state/ is not there yet
    disk(monkeypatch, 13_999_999)
    elsewhere = replace(planned().resources, address="head:6379")
    check_disk(COST, planned({"search.cluster.storage": "s3://bucket/x"}, resources=elsewhere), num_checkpoints=5)
    with pytest.raises(UserError, match="/shared: 14 MB are free"):
        check_disk(COST, planned({"search.cluster.storage": "/shared"}, resources=elsewhere), num_checkpoints=5)
    with pytest.raises(UserError) as refused:
        check_disk(COST, planned(), num_checkpoints=5)
    assert str(refused.value) == (
        f"{tmp_path / 'state'}: 14 MB are free there, and 7 checkpoints of 1.0 MB (5 kept, 2 of running trials) need 14 MB "
        "with room to spare. Lower search.keep_checkpoints, free space, or move the checkout to a disk that has more."
    )


def test_checkpoints_on_disk_are_told_with_what_bounds_them(planned: Callable[..., Plan]) -> None:
    settings = {"train.epochs": 8, "search.trials": None, "search.budget.full_trainings": 20}
    settings |= {"search.scheduler.grace_period": 2, "search.scheduler.reduction_factor": 4.0}
    plan = planned(settings | {"search.keep_checkpoints": None})
    # Of 19 trials, by the forecast, and of two controls.
    assert stored_checkpoints(plan.params, plan.space) == 19 + 2
    assert stored_checkpoints(planned(settings).params, plan.space) == 5 + 2
    assert describe_disk(COST, plan, 21) == (
        "about 23 MB: 23 checkpoints of 1.0 MB (search.keep_checkpoints: null, all stay)"
    )
    assert "(search.keep_checkpoints: 5)" in describe_disk(COST, planned(settings), 7)

"""Claims about what is told of the whole procedure before it starts: every search that folds ask for, and retraining."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from support.example_plans import COST, TEN_STEPS

from pipeline.data.sources.image_source import Preview
from pipeline.errors import UserError
from pipeline.preflight import estimate as estimate_module
from pipeline.preflight import total_estimate as module
from pipeline.preflight.estimate import START_S, Estimate, RemainingWork, estimate, remaining_work, retraining_seconds
from pipeline.preflight.plan import Plan
from pipeline.preflight.profile import role_sizes
from pipeline.preflight.total_estimate import BETWEEN_S, describe_estimates, estimate_searches
from pipeline.preflight.validate import check_splits, check_warm_start
from pipeline.tune.journal.records import SearchHistory
from pipeline.tune.task import Resources

pytestmark = pytest.mark.usefixtures("quick_steps")

THOUSAND = Preview(images=1000, classes=("a", "b"), channels=1)
FOLDS = TEN_STEPS | {"evaluate.folds": 5, "search.trials": 4, "search.budget.full_trainings": None}


def test_folds_train_on_fewer_images_and_what_is_registered_on_all(planned: Callable[..., Plan]) -> None:
    plans = planned(FOLDS, source=THOUSAND).expected_parts()
    assert [role_sizes(plan) for plan in plans] == [(800, 200), *[(640, 160)] * 5]
    assert [plan.params.base.seed for plan in plans] == [0, 10_000, 20_000, 30_000, 40_000, 50_000]
    kept = planned(FOLDS | {"evaluate.holdout": 0.2}, source=THOUSAND)
    assert [role_sizes(plan) for plan in kept.expected_parts()[:2]] == [(640, 160), (512, 128)]
    assert (kept.test_images, plans[0].test_images) == (800, 1000)
    (plan,) = planned(TEN_STEPS, source=THOUSAND).expected_parts()
    assert role_sizes(plan) == (640, 160)


def test_total_is_said_first(planned: Callable[..., Plan]) -> None:
    store = SimpleNamespace(shown="a store")
    lines = planned(FOLDS | {"retrain.seeds": 5}, source=THOUSAND, store=store).describe().splitlines()
    # Of each search 4 trials, 2 controls and 2 further seeds of at most 5 of them; 16 epochs a run.
    assert lines[0] == (
        "folds     5: 6 searches, on all images and outside each fold, with 96 runs and 1,536 epochs at most "
        "(search.budget applies to each); then 51 retraining runs, 816 epochs: best and baseline in each fold, and the "
        "network to be registered, on all images"
    )
    assert lines[1] == "tested    all 1,000 images, each by networks of the other folds"
    kept = planned(FOLDS | {"evaluate.holdout": 0.2, "retrain.seeds": "auto"}, source=THOUSAND, store=store).describe()
    assert "then 21 to 201 retraining runs, 3,216 epochs at most" in kept
    assert "tested    all 800 images, each by networks of the other folds; 200 are kept apart for the registered one" in kept  # fmt: skip
    assert not planned(TEN_STEPS, source=THOUSAND, store=store).describe().startswith("folds")


def test_searches_are_added_up_and_their_retraining_is_of_every_fold(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = planned(FOLDS, source=THOUSAND).expected_parts()
    monkeypatch.setattr(module, "profile_steps", lambda plan, recent: COST)
    works = [remaining_work(plan, SearchHistory()) for plan in plans]
    found = estimate_searches(plans, list(zip(plans, works, strict=True)))
    alone = [estimate(plan, COST, work) for plan, work in zip(plans, works, strict=True)]
    expected = [sum(each.seconds[end] for each in alone) + 5 * BETWEEN_S[end] for end in (0, 1)]
    assert found.seconds == pytest.approx(tuple(expected))
    assert estimate_one(plans[0], works[0]).seconds == alone[0].seconds  # nothing lies between one search and none
    assert alone[1].seconds < alone[0].seconds
    assert found.searches == 6
    assert found.retraining == retraining_seconds(plans[0], COST)
    single = retraining_seconds(planned(TEN_STEPS | {"retrain.seeds": 1}, source=THOUSAND), COST)
    assert found.retraining is not None
    assert single is not None
    assert found.retraining[1] > 10 * single[1]  # 21 runs for 2, on more images
    assert "for 6 searches, one after the other" in found.describe()[0]
    assert "checkpoints of 1.0 MB" in found.describe()[-1]


def test_what_has_ended_is_left_out_and_nothing_is_measured_for_nothing(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = planned(FOLDS, source=THOUSAND).expected_parts()
    taken: list[int] = []
    monkeypatch.setattr(module, "remaining_work", lambda plan, history: RemainingWork(0, history.sessions, 16, 1, 0.0))

    def estimated(plans: Any, left: Any, *, recent: bool) -> Estimate:
        taken.append(len(left))
        return Estimate((1.0, 2.0), (0.1, 0.2), None, None, searches=len(left))

    monkeypatch.setattr(module, "estimate_searches", estimated)
    done: Any = SimpleNamespace(sessions=0)
    going: Any = SimpleNamespace(sessions=3)
    assert describe_estimates(plans, [done] * 6) == [
        "expected  nothing of the 6 searches: all of their runs have ended"
    ]
    assert taken == []
    describe_estimates(plans, [done, going, done, going, going, done])
    assert taken == [3]


def test_search_of_no_folds_is_told_alone(planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(TEN_STEPS, source=THOUSAND)
    monkeypatch.setattr(module, "profile_steps", lambda plan, recent: COST)
    lines = describe_estimates([plan], [SearchHistory()])
    assert " for the search (5.35 to 8.85 s an epoch measured just now)" in lines[0]
    assert lines[-1].startswith("disk      about")
    assert estimate_one(plan, remaining_work(plan, SearchHistory())).describe() == lines
    monkeypatch.setattr(module, "remaining_work", lambda plan, history: RemainingWork(0, 0, 16, 1, 0.0))
    assert describe_estimates([plan], [SearchHistory()]) == [
        "expected  nothing of the search: all of its runs have ended"
    ]


def estimate_one(plan: Plan, work: RemainingWork) -> Estimate:
    return estimate_searches([plan], [(plan, work)])


def test_preflight_measures_checks_and_estimates(planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    work = RemainingWork(trials=2, full_runs=2, epochs=3, max_concurrent=2, gpus=0.0)
    found = estimate_one(planned(), work)
    assert START_S[0] < found.seconds[0] < found.seconds[1] < 600
    resources = Resources(cpus=1, gpus=1.0, max_concurrent=2, machine_cpus=4, machine_gpus=2)
    on_gpu = planned({"search.budget.price_per_gpu_hour": 1.0}, resources=resources)
    assert estimate_one(on_gpu, replace(work, gpus=1.0)).cost is not None
    disk = SimpleNamespace(total=1000, used=0, free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    with pytest.raises(UserError, match=r"search\.keep_checkpoints"):
        estimate_one(planned(), work)
    monkeypatch.setattr(module, "profile_steps", lambda *_, **__: replace(COST, memory_bytes=2**60))
    monkeypatch.setattr(estimate_module, "_gpu_bytes", lambda _: 2**30)
    with pytest.raises(UserError, match=r"train\.accumulate"):
        estimate_one(on_gpu, work)


def test_warm_start_from_a_search_is_refused_with_folds_and_a_table_is_not(planned: Callable[..., Plan]) -> None:
    params = planned(FOLDS).params
    check_warm_start(params.with_values({"search.warm_start": "others.csv"}, where=""))
    check_warm_start(params.with_values({"search.warm_start": "7a64", "evaluate.folds": None}, where=""))
    with pytest.raises(
        UserError, match=r"search\.warm_start: given '7a64', with evaluate\.folds: that search has seen"
    ):
        check_warm_start(params.with_values({"search.warm_start": "7a64"}, where=""))


def test_shares_of_folds_that_leave_nothing_to_train_on_are_refused(planned: Callable[..., Plan]) -> None:
    params = planned(FOLDS).params
    check_splits(params.with_values({"split.test_fraction": 0.99}, where=""))  # which folds do not look at
    with pytest.raises(UserError, match=r"evaluate\.folds and evaluate\.holdout leave less than 5 % to train on"):
        check_splits(params.with_values({"evaluate.folds": 2, "split.val_fraction": 0.95}, where=""))

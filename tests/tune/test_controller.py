"""Claims about the course of a search: what runs when, what is asked for, and what may start while it has limits."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.simulated_search import LR, SPACE, WEIGHT, WIDE, Clock, Search, told

from pipeline.tune.budget import TOO_LITTLE
from pipeline.tune.controller import STOP_FILE, Wait
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, CONTROL, FAILED, PRUNED, TrialRecord
from pipeline.tune.run_counts import control_seeds, max_confirmation_runs, max_runs


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(tmp_path)


def started(course: Any, count: int) -> list[str]:
    records = [course.next_trial() for _ in range(count)]
    assert all(isinstance(record, TrialRecord) for record in records)
    return [record.id for record in records]


def test_controls_come_first_then_trials_then_confirmations(search: Search) -> None:
    search.run()
    first = list(dict.fromkeys(search.starts))
    assert first[:6] == ["baseline", "t0000", "t0001", "t0002", "t0003", "baseline-seed1001"]
    assert len(first) == 8
    assert len(search.starts) > 8  # as one that was paused has gone on
    roles = [record.role for record in search.outcome]
    assert roles == [CONTROL] + ["trial"] * 4 + [CONFIRMATION] * 3
    best = sorted(search.outcome[1:5], key=lambda r: r.metric("val/accuracy") if r.state == COMPLETE else 0)[-2:]
    assert {record.of for record in search.outcome[-2:]} == {record.id for record in best}
    assert [record.seed for record in search.outcome[-3:]] == [1001, 1001, 1001]
    assert all(record.state in (COMPLETE, PRUNED) for record in search.outcome)
    assert PRUNED in {record.state for record in search.outcome}
    assert search.stopped is None


def test_confirmations_run_to_the_end_and_repeat_their_setting(search: Search) -> None:
    search.run()
    of = {record.id: record for record in search.outcome}
    for record in search.outcome:
        if record.role == CONFIRMATION:
            assert record.values == of[record.of or ""].values
            assert (record.state, record.last_epoch) == (COMPLETE, 4)


def test_controls_are_confirmed_while_the_last_trials_run_and_the_best_settings_wait_for_them(search: Search) -> None:
    with search.session(at_a_time=8) as course:
        assert started(course, 6) == ["baseline", "t0000", "t0001", "t0002", "t0003", "baseline-seed1001"]
        assert course.next_trial() == Wait()
        for name in ("t0000", "t0001", "t0002"):
            for epoch in range(1, 5):
                course.report(name, epoch, {"val/accuracy": 0.5})
            course.end_trial(name, COMPLETE)
            assert course.next_trial() == Wait()
        course.end_trial("t0003", FAILED, "out of memory")
        assert started(course, 2) == ["t0000-seed1001", "t0001-seed1001"]
        assert course.next_trial() == Wait()  # while runs are at work, one of them may have to be handed out again


def test_search_without_further_seeds_ends_with_its_trials(search: Search) -> None:
    search.run(search__confirm__seeds=0)
    assert search.ids == ["baseline", "t0000", "t0001", "t0002", "t0003"]
    assert search.left == 9  # every trial may be paused once


def test_search_that_has_ended_has_nothing_left(search: Search) -> None:
    before = told(search.run().requested_trials())
    course = search.run(at_a_time=4)
    assert search.left == 0
    assert search.starts == []
    assert told(course.requested_trials()) == before
    assert course.next_trial() is None


def test_failed_trial_is_kept_out_of_what_the_sampler_learns_from(tmp_path: Path) -> None:
    search = Search(tmp_path, fails=lambda record, epoch: "diverged" if record.id == "t0001" and epoch == 3 else None)
    search.results = lambda record, epoch: 0.9 if record.id == "t0001" else 0.5 + 0.01 * epoch
    course = search.run(search__scheduler__name="none")
    trials = course.studies["search"].adapter._study.get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[1].value is None
    record = search.outcome[2]
    assert (record.id, record.state, record.reason, record.last_epoch) == ("t0001", FAILED, "diverged", 2)
    assert "t0001-seed1001" not in search.ids


def test_trial_that_leaves_maps_empty_is_a_violated_constraint_and_no_candidate(tmp_path: Path) -> None:
    search = Search(tmp_path, empty=lambda record: 0.25 if record.id == "t0000" else 0.05)
    course = search.run(search__scheduler__name="none")
    trials = course.studies["search"].adapter._study.get_trials()
    kept = [value for trial in trials for key, value in trial.system_attrs.items() if key.endswith(":empty_share")]
    assert kept == [pytest.approx(0.2), 0.0, 0.0, 0.0]
    assert not any(record.of == "t0000" for record in search.outcome)


def test_search_in_which_every_trial_fails_ends(tmp_path: Path) -> None:
    search = Search(tmp_path, fails=lambda record, epoch: "no memory")
    search.run(at_a_time=3)
    assert {record.state for record in search.outcome} == {FAILED}
    assert sorted(search.ids) == ["baseline", "baseline-seed1001", "t0000", "t0001", "t0002", "t0003"]


# A control's own study.


def test_control_has_a_study_of_its_own_with_as_many_trials_in_turn_with_the_methods(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.compare": "same_budget", "search.trials": 3}, WIDE)
    search.run(search__scheduler__name="none")
    assert search.starts[:8] == ["baseline", "paper", "t0000", "c0000", "t0001", "c0001", "t0002", "c0002"]
    order = [record.study or record.role for record in search.outcome]
    assert order == ["control"] * 2 + ["search"] * 3 + ["control_study"] * 3 + ["confirmation"] * 6
    for record in search.outcome:
        if record.study == "control_study":
            assert record.values.keys() == {LR, WEIGHT}
            assert record.values[WEIGHT] == 0.0
    # Of each study the two best, and both controls.
    of = [record.of or "" for record in search.outcome if record.role == CONFIRMATION]
    assert of[:2] == ["baseline", "paper"]
    assert [name[0] for name in of[2:]] == ["t", "t", "c", "c"]


def test_control_with_nothing_to_tune_gets_its_budget_in_seeds(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.compare": "same_budget"})
    course = search.run()
    assert list(course.studies) == ["search"]
    assert [record.seed for record in search.outcome if record.of == "baseline"] == [1001, 1002, 1003, 1004]
    assert control_seeds(course.params, SPACE) == {"baseline": 4}
    assert control_seeds(course.params.with_values({"search.confirm.seeds": 9}, where=""), SPACE) == {"baseline": 9}


def test_comparison_may_change_from_one_session_to_the_next(tmp_path: Path) -> None:
    search = Search(tmp_path, space=WIDE)
    first = search.run().requested_trials()
    search.run(search__compare="same_budget")
    assert [name for name in search.starts if name[0] == "c"][:4] == ["c0000", "c0001", "c0002", "c0003"]
    assert not any(name.startswith("t") for name in search.starts)
    again = search.run(search__compare="recipe")
    assert search.starts == []
    assert told(again.requested_trials()) == told(first)


@pytest.mark.parametrize(
    ("space", "compare", "further", "runs"),
    [(SPACE, "recipe", 3, 8), (SPACE, "same_budget", 6, 11), (WIDE, "recipe", 4, 10), (WIDE, "same_budget", 6, 16)],
)
def test_runs_at_most_are_those_that_a_search_without_limits_makes(
    tmp_path: Path, space: Any, compare: str, further: int, runs: int
) -> None:
    search = Search(tmp_path, {"search.compare": compare, "search.scheduler.name": "none"}, space)
    course = search.run(at_a_time=3)
    assert max_confirmation_runs(course.params, space) == further
    assert max_runs(course.params, space) == runs == len(search.starts)


# SearchLimits.


def test_target_ends_the_search_and_what_runs_is_finished_and_confirmed(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.trials": 20, "search.budget.target": 0.7})
    search.results = lambda record, epoch: 0.8 if record.id == "t0002" else 0.5
    search.run()
    assert [name for name in search.ids if name.startswith("t")][:3] == ["t0000", "t0001", "t0002"]
    assert len([record for record in search.outcome if record.study]) == 3
    assert search.stopped == "search.budget.target: 0.8000 reached 0.7"
    assert {record.of for record in search.outcome if record.of} == {"baseline", "t0002", "t0000"}


def test_target_is_not_reached_by_a_control_or_a_confirmation(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.budget.target": 0.7})
    search.results = lambda record, epoch: 0.5 if record.study else 0.9
    search.run()
    assert len([record for record in search.outcome if record.study]) == 4
    assert search.stopped is None


def test_patience_ends_the_search_after_so_many_that_were_no_better(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.trials": 20, "search.budget.patience": 3, "search.scheduler.name": "none"})
    search.results = lambda record, epoch: 0.6 if record.id == "t0002" else 0.5
    search.run()
    assert len([record for record in search.outcome if record.study]) == 6
    assert search.stopped == "search.budget.patience: 3 trials in a row were no better"


def test_hours_end_the_search_so_that_what_is_owed_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(tmp_path, {"search.trials": 100, "search.scheduler.name": "none"}, clock=Clock(monkeypatch))
    search.epoch_s = 36.0
    # A run takes 144 s. In 25 runs' time: the control, three confirmations, and 21 trials.
    course = search.run(search__budget__hours=1.0)
    assert len([record for record in search.outcome if record.study]) == 21
    assert len(search.outcome) == 25
    assert course.journal.history.seconds == 3600.0
    assert search.stopped == f"search.budget.hours: 0.88 of 1 hours spent; {TOO_LITTLE}"


@pytest.mark.parametrize("at_a_time", [1, 3, 8])
@pytest.mark.parametrize("limit", [{"hours": 0.3}, {"gpu_hours": 0.4}, {"cost": 0.6, "price_per_gpu_hour": 2.0}])
def test_budget_is_never_exceeded_and_confirmations_are_within_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: dict[str, float], at_a_time: int
) -> None:
    budget = {f"search.budget.{name}": value for name, value in limit.items()}
    search = Search(tmp_path, {"search.trials": 1000, **budget}, clock=Clock(monkeypatch), epoch_s=20.0, gpus=0.5)
    history = search.run(at_a_time=at_a_time).journal.history
    spent = {"hours": history.seconds, "gpu_hours": history.gpu_seconds, "cost": 2 * history.gpu_seconds}
    name, most = next(iter(limit.items()))
    assert 0.6 * most < spent[name] / 3600 <= most
    assert len([record for record in search.outcome if record.role == CONFIRMATION]) == 3
    assert search.stopped is not None
    assert search.stopped.startswith(f"search.budget.{name}: ")


def test_trial_that_was_stopped_early_owes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"search.trials": 100, "search.scheduler.name": "asha_stopping"}
    search = Search(tmp_path, settings, clock=Clock(monkeypatch), epoch_s=36.0)
    search.results = lambda record, epoch: 0.9 if record.id == "t0000" else 0.5 - 0.001 * (record.number or 0)
    course = search.run(search__budget__hours=1.0)
    # Of a hundred epochs the control, the first trial and three confirmations take twenty, and other trials two each;
    # the last of these is started while a whole run still fits.
    assert len([record for record in search.outcome if record.state == PRUNED]) == 39
    assert course.journal.history.seconds <= 3600.0


def test_larger_budget_goes_on_with_a_search_that_a_smaller_one_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"search.trials": 30, "search.scheduler.name": "none"}
    search = Search(tmp_path / "a", settings, clock=Clock(monkeypatch), epoch_s=36.0)
    search.run(search__budget__hours=0.4)
    few = len([record for record in search.outcome if record.study])
    assert few == 6
    search.run(search__budget__hours=0.4)  # again: nothing more fits
    assert search.starts == []
    assert search.left == 0
    course = search.run(search__budget__hours=1.0)
    assert few < len([record for record in search.outcome if record.study]) < 30
    assert course.journal.history.seconds <= 3600.0
    search.run()
    assert search.stopped is None
    unharmed = Search(tmp_path / "b", settings)
    unharmed.run()
    assert told(search.outcome) == told(unharmed.outcome)


def test_pace_that_slows_down_leaves_confirmations_undone_rather_than_the_budget_exceeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(tmp_path, {"search.trials": 100, "search.scheduler.name": "none"}, clock=Clock(monkeypatch))
    search.epoch_s = 36.0

    def slower(record: TrialRecord, epoch: int) -> float:
        if record.role == CONFIRMATION:
            search.epoch_s = 360.0
        return 0.5

    search.results = slower
    search.run(search__budget__hours=1.0)
    assert [record.id for record in search.outcome if record.role == CONFIRMATION] == ["baseline-seed1001"]
    assert search.stopped is not None
    search.run(search__budget__hours=1.0)
    assert (search.left, search.starts) == (0, [])


def test_stop_file_ends_the_search_with_what_it_has(search: Search) -> None:
    def stop_after_the_second(record: TrialRecord, epoch: int) -> float:
        if record.id == "t0001":
            (search.folder / STOP_FILE).touch()
        return 0.5

    search.results = stop_after_the_second
    search.run(search__trials=50, search__scheduler__name="none")
    assert search.ids[:3] == ["baseline", "t0000", "t0001"]
    assert search.stopped == "sar-search stop --finish"
    # t0001 has its epoch and ends; to start are the confirmations, one each, of the control and of both trials.
    said = [what for what in search.heard.said if what[0].startswith("ending")]
    assert said == [("ending early, 0 running, 3 left", "sar-search stop --finish")]
    assert [record.of for record in search.outcome[3:]] == ["baseline", "t0000", "t0001"]
    (search.folder / STOP_FILE).unlink()  # as the next run does
    search.run(search__trials=3, search__scheduler__name="none")
    assert "t0002" in search.starts


def test_course_can_be_pickled_as_nothing(search: Search) -> None:
    """Ray pickles what its searcher and callbacks hold."""
    with search.session() as course:
        assert type(pickle.loads(pickle.dumps(course))) is object


def test_setting_of_a_control_is_tuned_where_the_recipe_varies_it(tmp_path: Path) -> None:
    space = replace(WIDE, controls={"baseline": {WEIGHT: 0.0, LR: 10.0, "model.drop_path": 0.3}})
    search = Search(tmp_path, {"search.compare": "same_budget"}, space)
    search.killed(kill_at=20)
    search.run()
    rates = [record.values[LR] for record in search.outcome if record.study == "control_study"]
    assert len(set(rates)) == 4
    assert all(0.001 <= rate <= 1.0 for rate in rates)
    assert all(r.values["model.drop_path"] == 0.3 for r in search.outcome if r.study == "control_study")

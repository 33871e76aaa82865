"""Claims about a search whose trials pause: what it may spend, how it ends, and that it can be gone on with."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.simulated_search import WIDE, Clock, Kill, Search, studies, told

from pipeline.tune.controller import STOP_FILE, SearchController
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, FAILED, PRUNED, TrialRecord, read_history

BY_EPOCHS: dict[str, Any] = {
    "search.trials": None,
    "search.budget.full_trainings": 14.0,
    "search.scheduler.grace_period": 1,
    "search.sampler.startup_trials": 2,
}
"""Of trials of four epochs with a rung after the first, a half going on: 56 epochs."""


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


def epochs(search: Search) -> int:
    return sum(record.last_epoch + record.repeated for record in search.outcome)


def states(search: Search) -> set[str | None]:
    return {record.state for record in search.outcome}


@pytest.mark.parametrize("at_a_time", [1, 3, 8])
@pytest.mark.parametrize("compare", ["recipe", "same_budget"])
@pytest.mark.parametrize("full", [9.0, 14.0, 20.5])
def test_epochs_of_everything_together_are_within_the_budget(
    tmp_path: Path, full: float, compare: str, at_a_time: int
) -> None:
    settings = BY_EPOCHS | {"search.budget.full_trainings": full, "search.compare": compare, "search.confirm.top": 1}
    search = Search(tmp_path, settings, WIDE)
    search.run(at_a_time=at_a_time)
    assert 4 * full - 12 < epochs(search) <= 4 * full
    assert states(search) == {COMPLETE, PRUNED}
    for study in {record.study for record in search.outcome if record.study}:
        assert any(record.state == COMPLETE for record in search.outcome if record.study == study)
    assert {record.of for record in search.outcome if record.role == CONFIRMATION} > {"baseline", "paper"}
    assert search.stopped is not None
    assert search.stopped.startswith("search.budget.full_trainings: ")


@pytest.mark.parametrize("at_a_time", [1, 3])
@pytest.mark.parametrize(("compare", "full"), [("recipe", 6.0), ("same_budget", 8.0)])
def test_smallest_budget_that_the_check_accepts_trains_one_trial_of_each_study_in_full(
    tmp_path: Path, compare: str, full: float, at_a_time: int
) -> None:
    settings = {"search.budget.full_trainings": full, "search.compare": compare}
    search = Search(tmp_path, BY_EPOCHS | settings | {"search.confirm.top": 1, "search.confirm.seeds": 1}, WIDE)
    search.run(at_a_time=at_a_time)
    assert epochs(search) <= 4 * full
    for study in {record.study for record in search.outcome if record.study}:
        assert [record.state for record in search.outcome if record.study == study] == [COMPLETE]
    assert any(record.role == CONFIRMATION and record.of == "t0000" for record in search.outcome)


@pytest.mark.parametrize("name", ["asha_stopping", "hyperband", "median", "none"])
@pytest.mark.parametrize("at_a_time", [1, 4])
def test_budget_holds_for_schedulers_that_stop(tmp_path: Path, name: str, at_a_time: int) -> None:
    search = Search(tmp_path, BY_EPOCHS | {"search.scheduler.name": name}, WIDE)
    search.run(at_a_time=at_a_time)
    assert 40 < epochs(search) <= 56


def test_trials_bound_the_budget(tmp_path: Path) -> None:
    search = Search(tmp_path, BY_EPOCHS | {"search.trials": 3}, WIDE)
    search.run()
    assert len([record for record in search.outcome if record.study]) == 3
    assert search.stopped is None


def test_best_trial_runs_in_full_where_the_rungs_would_have_let_none(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.trials": 2, "search.scheduler.reduction_factor": 4.0, "search.confirm.seeds": 0})
    search.results = lambda record, epoch: 0.6 if record.id == "t0001" else 0.5
    search.run()
    assert [(record.id, record.state) for record in search.outcome[1:]] == [("t0000", PRUNED), ("t0001", COMPLETE)]
    assert search.starts == ["baseline", "t0000", "t0001", "t0001"]


def test_next_best_trial_runs_in_full_where_the_best_one_fails(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.trials": 2, "search.scheduler.reduction_factor": 4.0, "search.confirm.seeds": 0})
    search.results = lambda record, epoch: 0.6 if record.id == "t0001" else 0.5
    search.fails = lambda record, epoch: "diverged" if record.id == "t0001" and epoch == 3 else None
    search.run()
    assert [record.state for record in search.outcome[1:]] == [COMPLETE, FAILED]


def test_next_best_trial_that_may_be_named_runs_in_full_where_the_best_one_leaves_maps_empty(tmp_path: Path) -> None:
    settings = {"search.trials": 4, "search.scheduler.reduction_factor": 8.0, "search.confirm.seeds": 0}
    search = Search(tmp_path, settings, empty=lambda record: 0.0 if record.id == "t0001" else 0.5)
    search.results = lambda record, epoch: 0.5 + 0.1 * (record.number or 0)
    search.run()
    assert [record.state for record in search.outcome[1:]] == [PRUNED, COMPLETE, PRUNED, COMPLETE]


def test_larger_budget_goes_on_as_a_search_that_had_it_from_the_start(tmp_path: Path) -> None:
    at_once = Search(tmp_path / "at-once", BY_EPOCHS, WIDE)
    expected = studies(at_once.run(search__budget__full_trainings=20.0))
    for first in (12.0, 13.0, 14.5, 17.0):
        grows = Search(tmp_path / f"{first}", BY_EPOCHS, WIDE)
        grows.run(search__budget__full_trainings=first)
        assert not any(record.paused for record in grows.outcome)
        assert any(record.state == COMPLETE for record in grows.outcome if record.study)
        course = grows.run(search__budget__full_trainings=20.0)
        # What had been confirmed stays in the journal; what is asked for now is the same.
        assert told(grows.outcome) == told(at_once.outcome), first
        assert studies(course) == expected
        assert PRUNED in states(grows)


def test_search_by_epochs_that_has_ended_has_nothing_left(tmp_path: Path) -> None:
    search = Search(tmp_path, BY_EPOCHS, WIDE)
    before = told(search.run().requested_trials())
    lines = search.journal.read_bytes().count(b"\n")
    course = search.run()
    assert (search.left, search.starts) == (0, [])
    assert told(course.requested_trials()) == before
    assert search.journal.read_bytes().count(b"\n") == lines + 1  # that a session began
    assert {what for what, _ in search.heard.said if what.startswith("ended")} == {"ended complete", "ended pruned"}


@pytest.mark.parametrize("how", ["budget", "patience", "finish", "trials", "hours"])
@pytest.mark.parametrize("at_a_time", [1, 3])
def test_no_trial_is_left_paused_however_the_search_ends(
    tmp_path: Path, how: str, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "budget": {},
        "patience": {"search.budget.patience": 3},
        "finish": {},
        "trials": {"search.trials": 6, "search.budget.full_trainings": None},
        "hours": {"search.budget.hours": 0.4, "search.budget.full_trainings": None, "search.trials": 100},
    }
    search = Search(tmp_path, BY_EPOCHS | settings[how], WIDE, clock=Clock(monkeypatch), epoch_s=36.0)

    def result(record: TrialRecord, epoch: int) -> float:
        if how == "finish" and record.number == 5:
            (search.folder / STOP_FILE).touch()
        return 0.5 + 0.01 * ((record.number or 0) * 7 % 5)

    search.results = result
    course = search.run(at_a_time=at_a_time)
    assert states(search) == {COMPLETE, PRUNED}
    assert not any(record.paused for record in course.journal.trials.values())
    assert {t.state.name for t in course.studies["search"].adapter._study.get_trials()} == {"COMPLETE", "PRUNED"}
    for record in search.outcome:
        assert search.heard.of(record.id)[-1] == f"ended {record.state}"
        assert search.heard.of(record.id).count(f"ended {record.state}") == 1
    said = {"budget": "search.budget.full", "patience": "search.budget.p", "finish": "sar-", "hours": "search.budget.h"}
    assert (search.stopped or "").startswith(said.get(how, ""))
    assert (search.stopped is None) == (how == "trials")


def test_request_to_finish_keeps_trials_from_going_on_and_they_go_on_when_the_search_does(tmp_path: Path) -> None:
    unharmed = Search(tmp_path / "unharmed", BY_EPOCHS, WIDE)
    expected = studies(unharmed.run())
    search = Search(tmp_path / "search", BY_EPOCHS, WIDE)
    search.folder.mkdir()

    def result(record: TrialRecord, epoch: int) -> float:
        if record.number == 7:
            (search.folder / STOP_FILE).touch()
        return unharmed.results(record, epoch)

    search.results = result
    search.run()
    assert search.stopped == "sar-search stop --finish"
    (search.folder / STOP_FILE).unlink()
    search.results = unharmed.results
    course = search.run()
    assert told(search.outcome) == told(unharmed.outcome)
    assert studies(course) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"train.epochs": 8, "search.budget.full_trainings": 10.0, "search.sampler.name": "random"},  # two rungs
        {"search.compare": "same_budget", "search.budget.full_trainings": 20.0},
    ],
)
def test_journal_of_a_search_by_epochs_cut_after_any_line_leads_to_the_records_of_the_unharmed_one(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    asked = BY_EPOCHS | settings | {"search.confirm.top": 1}
    whole = Search(tmp_path / "whole", asked, WIDE, fails=_fails)
    expected_studies = studies(whole.run())
    expected = told(whole.outcome)
    lines = whole.journal.read_bytes().splitlines(keepends=True)
    assert sum(b'"paused"' in line for line in lines) > 4
    for count in range(len(lines) + 1):
        folder = tmp_path / f"cut{count}"
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:count]))
        cut = Search(folder, asked, WIDE, fails=_fails)
        for record in read_history(cut.journal).trials.values():
            Path(record.checkpoint or folder).mkdir(parents=True, exist_ok=True)
        course = cut.run()
        assert told(cut.outcome) == expected, f"cut after line {count}"
        assert studies(course) == expected_studies, f"cut after line {count}"
        shutil.rmtree(folder)
        shutil.rmtree(whole.folder / "ray", ignore_errors=True)


def _fails(record: TrialRecord, epoch: int) -> str | None:
    return "diverged" if record.id == "t0003" and epoch == 2 else None


@pytest.mark.parametrize("seed", range(12))
def test_search_by_epochs_of_many_workers_broken_off_at_random_stays_within_the_last_budget(
    tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    search = Search(tmp_path, BY_EPOCHS | {"search.compare": dice.choice(["recipe", "same_budget"])}, WIDE)
    search.fails = lambda record, epoch: "no luck" if random.Random(f"{seed} {record.id}").random() < 0.2 else None
    full = 14.0
    for _ in range(5):
        full += dice.choice([0.0, 0.0, 2.5])
        kept = {"search__keep_checkpoints": dice.choice([None, 3, 8])}
        try:
            search.run(
                at_a_time=dice.randint(1, 3),
                kill_at=dice.choice([None, dice.randint(1, 40)]),
                search__budget__full_trainings=full,
                **kept,
            )
        except Kill:
            continue
    search.run(at_a_time=3, search__budget__full_trainings=full)
    assert all(record.state is not None for record in search.outcome)
    assert epochs(search) <= 4 * full


# Checkpoints.


def waiting(course: SearchController) -> set[str]:
    return {record.id for record in course.journal.trials.values() if record.paused}


def test_checkpoints_of_paused_trials_with_the_least_prospect_are_dropped(tmp_path: Path) -> None:
    search = Search(tmp_path, BY_EPOCHS | {"search.keep_checkpoints": 3, "search.scheduler.reduction_factor": 8.0})
    search.results = lambda record, epoch: 0.1 * ((record.number or 0) * 3 % 7)
    with pytest.raises(Kill):
        search.run(kill_at=11)
    with search.session() as course:
        assert waiting(course) == {f"t{number:04d}" for number in range(7)}
        best = sorted(waiting(course), key=lambda name: -course.journal.trials[name].metric("val/accuracy"))
        assert search.checkpoints() == {"baseline", *best[:3]}
        assert {name for name in waiting(course) if course.journal.trials[name].dropped} == set(best[3:])


def test_trial_that_lost_its_checkpoint_begins_again_and_is_what_it_was_first(tmp_path: Path) -> None:
    settings = BY_EPOCHS | {"search.keep_checkpoints": 1, "search.scheduler.grace_period": 2, "search.trials": 6}
    search = Search(tmp_path, settings)
    # The first three wait, and the second of them loses its checkpoint; it goes on when three more came.
    values = [0.9, 0.8, 0.7, 0.1, 0.2, 0.3]
    times: dict[tuple[str, int], int] = {}

    def result(record: TrialRecord, epoch: int) -> float:
        times[record.id, epoch] = times.get((record.id, epoch), 0) + 1
        return values[record.number or 0] + 0.01 * epoch - 0.5 * (times[record.id, epoch] > 1)

    search.results = result
    course = search.run()
    again = course.journal.trials["t0001"]
    assert times["t0001", 1] == times["t0001", 2] == 2
    assert again.state == COMPLETE
    assert [again.epochs[epoch]["val/accuracy"] for epoch in (1, 2, 3, 4)] == pytest.approx([0.81, 0.82, 0.83, 0.84])
    assert again.repeated == 2
    assert epochs(search) <= 56


def test_checkpoints_of_trials_that_waited_until_the_end_stay(tmp_path: Path) -> None:
    search = Search(tmp_path, BY_EPOCHS | {"search.keep_checkpoints": None}, WIDE)
    search.run()
    ended = {record.id for record in search.outcome if record.study and record.state == PRUNED}
    assert ended <= search.checkpoints()
    with search.session():
        assert ended <= search.checkpoints()

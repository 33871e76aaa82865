"""Claims about a search that was broken off, or asked for more: it goes on as the unharmed one would have.

Trials run one at a time where results must be equal, since what a sampler proposes depends on what it has been told.
"""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.simulated_search import WIDE, Clock, Kill, Search, studies, told

from pipeline.tune.controller import Wait
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, PRUNED, read_history


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


def fails(record: Any, epoch: int) -> str | None:
    return "diverged" if record.id == "t0001" and epoch == 2 else None


CUT: dict[str, dict[str, Any]] = {
    "recipe": {"search.trials": 5, "search.sampler.startup_trials": 1},
    "same_budget": {
        "search.trials": 3,
        "search.sampler.startup_trials": 1,
        "search.compare": "same_budget",
        "search.confirm.top": 1,
    },
}


@pytest.mark.parametrize("restart", ["checkpoint", "anew"])
@pytest.mark.parametrize("compare", ["recipe", "same_budget"])
def test_ledger_cut_after_any_line_leads_to_the_records_of_the_unharmed_search(
    tmp_path: Path, compare: str, restart: str
) -> None:
    whole = Search(tmp_path / "whole", CUT[compare], WIDE, fails=fails)
    course = whole.run()
    expected, expected_studies = told(whole.outcome), studies(course)
    other = Search(
        tmp_path / "other", CUT[compare], WIDE, results=lambda record, epoch: 1 - whole.results(record, epoch)
    )
    other.run()
    tried = [[trial.values for trial in each.outcome if trial.study] for each in (whole, other)]
    assert tried[0] != tried[1]  # so proposals depend on results
    assert {record.state for record in whole.outcome} >= {COMPLETE, "failed"}
    lines = whole.journal.read_bytes().splitlines(keepends=True)
    assert len(lines) > 60
    for count in range(len(lines) + 1):
        folder = tmp_path / f"cut{count}"
        folder.mkdir()
        kept = lines[:count]
        (folder / "journal.jsonl").write_bytes(b"".join(kept) + (lines[count][:9] if count < len(lines) else b""))
        cut = Search(folder, CUT[compare], WIDE, fails=fails)
        if restart == "checkpoint":
            for record in read_history(cut.journal).trials.values():
                Path(record.checkpoint or folder).mkdir(parents=True, exist_ok=True)
        course = cut.run()
        assert told(cut.outcome) == expected, f"cut after line {count}"
        assert studies(course) == expected_studies, f"cut after line {count}"
        shutil.rmtree(folder)
        shutil.rmtree(whole.folder / "ray", ignore_errors=True)


@pytest.mark.parametrize("seed", range(12))
def test_search_of_many_workers_broken_off_at_random_ends_with_all_that_was_asked_for(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens, nothing waits for what never ends, and no more is started than Ray was told (see `Search`)."""
    dice = random.Random(seed)
    budget = dice.choice(
        [{}, {"search.budget.patience": 3}, {"search.budget.hours": 0.02}, {"search.budget.target": 0.7}]
    )
    settings = {"search.compare": dice.choice(["recipe", "same_budget"]), **budget}
    search = Search(tmp_path, settings, WIDE, clock=Clock(monkeypatch))
    search.fails = lambda record, epoch: "no luck" if random.Random(f"{seed} {record.id}").random() < 0.2 else None
    trials = 2
    for _ in range(5):
        trials = dice.randint(1, 8)
        changed = {"search__trials": trials, "search__confirm__seeds": dice.randint(0, 2)}
        changed["search__confirm__top"] = dice.randint(1, 3)
        try:
            search.run(at_a_time=dice.randint(1, 5), kill_at=dice.choice([None, dice.randint(1, 30)]), **changed)
        except Kill:
            continue
        for record in search.outcome:
            assert record.state is not None
            assert record.number is None or record.number < trials
    search.run(at_a_time=3, search__trials=trials)
    assert {"baseline", "paper", "t0000"} - set(search.ids) <= ({"t0000"} if search.stopped else set())


# Asked for more, or less.


def grown(tmp_path: Path, first: dict[str, Any], then: dict[str, Any], **settings: Any) -> tuple[Search, Search]:
    """A search run with the first settings and then with the others; and one that had the latter at once."""
    grows, at_once = Search(tmp_path / "grows", settings, WIDE), Search(tmp_path / "at-once", settings, WIDE)
    grows.run(**first)
    course = grows.run(**then)
    same = at_once.run(**then)
    assert studies(course) == studies(same)
    return grows, at_once


@pytest.mark.parametrize("compare", ["recipe", "same_budget"])
def test_search_extended_in_trials_equals_the_one_that_had_them_at_once(tmp_path: Path, compare: str) -> None:
    few, many = {"search__trials": 4}, {"search__trials": 8}
    extended, at_once = grown(tmp_path, few, many, **{"search.compare": compare})
    assert told(extended.outcome) == told(at_once.outcome)
    assert not set(extended.starts) & {"baseline", "t0000", "t0003"}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"search__confirm__seeds": 1}, {"search__confirm__seeds": 3}),
        ({"search__confirm__seeds": 0}, {"search__confirm__seeds": 2}),
        ({"search__confirm__top": 1}, {"search__confirm__top": 3}),
        ({"search__confirm__seeds": 3}, {"search__confirm__seeds": 1}),
        ({"search__confirm__top": 3}, {"search__confirm__top": 1}),
        ({"search__trials": 8}, {"search__trials": 4}),
    ],
)
def test_confirmation_may_be_extended_or_cut_back(tmp_path: Path, first: dict[str, Any], then: dict[str, Any]) -> None:
    extended, at_once = grown(tmp_path, first, then)
    assert told(extended.outcome) == told(at_once.outcome)
    if "search__confirm__seeds" in then or "search__confirm__top" in then:
        assert {record.role for record in extended.outcome if record.id in extended.starts} <= {CONFIRMATION}


FULL, SEEDS = "search__budget__full_trainings", "search__confirm__seeds"


@pytest.mark.parametrize(("first", "then"), [(8.0, 4.0), (8.0, 5.0), (9.0, 5.0)])
def test_lowered_budget_that_is_spent_trains_nothing_more(tmp_path: Path, first: float, then: float) -> None:
    search = Search(tmp_path, {"search.trials": None}, WIDE)
    search.run(**{FULL: first})
    spent = read_history(search.journal).epochs
    assert spent > 4 * then
    search.run(**{FULL: then, SEEDS: 0})
    assert (search.left, search.starts) == (0, [])
    assert search.stopped == f"search.budget.full_trainings: {spent} of {4 * then:g} epochs spent"
    assert all(record.state is not None for record in search.outcome)
    assert not [record for record in search.outcome if record.role == CONFIRMATION]


def test_lowered_budget_spends_what_it_leaves_and_no_more(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.trials": None}, WIDE)
    search.run(**{FULL: 8.0})
    assert read_history(search.journal).epochs == 28
    search.run(**{FULL: 9.0, SEEDS: 0})  # the confirmations that are no longer asked for have been paid from it
    assert search.starts
    assert read_history(search.journal).epochs <= 36
    fewer = Search(tmp_path / "fewer", {"search.trials": None}, WIDE)
    fewer.run(**{FULL: 14.0})
    fewer.run(**{FULL: 8.0})
    assert all("-seed" in name for name in fewer.starts)


def test_fewer_trials_than_there_are_start_nothing_but_confirmations(tmp_path: Path) -> None:
    search = Search(tmp_path)
    search.run(search__trials=6, search__scheduler__name="none")
    search.run(search__trials=2, search__scheduler__name="none")
    assert search.ids[:3] == ["baseline", "t0000", "t0001"]
    assert all("-seed" in name for name in search.starts)
    assert {record.of for record in search.outcome[3:]} == {"baseline", "t0000", "t0001"}


def test_unfinished_trial_that_is_no_longer_asked_for_is_left_as_it_is(tmp_path: Path) -> None:
    search = Search(tmp_path)
    search.killed(kill_at=11, search__scheduler__name="none")
    assert read_history(search.journal).trials["t0001"].state is None
    search.run(search__trials=1, search__scheduler__name="none")
    assert search.ids == ["baseline", "t0000", "baseline-seed1001", "t0000-seed1001"]
    assert read_history(search.journal).trials["t0001"].state is None
    search.run(search__trials=2, search__scheduler__name="none")
    assert search.starts[0] == "t0001"


def test_unfinished_run_that_is_no_longer_asked_for_owes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(tmp_path, {"search.scheduler.name": "none"}, clock=Clock(monkeypatch), epoch_s=36.0)
    search.killed(kill_at=40, at_a_time=9, search__trials=20, search__confirm__seeds=0)
    open_ones = [r for r in read_history(search.journal).trials.values() if r.state is None]
    assert len(open_ones) > 4
    # The control and two trials, of which those that lack epochs are short of eight at most.
    search.run(search__trials=2, search__confirm__seeds=1, search__budget__hours=0.7)
    assert sorted(r.of for r in search.outcome if r.of) == ["baseline", *(r.id for r in search.outcome[1:3])]


def test_confirmations_of_an_earlier_session_are_told_again_once_they_are_wanted(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.scheduler.name": "none"})
    search.results = lambda record, epoch: {"t0000": 0.9, "t0001": 0.8, "t0002": 0.7, "t0003": 0.6}.get(record.id, 0.1)
    search.run(search__trials=2, search__confirm__top=1)
    search.run(search__trials=4, search__confirm__top=1)
    # Not before the two further trials had ended was it known that t0000 is still the best.
    assert search.starts == ["t0002", "t0003"]
    assert search.heard.of("t0000-seed1001") == [
        "started",
        "epoch 1",
        "epoch 2",
        "epoch 3",
        "epoch 4",
        "ended complete",
    ]
    said = [who for _, who in search.heard.said]
    assert said.index("t0000-seed1001") > said.index("t0003")
    assert search.ids[-1] == "t0000-seed1001"


def test_unfinished_confirmation_of_an_earlier_session_goes_on_once_it_is_wanted(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.scheduler.name": "none", "search.confirm.top": 1})
    search.results = lambda record, epoch: 0.9 if record.id == "t0000" else 0.5
    search.killed(kill_at=19, search__trials=2)
    assert read_history(search.journal).trials["t0000-seed1001"].last_epoch == 3
    search.run(search__trials=3)
    assert search.starts == ["t0002", "t0000-seed1001"]
    assert search.heard.of("t0000-seed1001")[:4] == ["started", "epoch 1", "epoch 2", "epoch 3"]
    assert (search.outcome[-1].id, search.outcome[-1].state) == ("t0000-seed1001", COMPLETE)


@pytest.mark.parametrize("kill_at", [2, 5, 11, 15])
def test_listener_of_a_resumed_search_hears_every_run_once_and_then_what_goes_on(tmp_path: Path, kill_at: int) -> None:
    search = Search(tmp_path, {"search.scheduler.name": "none"})
    search.killed(kill_at=kill_at)
    known = read_history(search.journal).trials
    with search.session() as course:
        before = search.heard.said.index(("replayed", ""))
        assert {who for _, who in search.heard.said[:before]} == set(known)
        search.drive(course)
    for record in search.outcome:
        heard = search.heard.of(record.id)
        assert heard[0] == "started"
        assert heard.count("started") == 1
        assert heard[-1] == f"ended {record.state}"
        assert set(heard[1:-1]) == {f"epoch {epoch}" for epoch in record.epochs}
    assert search.heard.said.count(("replayed", "")) == 1


def test_trial_that_the_rungs_had_stopped_when_the_driver_died_is_ended_without_a_worker(tmp_path: Path) -> None:
    search = Search(tmp_path)
    search.run()
    lines = search.journal.read_text().splitlines(keepends=True)
    ends = [number for number, line in enumerate(lines) if '"state": "pruned"' in line]
    stopped = search.outcome[[record.state for record in search.outcome].index(PRUNED)].id
    search.journal.write_text("".join(lines[: ends[0]]))
    search.run()
    assert stopped not in search.starts
    assert search.heard.of(stopped)[-1] == "ended pruned"


def test_last_confirmation_that_was_reported_in_full_is_ended_without_a_worker(tmp_path: Path) -> None:
    search = Search(tmp_path)
    search.run()
    lines = search.journal.read_text().splitlines(keepends=True)
    last = search.ids[-1]
    assert f'"event": "ended", "trial": "{search.starts[-1]}"' in lines[-1]
    search.journal.write_text("".join(lines[:-1]))
    search.run()
    assert (search.left, search.starts) == (0, [])
    assert search.outcome[-1].id == last
    assert all(record.state is not None for record in search.outcome)


def test_waiting_is_for_something_in_a_session_that_only_has_unfinished_trials(tmp_path: Path) -> None:
    search = Search(tmp_path)
    search.killed(kill_at=7, at_a_time=5)
    with search.session(at_a_time=5) as course:
        count = 0
        while not isinstance(record := course.next_trial(), Wait) and record is not None:
            count += 1
        assert count > 0
        assert isinstance(record, Wait)


# Checkpoints.


def test_checkpoints_that_are_kept_are_those_of_controls_and_of_the_best_trials(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.trials": 8, "search.scheduler.name": "none"}, WIDE)
    search.run(search__keep_checkpoints=3)
    trials = sorted((r for r in search.outcome if r.study), key=lambda r: r.metric("val/accuracy"))
    assert search.checkpoints() == {"baseline", "paper"} | {record.id for record in trials[-3:]}
    assert all(Path(r.checkpoint or "").is_dir() for r in trials[-3:])


def test_candidates_of_every_study_keep_their_checkpoints_however_few_are_kept(tmp_path: Path) -> None:
    settings = {"search.compare": "same_budget", "search.scheduler.name": "none", "search.keep_checkpoints": 1}
    search = Search(tmp_path, settings, WIDE)
    search.results = lambda record, epoch: 0.9 if record.study == "control_study" else 0.5 + 0.01 * (record.number or 0)
    search.run()
    of = {record.of for record in search.outcome if record.of}
    assert len(of) == 6
    assert search.checkpoints() == of


def test_checkpoints_of_unfinished_trials_stay_whatever_else_ends(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.keep_checkpoints": 1, "search.confirm.top": 1})
    search.results = lambda record, epoch: 0.1 if record.id == "t0000" else 0.9
    search.killed(kill_at=13, at_a_time=4, search__scheduler__name="none")
    open_ones = {r.id for r in read_history(search.journal).trials.values() if r.state is None}
    assert open_ones <= search.checkpoints()
    with search.session(search__trials=1, search__scheduler__name="none"):
        assert open_ones <= search.checkpoints()


def test_checkpoints_of_earlier_sessions_are_removed_too(tmp_path: Path) -> None:
    settings = {"search.keep_checkpoints": 2, "search.scheduler.name": "none", "search.confirm.seeds": 0}
    search = Search(tmp_path, settings)
    search.results = lambda record, epoch: 0.1 * (record.number or 0)
    search.run(search__trials=3)
    assert search.checkpoints() == {"baseline", "t0001", "t0002"}
    search.run(search__trials=5)
    assert search.checkpoints() == {"baseline", "t0003", "t0004"}
    with search.session(search__trials=5, search__keep_checkpoints=1, search__confirm__top=1):
        assert search.checkpoints() == {"baseline", "t0004"}


def test_checkpoint_of_an_earlier_session_is_removed_once_a_newer_one_is_there(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.scheduler.name": "none"})
    search.killed(kill_at=6)
    (older,) = tmp_path.glob("ray/*/t0000/checkpoint_*")
    search.run()
    assert not older.exists()
    assert search.outcome[1].epochs.keys() == {1, 2, 3, 4}

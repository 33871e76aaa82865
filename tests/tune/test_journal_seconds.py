"""Claims about a journal's account of time: what sessions took, by a clock that never jumps, whoever killed them."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import (
    COMPLETE,
    CONFIRMATION,
    CONTROL,
    FAILED,
    PRUNED,
    TrialRecord,
    read_history,
)


class Clock:
    """Both clocks: the steady one that the account is made of, and the wall's, which may jump."""

    def __init__(self) -> None:
        self.steady, self.wall = 1000.0, 1_700_000_000.0

    def sleep(self, seconds: float) -> None:
        self.steady += seconds
        self.wall += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: made.steady)
    monkeypatch.setattr(time, "time", lambda: made.wall)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def session(path: Path, clock: Clock, *, gpus: float = 0.0, jump: Callable[[], None] = lambda: None) -> None:
    """A session of 60 seconds: a trial at work from 10 on, with epochs at 30 and 50 and its end at 60."""
    with Journal(path, {}, gpus=gpus) as journal:
        name = f"t{len(journal.trials):04d}"
        clock.sleep(10)
        journal.start(TrialRecord(name, len(journal.trials), {}))
        clock.sleep(20)
        journal.report(name, 1, {"seconds": 15.0})
        jump()
        clock.sleep(20)
        journal.report(name, 2, {"seconds": 15.0})
        clock.sleep(10)
        journal.end(name, COMPLETE)


def test_session_counts_from_its_opening_and_a_trial_from_its_start(path: Path, clock: Clock) -> None:
    session(path, clock)
    history = read_history(path)
    assert (history.sessions, history.seconds) == (1, 60.0)
    trial = history.trials["t0000"]
    assert (trial.busy_s, trial.seconds) == (50.0, 30.0)


def test_sessions_add_up_and_the_time_between_them_does_not_count(path: Path, clock: Clock) -> None:
    session(path, clock)
    clock.sleep(86_400)
    session(path, clock)
    history = read_history(path)
    assert (history.sessions, history.seconds) == (2, 120.0)
    assert [trial.busy_s for trial in history.trials.values()] == [50.0, 50.0]


@pytest.mark.parametrize("by", [-7200.0, 7200.0, -1.7e9])
def test_wall_clock_that_jumps_changes_nothing_in_the_account(path: Path, clock: Clock, by: float) -> None:
    def jump() -> None:
        clock.wall += by

    session(path, clock, gpus=1.0, jump=jump)
    history = read_history(path)
    assert (history.seconds, history.gpu_seconds) == (60.0, 50.0)
    times = [json.loads(line)["time"] for line in path.read_text().splitlines()]
    assert (times != sorted(times)) == (by < 0)  # so the clock has jumped


def test_time_that_runs_backwards_in_a_ledger_takes_nothing_back(path: Path, clock: Clock) -> None:
    session(path, clock)
    with path.open("a") as file:
        file.write('{"event": "started", "trial": "t0001", "number": 1, "values": {}, "role": "trial", "study": null, ')
        file.write('"seed": null, "of": null, "at": 70}\n{"event": "ended", "trial": "t0001", "state": "x", "at": 5}\n')
    history = read_history(path)
    assert history.seconds == 70.0
    assert history.trials["t0001"].busy_s == 0.0


def test_session_that_was_killed_counts_up_to_its_last_line(path: Path, clock: Clock) -> None:
    session(path, clock)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]))  # its second epoch, and what followed, never came to the disk
    history = read_history(path)
    assert history.seconds == 30.0
    assert history.trials["t0000"].busy_s == 20.0
    clock.sleep(500)
    with Journal(path, {}) as journal:
        clock.sleep(3)
        journal.resume("t0000")
        clock.sleep(4)
        journal.end("t0000", PRUNED)
    assert read_history(path).seconds == 37.0
    assert read_history(path).trials["t0000"].busy_s == 24.0


def test_trial_that_waits_for_a_worker_after_an_interruption_is_not_busy(path: Path, clock: Clock) -> None:
    with Journal(path, {}) as journal:
        journal.start(TrialRecord("t0000", 0, {}))
    with Journal(path, {}) as journal:
        clock.sleep(100)
        journal.end("t0000", PRUNED)  # told by the replayed rungs, without a worker
    assert read_history(path).trials["t0000"].busy_s == 0.0


def test_gpu_seconds_are_of_the_share_that_a_trial_had_in_each_session(path: Path, clock: Clock) -> None:
    session(path, clock, gpus=0.25)
    with Journal(path, {}, gpus=2.0) as journal:
        journal.start(TrialRecord("t0001", 1, {}))
        clock.sleep(10)
        journal.report("t0001", 1, {})
    with Journal(path, {}, gpus=0.0) as journal:
        journal.resume("t0001")
        clock.sleep(1000)
        journal.end("t0001", COMPLETE)
    history = read_history(path)
    assert [trial.gpu_s for trial in history.trials.values()] == [12.5, 20.0]
    assert history.gpu_seconds == 32.5
    assert history.trials["t0001"].busy_s == 1010.0


def test_trials_at_the_same_time_are_each_busy(path: Path, clock: Clock) -> None:
    with Journal(path, {}, gpus=0.5) as journal:
        journal.start(TrialRecord("baseline", None, {}, role=CONTROL))
        journal.start(TrialRecord("t0000", 0, {}))
        clock.sleep(10)
        journal.report("baseline", 1, {})
        clock.sleep(10)
        for name in ("t0000", "baseline"):
            journal.report(name, 1, {})
        history = journal.history
    assert history.seconds == 20.0
    assert {trial.id: trial.busy_s for trial in history.trials.values()} == {"baseline": 20.0, "t0000": 20.0}
    assert history.gpu_seconds == 20.0
    assert history.epochs == 2


def test_history_kept_while_writing_is_the_one_that_is_read_again(path: Path, clock: Clock) -> None:
    session(path, clock, gpus=0.5)
    with Journal(path, {}, gpus=0.5) as journal:
        clock.sleep(5)
        journal.accept({"pipeline/train/loop.py": "abc"}, {"torch": "2"})
        journal.start(TrialRecord("t0001", 1, {}))
        clock.sleep(5)
        journal.report("t0001", 1, {})
        assert journal.history == read_history(path)


def test_what_its_user_accepted_last_is_kept(path: Path) -> None:
    with Journal(path, {"code": {"a": "1"}, "versions": {}}) as journal:
        assert journal.history.accepted is None
        journal.accept({"a": "2"}, {"torch": "2.0"})
        journal.accept({"a": "3"}, {"torch": "2.1"})
    history = read_history(path)
    assert history.accepted == {"code": {"a": "3"}, "versions": {"torch": "2.1"}}
    assert history.header["code"] == {"a": "1"}


def test_runs_of_a_stack_share_its_worker_until_they_end_or_are_queued_again(path: Path, clock: Clock) -> None:
    first, second = (TrialRecord(f"t0000-seed{seed}", None, {}, role=CONFIRMATION, of="t0000") for seed in (1, 2))
    with Journal(path, {}, gpus=0.5) as journal:
        clock.sleep(10)
        journal.start(first)
        journal.start(second, beside=first.id)
        assert set(journal.history.stacks.values()) == {first.id}
        clock.sleep(20)
        for run in (first, second):
            journal.report(run.id, 1, {"seconds": 9.0})
        clock.sleep(6)
        journal.end(second.id, FAILED)
        clock.sleep(8)
        journal.report(first.id, 2, {"seconds": 8.0})
        clock.sleep(100)  # in the queue
        journal.resume(first.id)
        clock.sleep(1)
        journal.end(first.id, COMPLETE)
        assert journal.history.stacks == {}
    history = read_history(path)
    assert [trial.busy_s for trial in history.trials.values()] == [13.0 + 8.0 + 1.0, 13.0]
    assert history.busy_s == 35.0
    assert history.gpu_seconds == sum(trial.gpu_s for trial in history.trials.values()) == 17.5


def test_stack_ends_with_its_session(path: Path, clock: Clock) -> None:
    with Journal(path, {}) as journal:
        for name, beside in (("a", None), ("b", "a")):
            journal.start(TrialRecord(name, None, {}, role=CONFIRMATION, of="t0000"), beside)
    with Journal(path, {}) as journal:
        assert journal.history.stacks == {}
        journal.resume("a")
        clock.sleep(4)
        journal.report("a", 1, {})
        assert [trial.busy_s for trial in journal.trials.values()] == [4.0, 0.0]

"""A search with the real Ray Tune and Optuna, on a setting that trains in seconds."""

import dataclasses
import errno
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.tiny_search import tiny_task

from pipeline.errors import UserError
from pipeline.tune.journal.records import COMPLETE, PRUNED, SearchCallback, TrialRecord
from pipeline.tune.outcome import SearchOutcome
from pipeline.tune.ray.runner import run_search
from pipeline.tune.selection.result_files import write_results
from pipeline.tune.task import SearchTask

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> SearchTask:
    """Trials of three epochs, one after the other; the best one is confirmed with one further seed."""
    return tiny_task(tmp_path_factory.mktemp("search"))


def _trials(task: SearchTask, folder: str, trials: int) -> SearchOutcome:
    params = task.params.with_values({"search.trials": trials}, where="the test")
    return run_search(dataclasses.replace(task, params=params, folder=task.folder / folder), [])


def _told(trials: list[TrialRecord]) -> list[Any]:
    """All that a search found out, but for the time that it took."""
    return [
        (t.id, t.values, t.state, {e: {k: v for k, v in m.items() if k != "seconds"} for e, m in t.epochs.items()})
        for t in trials
    ]


@pytest.fixture(scope="module")
def at_once(task: SearchTask) -> SearchOutcome:
    return _trials(task, "at-once", 16)


def test_search_runs_controls_to_the_end_and_every_trial_asked_for(at_once: SearchOutcome) -> None:
    trials = [f"t{number:04d}" for number in range(16)]
    assert [trial.id for trial in at_once.trials[:18]] == ["baseline", "paper", *trials]
    for trial in at_once.trials:
        assert trial.state in ("complete", "pruned")
        assert sorted(trial.epochs) == list(range(1, trial.last_epoch + 1))
        assert (trial.last_epoch == 3) == (trial.state == "complete")
    assert [trial.state for trial in at_once.trials if trial.study is None] == ["complete"] * 5
    assert "pruned" in {trial.state for trial in at_once.trials}


def test_search_confirms_the_best_and_the_controls_with_another_seed(at_once: SearchOutcome) -> None:
    again = at_once.trials[18:]
    tried = [trial for trial in at_once.trials if trial.study and trial.state == "complete"]
    best = max(tried, key=lambda trial: (trial.metric("val/accuracy"), -trial.metric("val/loss")))
    assert [trial.id for trial in again] == ["baseline-seed1001", "paper-seed1001", f"{best.id}-seed1001"]
    of = {trial.id: trial for trial in at_once.trials}
    for trial in again:
        assert trial.values == of[trial.of or ""].values
        assert trial.metric("train/loss") != of[trial.of or ""].metric("train/loss")


def test_search_accounts_for_its_time(at_once: SearchOutcome) -> None:
    assert 0 < sum(trial.seconds for trial in at_once.trials) < sum(trial.busy_s for trial in at_once.trials)
    assert sum(trial.busy_s for trial in at_once.trials) < at_once.spent.seconds  # one at a time
    assert at_once.spent.gpu_seconds == 0.0
    assert at_once.rung_epochs == [2]
    assert at_once.stopped is None


def test_search_extended_from_8_trials_to_16_gives_bit_for_bit_what_16_at_once_give(
    task: SearchTask, at_once: SearchOutcome, tmp_path: Path
) -> None:
    first = _trials(task, "extended", 8)
    assert [trial.id for trial in first.trials if trial.study] == [f"t{number:04d}" for number in range(8)]
    extended = _trials(task, "extended", 16)
    assert _told(list(extended.trials)) == _told(list(at_once.trials))
    for name, outcome in (("a", at_once), ("b", extended)):
        write_results(task, outcome, tmp_path / name)
    for file in ("trials.csv", "curves.csv", "best.yaml", "metrics.json", "plot_trials.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_search_that_has_more_trials_than_asked_for_answers_with_the_first(
    task: SearchTask, at_once: SearchOutcome
) -> None:
    fewer = _trials(task, "at-once", 2)
    assert _told(list(fewer.trials)[:4]) == _told(list(at_once.trials)[:4])
    assert [trial.of for trial in fewer.trials[4:5]] == ["baseline"]
    assert fewer.adapter.proposed == 2


class _Dies(SearchCallback):
    """The driver's end, after the second epoch of a trial."""

    def replayed(self) -> None: ...
    def trial_started(self, trial: TrialRecord) -> None: ...
    def ending_early(self, reason: str, running: int, left: int) -> None: ...
    def trial_ended(self, trial: TrialRecord) -> None: ...
    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None:
        if (trial.id, epoch) == ("t0000", 2):
            raise RuntimeError("the driver dies")


def test_trial_that_was_broken_off_goes_on_from_its_checkpoint_with_the_curve_of_the_unbroken_one(
    task: SearchTask, at_once: SearchOutcome
) -> None:
    params = task.params.with_values({"search.trials": 1, "search.confirm.seeds": 0}, where="the test")
    broken = dataclasses.replace(task, params=params, folder=task.folder / "broken")
    with pytest.raises(Exception, match="the driver dies"):
        run_search(broken, [_Dies()])
    resumed = run_search(broken, [])
    unbroken = next(trial for trial in at_once.trials if trial.id == "t0000")
    assert _told([trial for trial in resumed.trials if trial.id == "t0000"]) == _told([unbroken])
    lines = [json.loads(line) for line in (broken.folder / "journal.jsonl").read_text().splitlines()]
    epochs = [event["epoch"] for event in lines if event["event"] == "epoch" and event["trial"] == "t0000"]
    # The first epoch left a checkpoint, so that it was not trained again.
    assert epochs == [1, 2, 2, 3]


class _FillsTheDisk(SearchCallback):
    """Once the first trial has ended, nothing more goes onto the disk that holds the search."""

    def __init__(self, disk: Path) -> None:
        self._filler = disk / "filler"

    def ending_early(self, reason: str, running: int, left: int) -> None: ...

    def trial_ended(self, trial: TrialRecord) -> None:
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        self._filler.unlink()


def test_full_disk_ends_the_search_blames_no_trial_and_loses_nothing(task: SearchTask, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=30m none {disk} 2>/dev/null"):
        pytest.skip("a small disk can be made by root alone")
    try:
        params = task.params.with_values({"search.trials": 2}, where="the test")
        small = dataclasses.replace(task, params=params, folder=disk / "state")
        full = _FillsTheDisk(disk)
        with pytest.raises((UserError, OSError), match=r"is full|No space left") as ended:
            run_search(small, [full])
        assert isinstance(ended.value, UserError) or ended.value.errno == errno.ENOSPC
        full.free()
        assert {trial.state for trial in _trials_of(run_search(small, []))} == {COMPLETE}
    finally:
        os.system(f"umount {disk}")


def _trials_of(outcome: SearchOutcome) -> list[TrialRecord]:
    return [trial for trial in outcome.trials if trial.state != PRUNED]

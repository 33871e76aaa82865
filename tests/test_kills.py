"""What a search is made of may be killed at any moment; it costs the search time and nothing else."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from copied import ROOT
from kill_search import run_series
from kills.verify import Findings, verify_ledger

from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import TrialRecord, read_history


@pytest.mark.slow
@pytest.mark.timeout(1500)  # four minutes on two free cores
def test_search_killed_ten_times_ends_bit_for_bit_as_one_left_alone(tmp_path: Path) -> None:
    """One trial at a time, so that both propose the same. `benchmarks/kill_search.py` says what is looked at."""
    outcome = run_series(tmp_path, kills=10, trials=8, epochs=4, at_a_time=1, seed=0)
    assert outcome.found.violations == []
    assert sum(outcome.kills.values()) == 10
    assert outcome.phases["while a trial is paused"] > 0
    # Confirmed with two further seeds are both controls, and of the trials the most accurate with what is near it.
    assert 8 + 2 + 2 * (2 + 1) <= outcome.found.runs <= 8 + 2 + 2 * (2 + 3)


def _event(kind: str, epoch: int = 0, value: float = 0.5) -> dict[str, Any]:
    more = {"epoch": epoch, "metrics": {"val/accuracy": value, "seconds": 1.0}} if kind == "epoch" else {}
    return {"event": kind, "trial": "t0000", **more}


STARTED, SAVED, ENDED, SESSION = (_event(kind) for kind in ("started", "checkpoint", "ended", "session"))
RESUMED, PAUSED, DROPPED = _event("resumed"), _event("paused"), _event("dropped")


@pytest.mark.parametrize(
    ("events", "violation"),
    [
        ([STARTED, _event("epoch", 1), SAVED, ENDED, STARTED], "started twice"),
        ([STARTED, _event("epoch", 1), SAVED], "never ended"),
        ([STARTED, ENDED, ENDED], "ended after its end"),
        ([STARTED, _event("epoch", 1), SAVED, SESSION, RESUMED, _event("epoch", 1), ENDED], "trained again"),
        ([STARTED, _event("epoch", 1), SESSION, RESUMED, _event("epoch", 1, 0.4), ENDED], "came to other values"),
        ([STARTED, _event("epoch", 1), SAVED, _event("epoch", 3), ENDED], "with a gap"),
        ([STARTED, RESUMED, ENDED], "resumed while it is at work"),
        ([STARTED, _event("epoch", 1), SAVED, PAUSED], "never ended"),
        ([STARTED, _event("epoch", 1), SAVED, PAUSED, RESUMED, _event("epoch", 1), ENDED], "trained again"),
    ],
)
def test_series_notices_what_must_not_be(events: list[dict[str, Any]], violation: str) -> None:
    found = Findings()
    verify_ledger(events, found)
    assert any(violation in each for each in found.violations)


def test_series_allows_the_epoch_in_progress_to_be_trained_again() -> None:
    events = [
        STARTED,
        _event("epoch", 1),
        SAVED,
        _event("epoch", 2),
        SESSION,
        RESUMED,
        _event("epoch", 2),
        SAVED,
        ENDED,
    ]
    found = Findings()
    verify_ledger(events, found)
    assert found.violations == []
    assert (found.runs, found.epochs, found.repeated) == (1, 2, 1)


def test_series_allows_a_trial_to_be_paused_and_to_begin_again_once_its_checkpoint_is_dropped() -> None:
    found = Findings()
    life = [STARTED, _event("epoch", 1), SAVED, PAUSED, DROPPED, RESUMED, _event("epoch", 1), SAVED, PAUSED, ENDED]
    verify_ledger(life, found)
    assert found.violations == []


def test_epoch_that_a_kill_made_repeat_stays_as_it_was_first_reported(tmp_path: Path) -> None:
    """The study, the rungs and MLflow have had the first one; the other differs in its seconds at least."""
    path = tmp_path / "journal.jsonl"
    with Journal(path, {}) as journal:
        journal.start(TrialRecord("t0000", 0, {}))
        journal.report("t0000", 1, {"val/accuracy": 0.5, "seconds": 1.0})
    with Journal(path, {}) as journal:
        journal.resume("t0000")
        journal.report("t0000", 1, {"val/accuracy": 0.5, "seconds": 2.0})
    assert read_history(path).trials["t0000"].epochs == {1: {"val/accuracy": 0.5, "seconds": 1.0}}


WAITS_FOR_RAY = """
import os, signal, sys, time
import ray
from pipeline.cluster.runtime import local_ray
from pipeline.errors import UserError

@ray.remote
def endless():
    time.sleep(600)

try:
    with local_ray(1, 0):
        waiting = endless.remote()
        os.kill(ray._private.worker._global_node.all_processes[sys.argv[1]][0].process.pid, signal.SIGKILL)
        killed = time.monotonic()
        ray.wait([waiting], timeout=60)
except UserError as error:
    print(f"{time.monotonic() - killed:.1f} {error}", flush=True)
    os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_death_of_rays_own_processes_is_noticed_and_told(name: str) -> None:
    """Ray needs up to a minute, and then ends the process without a word; so it is another than the tests' own."""
    command = [sys.executable, "-c", WAITS_FOR_RAY, name]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    seconds, said = ended.stdout.strip().splitlines()[-1].split(" ", 1)
    assert f"{name} has died" in said
    assert float(seconds) < 40

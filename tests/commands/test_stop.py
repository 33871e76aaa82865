"""Claims about ending a search: only the process that runs it is told, it is waited for, and how to go on is said."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from support.search_state import content_of, ledger_folder, make_workspace, open_search, run, write_search

from pipeline.commands.results import describe_results
from pipeline.commands.stop import stop_search
from pipeline.errors import UserError
from pipeline.state.searches import read_search
from pipeline.tune.journal.records import PRUNED
from pipeline.workspace import Workspace

SEARCH = """
import json, signal, sys, time
from pathlib import Path
from pipeline.tune.journal.journal import Journal, TrialRecord
how = sys.argv[3]
if how == "ignores":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
if how == "lingers":
    signal.signal(signal.SIGINT, lambda *_: None)
with Journal(Path(sys.argv[1]), json.loads(sys.argv[2])) as journal:
    journal.resume("t0003")
    try:
        print("ready", flush=True)
        time.sleep(100)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path)


class Running:
    """Starts a process that holds a search as a stage does, and ends it after the test."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []

    def __call__(self, folder: Path, how: str = "listens") -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", SEARCH, str(folder / "journal.jsonl"), "{}", how]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            # A shell's background jobs, and so tests run as one, ignore interruptions, and their children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.end()


def test_results_of_a_search_that_runs_are_to_come(workspace: Workspace, running: Running) -> None:
    with pytest.raises(UserError, match=r"Run `make repro`\."):
        describe_results(workspace)
    with workspace.locked("evaluate"), pytest.raises(UserError, match="the pipeline is running in this checkout"):
        describe_results(workspace)
    folder = write_search(workspace)
    running(folder)
    with pytest.raises(UserError, match=f"search {folder.name[:8]} is running; see `sar-search status"):
        describe_results(workspace)


def test_running_search_is_interrupted_and_waited_for(workspace: Workspace, running: Running) -> None:
    folder = write_search(workspace)
    process = running(folder)
    said = list(stop_search(workspace, finish=False, patience=20))
    assert process.wait(timeout=5) == 130
    assert f"sent an interrupt to process {process.pid}" in said[0]
    assert "1 of its runs had not, and will go on from their last checkpoints" in said[-1]
    assert "`make repro`" in said[-1]
    assert read_search(folder).runner() is None


def test_finish_leaves_the_process_alone_and_leaves_word(workspace: Workspace, running: Running) -> None:
    folder = write_search(workspace)
    process = running(folder)
    (said,) = stop_search(workspace, finish=True)
    assert "starts no further trials. What runs (1 now) goes on to its end" in " ".join(said.split())
    assert (folder / "stop").exists()
    assert process.poll() is None


def test_finish_says_what_becomes_of_paused_trials(workspace: Workspace, running: Running) -> None:
    with open_search(workspace) as journal:
        for name in ("t0001", "t0002"):
            run(journal, name, epochs=1, state=None)
            journal.pause(name)
        run(journal, "t0003", epochs=1, state=None)
        folder = ledger_folder(journal)
    running(folder)
    said = " ".join(" ".join(stop_search(workspace, finish=True)).split())
    assert (
        "starts no further trials and ends 2 paused ones where they are, but for the best, if nothing else comes to run in "
        "full. What runs (1 now) goes on"
    ) in said
    (folder / "stop").unlink()
    said = " ".join(stop_search(workspace, finish=False, patience=20))
    assert "1 of its runs had not, and will go on from their last checkpoints. 2 trials are paused at a rung." in said


def test_only_the_search_that_runs_is_stopped(workspace: Workspace, running: Running) -> None:
    mine = write_search(workspace)
    running(mine)
    later = write_search(workspace, {**content_of(workspace), "seed": 1})
    list(stop_search(workspace, finish=True))
    assert (mine / "stop").exists()
    assert not (later / "stop").exists()


@pytest.mark.parametrize("finish", [False, True])
def test_nothing_is_stopped_where_nothing_runs(workspace: Workspace, finish: bool) -> None:
    folder = write_search(workspace)  # its process is this one, which is at it no more
    with pytest.raises(UserError, match="no search is running here"):
        list(stop_search(workspace, finish=finish))
    assert not (folder / "stop").exists()


def test_another_stage_that_runs_is_named(workspace: Workspace) -> None:
    with (
        workspace.locked("retrain"),
        pytest.raises(UserError, match=f"but a stage is .retrain, process {os.getpid()}"),
    ):
        list(stop_search(workspace, finish=False))


def test_process_that_cannot_be_seen_from_here_is_not_signalled(workspace: Workspace) -> None:
    folder = write_search(workspace)
    text = (folder / "journal.jsonl").read_text()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        # The journal names a process of this number on another machine; here it is somebody else's.
        (folder / "journal.jsonl").write_text(text.replace(f'"pid": {os.getpid()}', f'"pid": {bystander.pid}'))
        with FileLock(folder / "journal.lock"), pytest.raises(UserError, match=r"cannot be seen from here.*--finish"):
            list(stop_search(workspace, finish=False))
        assert bystander.poll() is None
        bystander.communicate(b"\n")
    assert bystander.returncode == 0


def test_process_that_ignores_interruptions_is_told_apart(workspace: Workspace, running: Running) -> None:
    process = running(write_search(workspace), "ignores")
    with pytest.raises(UserError, match=rf"ignores interruptions.*--finish.*kill {process.pid}"):
        list(stop_search(workspace, finish=False, patience=20))
    assert process.poll() is None


def test_process_that_does_not_end_is_told_after_the_wait(workspace: Workspace, running: Running) -> None:
    process = running(write_search(workspace), "lingers")
    with pytest.raises(UserError, match=rf"process {process.pid} is still there after 0 s.*kill {process.pid}"):
        list(stop_search(workspace, finish=False, patience=0.2))


def test_search_that_has_no_trial_yet_is_not_asked_to_finish(workspace: Workspace) -> None:
    with open_search(workspace) as journal:
        run(journal, "baseline", epochs=1, state=None, role="control")
        run(journal, "t0000", epochs=1, state=PRUNED)
        with pytest.raises(UserError, match="has no trial yet that it could end with"):
            list(stop_search(workspace, finish=True))
        assert not (ledger_folder(journal) / "stop").exists()


def test_search_in_this_process_is_found_by_its_ledger(workspace: Workspace) -> None:
    with open_search(workspace) as journal:
        run(journal, "t0000", epochs=1, state=None)
        assert "(1 now)" in next(iter(stop_search(workspace, finish=True)))

"""`sar-search repro` passes on what DVC is asked for, and ends with the status that tells what happened."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from pipeline import entry
from pipeline.commands import repro
from pipeline.entry import INTERRUPTED
from pipeline.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    def checked(workspace: Workspace, *, afresh: bool) -> Iterator[str]:
        yield "the plan"

    monkeypatch.setattr(repro, "run_check", checked)
    monkeypatch.setattr(repro, "describe_results", lambda workspace: "the verdict")
    monkeypatch.setattr(repro, "git_problem", lambda root: None)  # tests/provenance/test_git.py has the real one
    monkeypatch.setattr(repro, "fork_server", nullcontext)  # tests/test_fork_server.py has the real one
    return Workspace(tmp_path, tmp_path)


@pytest.mark.parametrize(("arguments", "said"), [([], True), (["--force"], True), (["search"], False)])
def test_the_verdict_is_told_when_the_whole_pipeline_has_run(
    arguments: list[str],
    said: bool,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A part of it may leave none, or an earlier run's."""
    monkeypatch.setattr(repro, "run_dvc", lambda *_: 0)
    assert repro.reproduce(workspace, arguments) == 0
    printed = capsys.readouterr().out
    assert ("the verdict" in printed) == said


def test_after_an_interruption_the_last_line_says_how_to_go_on(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """DVC calls it a failure, after the stage has said that nothing is lost."""

    def interrupted(*_: object) -> int:
        workspace.stage_status.write_text(str(INTERRUPTED))
        print("ERROR: failed to reproduce 'search'", file=sys.stderr)
        return 255

    monkeypatch.setattr(repro, "run_dvc", interrupted)
    assert repro.reproduce(workspace, []) == INTERRUPTED
    assert capsys.readouterr().err.splitlines()[-1] == entry.INTERRUPTED_WORDS


@pytest.mark.parametrize(("arguments", "follow"), [([], True), (["--force"], True), (["search"], False)])
def test_stages_learn_what_has_been_printed_and_whether_the_results_follow(
    arguments: list[str], follow: bool, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, str]] = []
    monkeypatch.setattr(repro, "run_dvc", lambda arguments, root, variables: told.append(variables) or 0)
    monkeypatch.delenv(entry.ANNOUNCED, raising=False)
    assert entry.new_lines("the plan\nsearch 1: new") == ["the plan", "search 1: new"]
    assert repro.reproduce(workspace, arguments) == 0
    assert not entry.results_follow()  # this process's own environment is as it was
    for name, value in told[0].items():
        monkeypatch.setenv(name, value)
    assert entry.new_lines("the plan\nsearch 1: new") == ["search 1: new"]
    assert entry.results_follow() == follow


def test_a_stage_that_was_interrupted_before_it_could_note_it_ends_as_interrupted(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(subprocess.Popen[bytes]):
        """DVC, with a terminal that has sent an interruption to all."""

        def __init__(self, command: list[str], **_: object) -> None:
            super().__init__([sys.executable, "-c", "import sys; sys.exit(255)"])
            self._told = False

        def wait(self, timeout: float | None = None) -> int:
            if not self._told:
                self._told = True
                signal.raise_signal(signal.SIGINT)
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert repro.reproduce(workspace, []) == INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_lock_file_that_was_cut_off_is_mended_before_dvc_starts(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = workspace.root / "dvc.lock"
    found: list[bool] = []

    def dvc(arguments: list[str], *_: object) -> int:
        found.append(lock.exists())
        lock.write_text("schema: '2.0'\nstages: {}\n")
        return 0

    monkeypatch.setattr(repro, "run_dvc", dvc)
    lock.write_text("")
    assert repro.reproduce(workspace, []) == 0
    assert "dvc.lock was cut off" in capsys.readouterr().out
    lock.write_text("schema: ")
    assert repro.reproduce(workspace, []) == 0
    assert found == [False, True]


@pytest.mark.parametrize(
    ("shell", "used"),
    [
        ("/bin/sh", "/bin/sh"),
        ("/bin/false", "/bin/sh"),
        ("/usr/sbin/nologin", "/bin/sh"),
        ("/nowhere/bash", "/bin/sh"),
        ("", "/bin/sh"),
        (None, "/bin/sh"),
    ],
)
def test_dvc_gets_a_shell_that_runs_commands(
    shell: str | None, used: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHELL", raising=False)
    if shell is not None:
        monkeypatch.setenv("SHELL", shell)
    assert repro.environment_for_dvc()["SHELL"] == used


@pytest.mark.parametrize(
    ("arguments", "afresh"),
    [([], False), (["-sf", "search"], True), (["--force"], True), (["--force-downstream"], False)],
)
def test_check_is_told_when_what_is_up_to_date_is_to_run_too(
    arguments: list[str], afresh: bool, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(repro, "run_check", lambda workspace, *, afresh: asked.append(afresh) or [])
    monkeypatch.setattr(repro, "run_dvc", lambda *_: 0)
    assert repro.reproduce(workspace, arguments) == 0
    assert asked == [afresh]


def test_dvc_runs_in_the_folder_of_the_checkout(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    below = workspace.root / "docs"
    below.mkdir()
    monkeypatch.chdir(below)
    ran: list[object] = []

    class Ended:
        def __init__(self, command: list[str], *, cwd: Path, env: dict[str, str]) -> None:
            ran.append(cwd)

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Ended)
    assert repro.reproduce(workspace, []) == 0
    assert ran == [workspace.root]


@pytest.mark.parametrize(
    ("arguments", "again"), [([], True), (["--force"], True), (["--dry"], False), (["search"], False)]
)
def test_what_the_store_has_lost_is_registered_again_when_the_whole_pipeline_was_asked_for(
    arguments: list[str],
    again: bool,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(repro, "run_dvc", lambda arguments, *_: asked.append(arguments) or 0)
    monkeypatch.setattr(repro, "advice", lambda workspace: "the store has no version 1")
    assert repro.reproduce(workspace, arguments) == 0
    assert asked[1:] == ([["repro", "--single-item", "--force", "register"]] if again else [])
    assert ("registering again, from models/ and results/: the store has no version 1" in capsys.readouterr().out) == (
        again
    )

"""The whole pipeline in one command: the check, `dvc repro`, what came out. Alone in the checkout from start to end.

DVC deletes a stage's outs before it starts the stage, and turns every failure into status 255. So mistakes are looked
for before DVC starts, and the status with which a stage really ended is read from where the stage noted it.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.commands.check import run_check
from pipeline.commands.results import describe_results
from pipeline.compute.temp_dirs import check_temporary
from pipeline.entry import INTERRUPTED
from pipeline.errors import UserError
from pipeline.fork_server import fork_server
from pipeline.promotion.registered_version import REPAIR, advice
from pipeline.provenance.git import check_for_dvc, git_problem
from pipeline.state.dvc_leftovers import remove_leftovers
from pipeline.state.dvc_lock import keep_lock, repair_lock
from pipeline.workspace import Workspace

SHELLS = ("sh", "bash", "zsh", "dash", "ash", "ksh", "fish")
"""Shells that DVC runs a stage's command with."""

DRY = frozenset({"--dry", "--no-commit"})
"""Arguments with which `dvc repro` does nothing, or records nothing."""


def reproduce(workspace: Workspace, arguments: Sequence[str]) -> int:
    """Check, run `dvc repro` with these arguments, and print the results. Returns the status to end with.

    Raises:
        UserError: another process is at work in this checkout, or the check found a mistake.
    """
    with alone_with_dvc(workspace, "make repro"):
        print("checking the parameters, and what they will take", flush=True)
        for line in run_check(workspace, afresh=_is_forced(arguments)):
            print(line, flush=True)
        if trouble := git_problem(workspace.root):
            print(f"{'git':<10}{trouble}. Runs are logged without a commit.", flush=True)
        workspace.stage_status.write_text("    ")
        whole = all(argument.startswith("-") for argument in arguments) and not DRY & set(arguments)
        status = run_dvc(["repro", *arguments], workspace.root)
        keep_lock(workspace)
        if status == 0 and whole and (why := _registry_advice(workspace)):
            print(f"registering again, from models/ and results/: {why}", flush=True)
            status = run_dvc(REPAIR.split()[1:], workspace.root)
            keep_lock(workspace)
        if status == 0:
            # Given targets, DVC has run a part of the pipeline; its results may be none yet, or an earlier run's.
            if whole:
                print(describe_results(workspace))
            return 0
        try:
            return int(workspace.stage_status.read_text())
        except (OSError, ValueError):
            return status


@contextmanager
def alone_with_dvc(workspace: Workspace, doing: str) -> Iterator[None]:
    """Inside, this process is alone in the checkout, what a DVC that was killed has left is mended, and stages begin
    fast. doing: the command.

    Raises:
        UserError: another process is at work in this checkout, or DVC cannot work here.
    """
    check_temporary()
    # The fork server first: the lock is this process's alone, and would be in the hands of its copies too.
    with fork_server(), workspace.locked(doing, lock="repro"):
        with workspace.locked(doing):
            pass  # a stage may have outlived the command that started it
        check_for_dvc(workspace.root)
        for mended in (repair_lock(workspace), *remove_leftovers(workspace)):
            if mended:
                print(mended, flush=True)
        keep_lock(workspace)
        yield


def environment_for_dvc() -> dict[str, str]:
    """This process's environment, for a DVC that runs the stages' commands by a shell that runs commands.

    DVC takes $SHELL for one. Users of services and containers have one that refuses (false, nologin), or none.
    """
    shell = os.environ.get("SHELL", "")
    sound = os.path.basename(shell) in SHELLS and os.access(shell, os.X_OK)
    return {**os.environ, "SHELL": shell if sound else "/bin/sh"}


def _is_forced(arguments: Sequence[str]) -> bool:
    """Whether `dvc repro` is to run what is up to date, also by an `f` among short options, as in `-sf`."""
    return any(each == "--force" or re.fullmatch("-[a-zA-Z]*f[a-zA-Z]*", each) for each in arguments)


def _registry_advice(workspace: Workspace) -> str:
    with suppress(UserError):  # a store that does not answer now; the results say so
        return advice(workspace)
    return ""


def run_dvc(arguments: Sequence[str], root: Path) -> int:
    """Run DVC in a checkout, and return its status."""
    return run_python(["-m", "dvc", *arguments], root, environment_for_dvc())


def run_python(arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> int:
    """Run this Python with arguments in a folder, and return its status; 130 where it was interrupted."""
    process = subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment)
    interrupted = False
    while True:
        try:
            status = process.wait()
            # A stage that was still importing could not note it.
            return INTERRUPTED if status and interrupted else status
        except KeyboardInterrupt:
            # The terminal has sent it to DVC and its stage too, which end by themselves, keeping what they have.
            interrupted = True

"""`sar-search repro`: the whole pipeline in one command, alone in the checkout: check, `dvc repro`, results.

DVC deletes a stage's outputs before it starts the stage, and turns every failure into status 255. So mistakes
are looked for before DVC starts, and each stage writes its real exit status to a file, which is read here.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from pipeline.commands.check import run_check
from pipeline.commands.results import describe_results
from pipeline.compute.temp_dirs import check_temporary
from pipeline.console.format import fit_lines
from pipeline.entry import ANNOUNCED, INTERRUPTED, INTERRUPTED_WORDS, RESULTS_FOLLOW
from pipeline.errors import UserError
from pipeline.fork_server import fork_server
from pipeline.promotion.registered_version import REPAIR, advice
from pipeline.provenance.git import check_for_dvc, git_problem
from pipeline.state.dvc_leftovers import remove_leftovers
from pipeline.state.dvc_lock import keep_lock, repair_lock
from pipeline.workspace import Workspace

SHELLS = ("sh", "bash", "zsh", "dash", "ash", "ksh", "fish")
"""Shells with which DVC can run a stage's command."""

NO_VARIABLES: Mapping[str, str] = MappingProxyType({})

DRY = frozenset({"--dry", "--no-commit"})
"""Arguments with which `dvc repro` does nothing or records nothing."""


def reproduce(workspace: Workspace, arguments: Sequence[str]) -> int:
    """Checks, runs `dvc repro` and prints the results. `pipeline.cli` has said so, and made the first checks.

    Args:
        workspace: the checkout.
        arguments: arguments of `dvc repro`.

    Returns:
        The exit status.

    Raises:
        UserError: another process is at work in this checkout, or the check found a mistake.
    """
    with alone_with_dvc(workspace, "make repro"):
        announced = []
        for line in run_check(workspace, afresh=_is_forced(arguments)):
            print(fit_lines(line), flush=True)
            announced.append(line)
        if trouble := git_problem(workspace.root):
            print(f"{'git':<10}{trouble}. Runs are logged without a commit.", flush=True)
        workspace.stage_status.write_text("    ")
        whole = all(argument.startswith("-") for argument in arguments) and not DRY & set(arguments)
        told = {ANNOUNCED: "\n".join(announced), **({RESULTS_FOLLOW: "1"} if whole else {})}
        status = run_dvc(["repro", *arguments], workspace.root, told)
        keep_lock(workspace)
        if status == 0 and whole and (why := _registry_advice(workspace)):
            print(f"registering again, from models/ and results/: {why}", flush=True)
            status = run_dvc(REPAIR.split()[1:], workspace.root)
            keep_lock(workspace)
        if status == 0:
            # With targets, DVC has run a part of the pipeline only, so results/ may be missing or of an earlier run.
            if whole:
                print(describe_results(workspace))
            return 0
        with suppress(OSError, ValueError):
            status = int(workspace.stage_status.read_text())
        if status == INTERRUPTED:
            print(INTERRUPTED_WORDS, file=sys.stderr)  # again, below DVC's own lines, which call it a failure
        return status


@contextmanager
def alone_with_dvc(workspace: Workspace, doing: str) -> Iterator[None]:
    """Reserves the checkout for DVC for the duration of the block.

    Inside it, this process is alone in the checkout, and a fork server starts stages fast. Files that a
    killed DVC left behind are repaired first.

    Args:
        workspace: the checkout.
        doing: the command, which is shown to processes that find the checkout reserved.

    Raises:
        UserError: another process is at work in this checkout, or DVC cannot work here.
    """
    check_temporary()
    # The fork server starts first, because its forks would otherwise inherit the lock.
    with fork_server(), workspace.locked(doing, lock="repro"):
        with workspace.locked(doing):
            pass  # raises if a stage has outlived the command that started it
        check_for_dvc(workspace.root)
        for mended in (repair_lock(workspace), *remove_leftovers(workspace)):
            if mended:
                print(mended, flush=True)
        keep_lock(workspace)
        yield


def environment_for_dvc() -> dict[str, str]:
    """Returns this process's environment with a SHELL in which DVC can run the stages' commands.

    DVC uses $SHELL. Users of services and containers have one that refuses commands (false, nologin), or
    none.
    """
    shell = os.environ.get("SHELL", "")
    sound = os.path.basename(shell) in SHELLS and os.access(shell, os.X_OK)
    return {**os.environ, "SHELL": shell if sound else "/bin/sh"}


def _is_forced(arguments: Sequence[str]) -> bool:
    """Returns whether `dvc repro` also runs stages that are up to date.

    It does with `--force`, and with an `f` among short options, as in `-sf`.
    """
    return any(each == "--force" or re.fullmatch("-[a-zA-Z]*f[a-zA-Z]*", each) for each in arguments)


def _registry_advice(workspace: Workspace) -> str:
    """Returns why the registered version must be registered again.

    The result is empty if the version is sound, or if the store does not answer.
    """
    with suppress(UserError):  # the store does not answer now, which the results report
        return advice(workspace)
    return ""


def run_dvc(arguments: Sequence[str], root: Path, variables: Mapping[str, str] = NO_VARIABLES) -> int:
    """Runs DVC in a checkout, and returns its exit status.

    Args:
        arguments: DVC's arguments.
        root: the checkout.
        variables: environment variables that the stages get beside this process's.
    """
    return run_python(["-m", "dvc", *arguments], root, {**environment_for_dvc(), **variables})


def run_python(arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> int:
    """Runs this Python interpreter and waits for it.

    Args:
        arguments: its arguments.
        folder: its working directory.
        environment: its environment, or None for this process's.

    Returns:
        Its exit status; 130 if it was interrupted.
    """
    process = subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment)
    interrupted = False
    while True:
        try:
            status = process.wait()
            # A stage that is still importing cannot store its status.
            return INTERRUPTED if status and interrupted else status
        except KeyboardInterrupt:
            # The terminal has sent the signal to DVC and its stage too, which save their progress and end.
            interrupted = True

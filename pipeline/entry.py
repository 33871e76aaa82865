"""Common frame of all entry points: error messages in place of tracebacks, and exit statuses."""

import errno
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType

from pipeline.compute.limits import limit_threads
from pipeline.compute.temp_dirs import check_temporary
from pipeline.compute.user import settle_user
from pipeline.errors import UserError
from pipeline.provenance.stage_inputs import check_carried, check_unchanged, read_inputs
from pipeline.workspace import Workspace, find_workspace

METHOD = "--method"
"""Option of a stage's command, followed by the folder of a method of a comparison."""

ANNOUNCED = "SAR_SEARCH_ANNOUNCED"
"""Environment variable with the lines that `sar-search repro` has printed before its stages start."""
RESULTS_FOLLOW = "SAR_SEARCH_RESULTS_FOLLOW"
"""Environment variable that `sar-search repro` sets if it prints the results when all stages have ended."""

INTERRUPTED = 130
INTERRUPTED_WORDS = "interrupted; what had finished is kept, run the same command again to go on"

FREE_SPACE = "Free some space there, and run the same command again; what had finished is kept."
STORAGE = {
    errno.ENOSPC: FREE_SPACE,
    errno.EDQUOT: FREE_SPACE,
    errno.EROFS: "Make it writable, or move the checkout, and run the same command again.",
    errno.EACCES: "Allow yourself to read and write there, and run the same command again.",
}
"""Advice on storage failures that the user must fix, and that may occur at any time, by error number."""


def run_stage(name: str, work: Callable[[Workspace], None]) -> None:
    """Runs a stage, alone, on the checkout that contains the current folder, and ends the process.

    With `--method FOLDER` the stage runs for one method of a comparison (`Workspace.own`). The stage fails if its
    inputs have changed by its end, because DVC would record the changed inputs instead of those that the stage has
    read.

    Args:
        name: Name of the stage.
        work: Function that does the stage's work.
    """

    def alone() -> None:
        workspace = find_workspace()
        if sys.argv[1:2] == [METHOD]:
            workspace = replace(workspace, own=workspace.root / sys.argv[2])
        try:
            check_carried(workspace)
            check_temporary()
            with workspace.locked(name):
                began = read_inputs(workspace, name)
                work(workspace)
                sys.stdout.flush()
                check_unchanged(workspace, name, began)
        except UserError as error:
            note_status(workspace, error.exit_code)
            raise
        except OSError as error:
            if error.errno in STORAGE:
                note_status(workspace, UserError.exit_code)
            raise
        except KeyboardInterrupt:
            note_status(workspace, INTERRUPTED)
            raise

    run_entry(alone)


def new_lines(text: str) -> list[str]:
    """Returns the lines that `sar-search repro` has not printed before this stage.

    The plan is then not printed twice by one command. A stage that `dvc repro` starts gets all lines.

    Args:
        text: Lines, such as those of the plan.
    """
    before = set(os.environ.get(ANNOUNCED, "").splitlines())
    return [line for line in text.splitlines() if line not in before]


def results_follow() -> bool:
    """Returns whether `sar-search repro` prints the results after this stage, which then need not print its own."""
    return RESULTS_FOLLOW in os.environ


def note_status(workspace: Workspace, status: int) -> None:
    """Writes the status for `reproduce` into the existing file, because a full disk has no room for a new one."""
    with suppress(OSError):
        workspace.stage_status.touch()
        with workspace.stage_status.open("r+") as file:
            file.write(str(status))


def run_entry(work: Callable[[], object]) -> None:
    """Runs an entry point and ends the process if it fails, with status 2, 3 or 130.

    Args:
        work: Function that does the work.
    """
    if not os.environ.get("PYTHONWARNINGS"):
        # Deprecation warnings of libraries are for developers, who see them in the tests.
        warnings.filterwarnings("ignore")
    limit_threads()
    settle_user()
    try:
        work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror}. {STORAGE[error.errno]}", file=sys.stderr)
        sys.exit(UserError.exit_code)
    except KeyboardInterrupt:
        print(INTERRUPTED_WORDS, file=sys.stderr)
        sys.exit(INTERRUPTED)


def report_interrupted_imports() -> None:
    """Replaces the traceback of an interruption during a stage's imports, before `run_stage`, by the usual message."""
    usual = sys.excepthook

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print(INTERRUPTED_WORDS, file=sys.stderr)
        else:
            usual(kind, error, trace)

    sys.excepthook = tell

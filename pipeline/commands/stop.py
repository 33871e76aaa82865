"""`sar-search stop`: ends this checkout's search, at once as Ctrl-C would, or after its running trials."""

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

from pipeline.console.format import format_count, wrap_text
from pipeline.errors import UserError
from pipeline.files.locks import lock_holder
from pipeline.state.searches import SearchState, find_searches, is_held, process_has_open, read_search
from pipeline.tune.journal.records import COMPLETE, METHOD
from pipeline.workspace import Workspace

PATIENCE_S = 60.0
"""Seconds to wait for the search's process to end."""
GO_ON = "`make repro`, or the command that you started it with, goes on from here."


def stop_search(workspace: Workspace, *, finish: bool, patience: float = PATIENCE_S) -> Iterator[str]:
    """Ends the running search, and yields lines on how to resume it.

    Args:
        workspace: the checkout.
        finish: whether running trials run to their end and the best are confirmed.
        patience: seconds to wait for the search's process to end.

    Raises:
        UserError: no search runs, its process cannot be reached from here, ignores interrupts or has not
            ended in time.
    """
    search = running_search(workspace)
    if finish:
        if not any(trial.study == METHOD and trial.state in (None, COMPLETE) for trial in search.trials):
            raise UserError(
                f"search {search.id} has no trial yet that it could end with. Wait for the first one (see `sar-search "
                "status`), or interrupt it: `sar-search stop`."
            )
        try:
            search.stop_file.touch()
        except OSError as error:
            raise UserError(f"{search.stop_file}: cannot be written ({error.strerror}).") from None
        yield wrap_text(_finishing(search))
        return
    yield from _interrupt(search, patience)
    left = read_search(search.folder)
    paused = len(left.paused_trials)
    unended = len(left.open_trials) - paused
    waiting = f" {format_count(paused, 'trial')} {'is' if paused == 1 else 'are'} paused at a rung." if paused else ""
    yield f"it has ended; {unended} of its runs had not, and will go on from their last checkpoints.{waiting}\n{GO_ON}"


def _finishing(search: SearchState) -> str:
    """Returns what `--finish` makes a search end and what it still runs, in a paragraph."""
    paused = len(search.paused_trials)
    running = sum(trial.id in search.running_trials and not trial.paused for trial in search.open_trials)
    ends = f" and ends {format_count(paused, 'paused one')} where they are" if paused else ""
    if paused and not any(trial.study == METHOD and trial.state == COMPLETE for trial in search.trials):
        ends += ", but for the best, if nothing else comes to run in full"
    return (
        f"search {search.id} starts no further trials{ends}. What runs ({running} now) goes on to its end, or to a "
        "rung at which it is not among the best; then the best are confirmed, and the pipeline goes on with these "
        "results. `sar-search status` shows how far it is."
    )


def running_search(workspace: Workspace) -> SearchState:
    """Returns the search that runs in this checkout.

    Raises:
        UserError: none runs.
    """
    for search in find_searches(workspace.searches).searches:
        if search.runner() is not None:
            return search
    lock = workspace.state / "stage.lock"
    if is_held(lock):
        doing = lock_holder(lock)
        raise UserError(
            f"{workspace.anchor}: no search is running, but a stage is ({doing}). Interrupt it by Ctrl-C "
            "where it runs; what has finished is kept."
        )
    raise UserError(
        f"{workspace.anchor}: no search is running here, so there is nothing to stop. `sar-search status` says more."
    )


def _interrupt(search: SearchState, patience: float) -> Iterator[str]:
    """Sends SIGINT to the process of a search, and waits for its end. Yields the lines to print."""
    runner = search.runner()
    pid = None if runner is None else runner.pid
    if pid is None:
        raise UserError(
            f"search {search.id} is run by a process that cannot be seen from here: it is another user's, or runs on "
            "another machine or in a container. Stop it there, or let it finish: `sar-search stop --finish`."
        )
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return  # it has just ended
    try:
        # Another process may have taken over the number, but not the handle.
        if not process_has_open(pid, search.lock):
            return
        if _ignores_interruptions(pid):
            raise UserError(
                f"process {pid}, which runs search {search.id}, was started so that it ignores interruptions (in a "
                f"script's background). Let it finish (`sar-search stop --finish`), or end it by `kill {pid}`; what "
                "has finished is kept."
            )
        signal.pidfd_send_signal(process, signal.SIGINT)
        yield f"search {search.id}: sent an interrupt to process {pid}; waiting for its end (up to {patience:.0f} s)"
        if not select.select([process], [], [], patience)[0]:
            raise UserError(
                f"process {pid} is still there after {patience:.0f} s. It may be waiting for its tracking server; see "
                f"`sar-search status` again, or end it by `kill {pid}`. What has finished is kept."
            )
    except PermissionError:
        raise UserError(
            f"search {search.id} is run by process {pid} of another user. Only that user may stop it."
        ) from None
    finally:
        os.close(process)


def _ignores_interruptions(pid: int) -> bool:
    """Returns whether a process ignores SIGINT."""
    for line in _read(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("SigIgn:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGINT - 1) & 1)
    return False


def _read(path: Path) -> str:
    """Returns the text of a file, or an empty one if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""

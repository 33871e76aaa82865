"""User commands that run when a search has finished or failed, or a model was promoted.

Each is a shell command in params.yaml (`tracking.on_finished` and so on). It runs in the checkout's folder.
The event is in its environment as SAR_EVENT, and further variables by their names, such as SAR_FINGERPRINT. A
command does not change the result of the event. If it fails or hangs, a warning is printed on stderr.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.config.schema.result_sections import TrackingParams

FINISHED, FAILED, PROMOTED = "finished", "failed", "promoted"

PATIENCE_S = 60.0
"""Longest duration of a command."""

LONGEST = 2000
"""The most characters of a variable, since an environment has little room."""


def run_hook(tracking: TrackingParams, event: str, variables: Mapping[str, object], folder: Path) -> None:
    """Runs the command of an event, if there is one.

    Args:
        tracking: the section of parameters with the commands.
        event: FINISHED, FAILED or PROMOTED.
        variables: values by name, such as `best_accuracy`, which becomes SAR_BEST_ACCURACY.
        folder: working directory of the command.
    """
    commands = {FINISHED: tracking.on_finished, FAILED: tracking.on_failed, PROMOTED: tracking.on_promoted}
    if not (command := commands[event]):
        return
    told = {f"SAR_{name.upper()}": str(value).replace("\0", "")[:LONGEST] for name, value in variables.items()}
    environment = {**os.environ, "SAR_EVENT": event, **told}
    try:
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment, stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = "it took too long" if isinstance(error, subprocess.TimeoutExpired) else str(error)
        print(f"warning: tracking.on_{event} was not carried out: {why}", file=sys.stderr)
        return
    if done.returncode:
        print(f"warning: tracking.on_{event} ended with status {done.returncode}", file=sys.stderr)


@contextmanager
def notify_on_exit(tracking: TrackingParams, variables: dict[str, object], folder: Path) -> Iterator[dict[str, object]]:
    """Runs the command of FINISHED or FAILED when the `with` block ends.

    An interruption runs neither, since the user who interrupted is aware of it.

    Args:
        tracking: the section of parameters with the commands.
        variables: values by name, to which the block may add.
        folder: working directory of the command.
    """
    try:
        yield variables
    except Exception as error:
        run_hook(tracking, FAILED, {**variables, "reason": error or type(error).__name__}, folder)
        raise
    run_hook(tracking, FINISHED, variables, folder)

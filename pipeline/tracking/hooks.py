"""User commands that run when a search has finished or failed, or a model was promoted.

Each is a line for the shell in params.yaml (`tracking.on_finished` and so on), run in the checkout's folder with the
facts in its environment: SAR_EVENT, and each fact by its name, such as SAR_FINGERPRINT. What a command does cannot
change what has happened: one that fails or hangs is reported on stderr, and that is all.
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
"""How long a command may take."""

LONGEST = 2000
"""Characters of a fact: an environment has little room."""


def run_hook(tracking: TrackingParams, event: str, variables: Mapping[str, object], folder: Path) -> None:
    """Run the command of an event, if there is one, in `folder`. variables: by name, as in `best_accuracy`."""
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
    """Tell FINISHED or FAILED when the block ends, with the facts that it has added by then.

    An interruption is neither: whoever interrupted knows.
    """
    try:
        yield variables
    except Exception as error:
        run_hook(tracking, FAILED, {**variables, "reason": error or type(error).__name__}, folder)
        raise
    run_hook(tracking, FINISHED, variables, folder)

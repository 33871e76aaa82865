"""How every entry point ends: messages in place of tracebacks."""

import os
import sys
import warnings
from collections.abc import Callable

from pipeline.errors import UserError
from pipeline.workspace import Workspace, find_workspace


def run_stage(name: str, work: Callable[[Workspace], None]) -> None:
    """Run a stage on the checkout that the current folder lies in, alone in it, and end the process."""

    def alone() -> None:
        workspace = find_workspace()
        with workspace.locked(name):
            work(workspace)

    run_entry(alone)


def run_entry(work: Callable[[], object]) -> None:
    """Run an entry point and end the process with its status: 0, 2, 3 or 130."""
    if not os.environ.get("PYTHONWARNINGS"):
        # Vendors' deprecation notes are for developers, who see them in the tests.
        warnings.filterwarnings("ignore")
    try:
        work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; what had finished is kept, run the same command again to go on", file=sys.stderr)
        sys.exit(130)

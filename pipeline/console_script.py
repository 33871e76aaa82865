"""The start of the `sar-search` command, which also answers where the packages that it needs are missing.

A wheel that is installed without its dependencies serves as a library (docs/library.md). The command needs the
packages of `requirements.lock`, and a checkout.
"""

import os
import sys
from pathlib import Path


def main() -> None:
    """Runs the `sar-search` command; ends with status 2 and a sentence if a package is missing.

    In a checkout other than the one that the environment was made for, the code of that checkout runs, as it does in
    the stages that DVC starts there.
    """
    try:
        if (other := _other_checkout()) is not None:
            paths = [str(other), *filter(None, [os.environ.get("PYTHONPATH")])]
            command = [sys.executable, "-m", "pipeline.cli", *sys.argv[1:]]
            os.execve(sys.executable, command, os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
        from pipeline.cli import main as run

        run()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "pipeline":
            raise
        print(
            f"error: the package {error.name} is not installed, which the command needs besides a clone of this "
            "project's repository; in the clone, `make environment` installs all that it needs into .venv",
            file=sys.stderr,
        )
        sys.exit(2)


def _other_checkout() -> Path | None:
    """Returns the checkout around the current folder if it has code of its own; None if this code is its code."""
    from pipeline.errors import UserError
    from pipeline.workspace import find_workspace

    try:
        root = find_workspace().root
    except UserError:
        return None
    code = root / "pipeline"
    return root if (code / "cli.py").is_file() and not code.samefile(Path(__file__).parent) else None

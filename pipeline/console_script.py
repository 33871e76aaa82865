"""The start of the `sar-search` command, which also answers where the packages that it needs are missing.

A wheel that is installed without its dependencies serves as a library (docs/library.md). The command needs the
packages of `requirements.lock`, and a checkout.
"""

import sys


def main() -> None:
    """Runs the `sar-search` command; ends with status 2 and a sentence if a package is missing."""
    try:
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

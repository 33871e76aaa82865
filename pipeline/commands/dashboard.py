"""`sar-search dashboard`: the search's study in optuna-dashboard, on loopback."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.errors import UserError
from pipeline.files.paths import database_uri
from pipeline.loopback import HOST, serve_page
from pipeline.workspace import Workspace

PROGRAM = """
import sys
from optuna_dashboard import run_server
run_server(sys.argv[1], host=sys.argv[2], port=int(sys.argv[3]))
"""
"""Python program that serves a study; its arguments are the database, host and port."""


def serve_dashboard(workspace: Workspace, port: int) -> None:
    """Serves the study of the last finished search until interrupted. Changes made there are discarded.

    Args:
        workspace: the checkout.
        port: port on loopback.

    Raises:
        UserError: there is no study yet, optuna-dashboard is not installed, or the port is taken.
    """
    study = workspace.results / "search" / "study.db"
    if not study.is_file():
        raise UserError(
            f"{study}: there is no study yet; a search writes it when it has finished\n"
            "  run `make repro`; `sar-search status` follows a search that runs"
        )
    if find_spec("optuna_dashboard") is None:
        raise UserError("this needs optuna-dashboard\n  install it: pip install -e '.[dashboard]'")
    # The dashboard writes to the file that it opens, and DVC may have hard-linked this one to its cache.
    with TemporaryDirectory(prefix="sar-dashboard-") as folder:
        copy = Path(shutil.copyfile(study, Path(folder) / "study.db"))
        command = [sys.executable, "-c", PROGRAM, database_uri(copy), HOST, str(port)]
        serve_page(f"optuna-dashboard of {study}", command, port=port, target="dashboard")

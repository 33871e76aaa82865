"""The MLflow UI of a store, on loopback."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from pipeline.files.paths import SQLITE
from pipeline.loopback import HOST, serve_page
from pipeline.tracking.store import Store, as_user_error, client

TRAINING = "workflowType=machine_learning"
"""Without this the UI opens an experiment among its pages for language models, which hide the list of runs."""


def serve_ui(store: Store, port: int, experiment: str) -> None:
    """Serve a local store's UI until interrupted; for a server, say its address. experiment: whose page is named.

    Raises:
        UserError: the port is taken, or MLflow's server cannot run.
    """
    if store.database is None:
        print(f"the tracking store is a server with a UI of its own: {store.shown}/{page_of(store, experiment)}")
        return
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    # MLflow's background jobs are for judging language models; each of their workers would take a quarter of a GB.
    jobs = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
    environment = {jobs: os.environ.get(jobs, "false")}
    # Vendors' deprecation notes are for developers.
    environment["PYTHONWARNINGS"] = os.environ.get("PYTHONWARNINGS", "ignore")
    what, page = f"MLflow UI of {store.shown}", page_of(store, experiment)
    try:
        serve_page(what, command, port=port, page=page, target="ui", environment=environment)
    finally:
        remove_stray_folder(store.uri, store.database)


def remove_stray_folder(uri: str, database: Path) -> None:
    """Remove the empty folder that MLflow's server makes of an encoded address as written, beside the right one."""
    folder = Path(uri.removeprefix(SQLITE)).parent
    with suppress(OSError):  # not empty, so it is somebody's
        while not database.is_relative_to(folder):
            folder.rmdir()
            folder = folder.parent


def page_of(store: Store, experiment: str) -> str:
    """Where in the UI the runs of an experiment are listed; the list of experiments while there is none."""
    with as_user_error(store, f"looking for the experiment {experiment!r}"):
        found = client(store).get_experiment_by_name(experiment)
    return f"#/experiments/{found.experiment_id}/runs?{TRAINING}" if found else "#/experiments"

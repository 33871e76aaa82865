"""The MLflow UI of a store, on loopback."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from pipeline.files.paths import SQLITE
from pipeline.loopback import HOST, serve_page
from pipeline.tracking.store import Store, as_user_error, client

TRAINING = "workflowType=machine_learning"
"""Query without which the UI opens an experiment's pages for language models, which hide the list of runs."""


def serve_ui(store: Store, port: int, experiment: str) -> None:
    """Serves the UI of a local store until interrupted; for a server, prints its address.

    Args:
        store: the tracking store.
        port: port on loopback.
        experiment: name of the experiment whose page is printed.

    Raises:
        UserError: the port is taken, or MLflow's server cannot run.
    """
    if store.database is None:
        print(f"the tracking store is a server with a UI of its own: {store.shown}/{page_of(store, experiment)}")
        return
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    # MLflow's background jobs evaluate language models; each of their workers would use a quarter of a GB.
    jobs = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
    environment = {jobs: os.environ.get(jobs, "false")}
    # Deprecation warnings of packages are of no use to a user.
    environment["PYTHONWARNINGS"] = os.environ.get("PYTHONWARNINGS", "ignore")
    what, page = f"MLflow UI of {store.shown}", page_of(store, experiment)
    try:
        serve_page(what, command, port=port, page=page, target="ui", environment=environment)
    finally:
        remove_stray_folder(store.uri, store.database)


def remove_stray_folder(uri: str, database: Path) -> None:
    """Removes the empty folder that MLflow's server creates for an encoded database address.

    MLflow takes the encoded address literally, so this folder is created beside the right one.
    """
    folder = Path(uri.removeprefix(SQLITE)).parent
    with suppress(OSError):  # a folder that is not empty is not a stray one
        while not database.is_relative_to(folder):
            folder.rmdir()
            folder = folder.parent


def page_of(store: Store, experiment: str) -> str:
    """Returns the address in the UI of an experiment's runs, or of the list of experiments if it does not exist yet."""
    with as_user_error(store, f"looking for the experiment {experiment!r}"):
        found = client(store).get_experiment_by_name(experiment)
    return f"#/experiments/{found.experiment_id}/runs?{TRAINING}" if found else "#/experiments"

"""The MLflow UI of a store, on loopback."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

from pipeline.errors import UserError
from pipeline.track.store import Store

HOST = "127.0.0.1"


def serve_ui(store: Store, port: int) -> None:
    """Serve a local store's UI until interrupted; for a server, say its address.

    Raises:
        UserError: the port is taken, or MLflow's server cannot run.
    """
    if store.database is None:
        print(f"the tracking store is a server with a UI of its own: {store.shown}")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise UserError(f"port {port} is taken on {HOST}; choose another, as in: make ui PORT=5001") from None
    print(f"MLflow UI of {store.shown}: http://{HOST}:{port}  (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    # MLflow's background jobs are for judging language models; each of their workers would take a quarter of a GB.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = server.wait()
    finally:
        # MLflow's own processes, too, end with this one, whether by Ctrl-C or by a signal to it alone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
    if status > 0:
        raise UserError(f"MLflow's server ended with status {status}; its own message stands above")

"""Pages that other programs serve to this machine alone, until interrupted."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence

from pipeline.errors import UserError

HOST = "127.0.0.1"


def serve_page(
    what: str,
    command: Sequence[str],
    *,
    port: int,
    target: str,
    page: str = "",
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command that serves on HOST and `port`, say so, and end it with this process.

    what: its name, for people. target: of make, to be named with another port. page: where to begin.

    Raises:
        UserError: the port is taken, or the command failed.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            another = f"make {target} PORT={port + 1}"
            raise UserError(f"port {port} is taken on {HOST}; choose another, as in: {another}") from None
    print(f"{what}: http://{HOST}:{port}/{page}  (Ctrl-C ends it)", flush=True)
    server = subprocess.Popen(command, env={**os.environ, **(environment or {})}, start_new_session=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = server.wait()
    finally:
        # What the command has started, too, ends with this process, by Ctrl-C as by a signal to it alone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
    if status > 0:
        raise UserError(f"its server ended with status {status}; its own message stands above")

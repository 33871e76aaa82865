"""Pages that other programs serve to this machine alone, until interrupted."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from pipeline.entry import INTERRUPTED
from pipeline.errors import UserError

HOST = "127.0.0.1"
PATIENCE_S = 180.0
"""How long a page's server may take until its address is told all the same."""


def serve_page(
    what: str,
    command: Sequence[str],
    *,
    port: int,
    target: str,
    page: str = "",
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command that serves on HOST and `port`, say so once it answers, and end it with this process.

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
    print(f"{what}: starting", flush=True)
    server = subprocess.Popen(command, env={**os.environ, **(environment or {})}, start_new_session=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        slow = "" if _listens(server, port) else f", which does not answer yet, after {PATIENCE_S:.0f} s"
        if server.poll() is None:
            print(f"{what}: http://{HOST}:{port}/{page}{slow}  (Ctrl-C ends it)", flush=True)
        status = server.wait()
    except KeyboardInterrupt:
        print(f"{what} has ended", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        # What the command has started, too, ends with this process, by Ctrl-C as by a signal to it alone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
    if status > 0:
        raise UserError(f"its server ended with status {status}; its own message stands above")


def _listens(server: "subprocess.Popen[bytes]", port: int) -> bool:
    """Wait until the port is listened on, the server has ended, or patience has."""
    end = time.monotonic() + PATIENCE_S
    while server.poll() is None and time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return True
        time.sleep(0.1)
    return False

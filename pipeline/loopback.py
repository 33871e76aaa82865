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
"""Seconds to wait for the server's answer, after which the address is printed in any case."""


def serve_page(
    what: str,
    command: Sequence[str],
    *,
    port: int,
    target: str,
    page: str = "",
    environment: Mapping[str, str] | None = None,
) -> None:
    """Runs a command that serves a page, prints the address once it answers, and ends the command with this process.

    Args:
        what: Name of the page, for messages.
        command: Command that serves on `HOST` and `port`.
        port: Port to serve on.
        target: Target of make that serves the page, for the advice to choose another port.
        page: Path of the first page, after the address.
        environment: Further environment variables of the command; None for none.

    Raises:
        UserError: the port is in use, or the command failed.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            another = f"make {target} PORT={port + 1}"
            raise UserError(f"port {port} is in use on {HOST}; choose another, as in: {another}") from None
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
        # The whole process group ends, including children of the command, after Ctrl-C and after SIGTERM.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
    if status > 0:
        raise UserError(f"the server ended with status {status}; its own message is above")


def _listens(server: "subprocess.Popen[bytes]", port: int) -> bool:
    """Waits until the port is open, the server has ended or the time is over. Returns whether the port is open."""
    end = time.monotonic() + PATIENCE_S
    while server.poll() is None and time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return True
        time.sleep(0.1)
    return False

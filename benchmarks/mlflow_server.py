"""`mlflow server` as a process on loopback, for benchmarks and for the tests that need a real one."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.request import urlopen

START_S = 120.0


class LoopbackServer:
    """A command that serves HTTP on a port of this machine, in a session of its own, until it is killed.

    command: given the port, the words to run. health: the path that answers once it is up. The port is kept across
    kills; what it says goes to NAME.log in `folder`, in which it runs. host: the address that the command listens on.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        command: Callable[[int], Sequence[str]],
        *,
        health: str = "/",
        environment: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.port, self._host = free_port(), host
        self.log = folder / f"{name}.log"
        self._folder, self._command, self._health = folder, command, health
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def uri(self) -> str:
        return f"http://{self._host}:{self.port}"

    def start(self) -> None:
        """Start it, again after a kill, and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(self.port),
                env=self._environment,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"it did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urlopen(self.uri + self._health, timeout=2):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        """End it at once, with every process that it has started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class MlflowServer(LoopbackServer):
    """`mlflow server` with one worker; without `database` (an address) and `artifacts`, on files in `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        database: str | None = None,
        artifacts: str | None = None,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        def command(port: int) -> list[str]:
            words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
            words += ["--workers", "1", "--backend-store-uri", database or f"sqlite:///{folder / 'server.db'}"]
            return [*words, "--artifacts-destination", artifacts or str(folder / "artifacts"), *options]

        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        super().__init__("mlflow", folder, command, health="/health", environment=quiet | dict(environment or {}))


def free_port() -> int:
    """A port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""A command with a time limit, whose end is told whatever it is, and which leaves no process behind."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 10.0
"""For a process that was killed to go: one that waits for a driver may take its time."""


@dataclass(frozen=True)
class Ended:
    """how: done, failed, crashed or timed out. why: a line, empty where it is done."""

    how: str
    why: str
    seconds: float


class Fleet:
    """The commands that run; `end` ends all of them, from whatever thread, and lets no further one begin."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._over = False

    def run(
        self, command: Sequence[str], limit_s: float, log: Path, environment: Mapping[str, str] | None = None
    ) -> Ended:
        """Run a command in a process group of its own, for so long at most; what it says goes to `log`."""
        begun = time.monotonic()
        with self._lock, log.open("wb") as said:
            if self._over:
                return Ended("failed", "interrupted", 0.0)
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip
            self._running.add(process)
        try:
            status: int | None = process.wait(max(0.0, limit_s))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            gone = _end_group(process)
            with self._lock:
                self._running.discard(process)
        how, why = how_it_ended(status, limit_s, log.read_text(errors="replace"), gone)
        return Ended(how, why, time.monotonic() - begun)

    def end(self) -> None:
        """End all that runs."""
        with self._lock:
            self._over, running = True, list(self._running)
        for process in running:
            _end_group(process)


def how_it_ended(status: int | None, limit_s: float, said: str, gone: bool) -> tuple[str, str]:
    """How a process ended, and why, from its status and the end of what it said."""
    frames = re.findall(r'File "(.*)", line (\d+) in (\S+)', said[said.rfind("(most recent call first)") :])
    file, line, function = frames[0] if frames else ("", "", "")
    where = f"in {function} ({Path(file).name}, line {line})" if frames else ""
    if status is None:
        left = "" if gone else "; it could not be ended and may still hold the device"
        return "timed out", f"not done after {limit_s:.0f} s{', ' if where else ''}{where}{left}"
    if status == 0:
        return "done", ""
    if status < 0:
        name = signal.strsignal(-status) or f"signal {-status}"
        return "crashed", f"{name}{', ' if where else ''}{where}"
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), f"status {status}")
    return "failed", last[:300]


def _end_group(process: "subprocess.Popen[bytes]") -> bool:
    """End the process and all that it started, such as a compiler's workers; whether it is gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        return False
    return True

"""A clone of this checkout on a tiny setting, the commands that are started in it, and the processes at work in it."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from copied import copy_checkout, environment_of, set_parameters, take_interrupts

STAGE, COMMAND, DVC, WORKER, RAYLET, GCS = "stage", "sar-search", "dvc", "worker", "raylet", "gcs"


@dataclass(frozen=True)
class Process:
    """role: one of the names above. group: its process group; a terminal interrupts the one of its command."""

    pid: int
    group: int
    role: str

    def send(self, number: signal.Signals) -> bool:
        """Whether it was still there."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


class Clone:
    """A copy of this checkout's files as they are now, with other parameters. log: what its commands print."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._begin(folder)
        copy_checkout(folder)
        set_parameters(folder / "params.yaml", settings)

    def copy(self, folder: Path) -> "Clone":
        """Another one, with all that has been made in this one so far."""
        shutil.copytree(self.root, folder, symlinks=True)
        other = Clone.__new__(Clone)
        other._begin(folder)
        return other

    def _begin(self, folder: Path) -> None:
        self.root, self.log = folder, folder.with_name(folder.name + ".log")
        self._sessions: set[int] = set()  # of processes, a command's each

    def start(self, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        """Start a command of this environment in a session of its own, as a terminal would."""
        with self.log.open("ab") as log:
            log.write(f"\n$ {' '.join(command)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=environment_of(self.root),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=take_interrupts,
            )
        self._sessions.add(process.pid)
        return process

    def run(self, command: Sequence[str]) -> int:
        """Its status."""
        return self.start(command).wait()

    def processes(self, *roles: str) -> list[Process]:
        """Who is at work here: all that the clone's commands have started, or those of some roles."""
        found = list(self._all())
        return [process for process in found if not roles or process.role in roles]

    def _all(self) -> Iterator[Process]:
        still: set[int] = set()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                state, _, group, session, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(session) not in self._sessions:
                    continue
                still.add(int(session))
                if state == "Z":
                    continue
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue  # it has ended
            yield Process(int(entry.name), int(group), _role(words))
        # Numbers of processes come round again: an ended session's may soon be somebody else's.
        self._sessions = still

    def end_all(self) -> int:
        """End what is left over, one by one. Says how many there were."""
        left = self.processes()
        for process in left:
            process.send(signal.SIGKILL)
        return len(left)


def _role(words: Sequence[str]) -> str:
    program = Path(words[0]).name
    for name, role in (("pipeline.stages.search", STAGE), ("pipeline.cli", COMMAND), ("dvc", DVC)):
        if name in words or any(word.endswith(f"/bin/{name}") for word in words[:2]):
            return role
    if words[0].startswith("ray::ImplicitFunc"):
        return WORKER
    return {"raylet": RAYLET, "gcs_server": GCS}.get(program, program)


def wait_until(true: Callable[[], bool], seconds: float, *, every: float = 0.02) -> bool:
    """Whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True

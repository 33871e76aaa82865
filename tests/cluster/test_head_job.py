"""The run on a head as a job of Ray's own server: submitted, followed, stopped, and lost with its Ray."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow_server import free_port

from pipeline.cluster.launch.cluster_files import IN_PLACE
from pipeline.cluster.launch.launcher import FOLLOW, JOB, KILLED, LOST, RUNS, STATE, STOPPED, _submit_command, state_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

RUN = """#!{python}
# Stands in for the head's Python: the pipeline is a few lines, everything else is this environment's own Python.
import os, subprocess, sys, time
if sys.argv[1:4] != ["-m", "pipeline.cli", "repro"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
open(os.path.expanduser("~/run.pid"), "w").write(str(os.getpid()))
print("first", sys.argv[4:], os.environ.get("RAY_ADDRESS"))
print()
print("after an empty line", flush=True)
if "fail" in sys.argv:
    sys.exit(3)
if "wait" in sys.argv:
    child = subprocess.Popen([{python!r}, "-c", "import time; time.sleep(600)"])
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        print("interrupted", child.wait(), flush=True)
        sys.exit(130)
print("last")
"""


class Head:
    """A home with a Ray of its own, on loopback, whose job server wants a token."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        programs = home / "sar-search" / ".venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "python").write_text(RUN.format(python=sys.executable))
        (programs / "python").chmod(0o755)
        (programs / "ray").symlink_to(Path(sys.executable).with_name("ray"))
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text(secrets.token_hex(32))
        self.environment = {"HOME": str(home), "PATH": os.environ["PATH"], "RAY_USAGE_STATS_ENABLED": "0"}
        self.ray: subprocess.Popen[bytes] | None = None

    def start_ray(self) -> None:
        command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={free_port()}"]
        command += ["--node-ip-address=127.0.0.1", f"--dashboard-port={self.port}", "--num-cpus=1"]
        command += [f"--temp-dir={self.home}/ray", f"--object-store-memory={100 * 2**20}"]
        with (self.home / "ray.log").open("wb") as log:
            self.ray = subprocess.Popen(
                command,
                env=self.environment
                | {
                    "RAY_AUTH_MODE": "token",
                    "RAY_enable_metrics_collection": "0",
                    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
                },
                cwd=self.home,
                stdout=log,
                stderr=log,
            )
        self.until(lambda: self.do("ray job list")[0] == 0)

    def end_ray(self) -> None:
        if self.ray is not None:
            self.ray.terminate()
            self.ray.wait(60)
            self.ray = None

    def do(self, command: str) -> tuple[int, list[str]]:
        done = subprocess.run(
            ["bash", "-c", IN_PLACE.replace("8265", str(self.port)) + command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode:
            print(command[:60], done.stderr, sep="\n")  # pytest shows it where a test fails
        return done.returncode, done.stdout.splitlines()

    def submit(self, *arguments: str) -> None:
        status, said = self.do(_submit_command(arguments))
        assert status == 0, said

    def state(self) -> str:
        return state_of(" ".join(self.do(STATE)[1][-1:]))

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 240
        while not holds():
            assert time.monotonic() < end, (self.home / "ray.log").read_text()[-3000:]
            time.sleep(0.5)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    home = Path(tempfile.mkdtemp(prefix="sar-head-", dir="/tmp"))  # a short path, for Ray's sockets
    head = Head(home)
    try:
        head.start_ray()
        yield head
    finally:
        head.end_ray()
        shutil.rmtree(home, ignore_errors=True)


def test_run_that_fails_is_followed_to_its_end_and_leaves_its_status(head: Head) -> None:
    head.submit("fail", "it's")
    _, said = head.do(FOLLOW)
    assert re.match(r"first \['fail', \"it's\"\] [0-9.]+:[0-9]+$", said[0])
    assert said[1:3] == ["", "after an empty line"]
    assert "".join(said[3:]) == ""
    assert head.state() == "ended with status 3"


def test_run_goes_on_without_whoever_follows_it_and_is_stopped_as_by_ctrl_c(head: Head) -> None:
    time.sleep(1)  # jobs are called by the second
    head.submit("wait")
    follower = subprocess.Popen(
        ["bash", "-c", IN_PLACE.replace("8265", str(head.port)) + FOLLOW],
        env=head.environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert follower.stdout is not None
    assert follower.stdout.readline().startswith("first")
    os.killpg(follower.pid, signal.SIGKILL)
    follower.communicate()
    assert head.state() == RUNS
    status, _ = head.do(f"ray job stop $(cat {JOB})")
    assert status == 0
    assert head.state() == STOPPED
    _, said = head.do(FOLLOW)
    assert any(line.startswith("interrupted") for line in said), "it was killed, and not interrupted"
    _, whole = head.do(f"ray job logs $(cat {JOB})")
    assert "after an empty line" in whole


def test_run_that_is_killed_is_told_and_one_that_its_ray_has_forgotten(head: Head) -> None:
    time.sleep(1)
    head.submit("wait")
    head.until(lambda: head.state() == RUNS and len(head.do(f"ray job logs $(cat {JOB})")[1]) > 4)
    os.kill(int((head.home / "run.pid").read_text()), signal.SIGKILL)
    head.until(lambda: head.state() != RUNS)
    assert head.state() == KILLED
    head.end_ray()
    assert head.state() == LOST
    assert head.do(_submit_command([]))[0] != 0
    head.start_ray()
    assert head.state() == LOST
    head.submit()
    head.until(lambda: head.state() == "ended with status 0")
    assert "last" in head.do(FOLLOW)[1]

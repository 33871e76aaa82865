"""docker/slurm.sbatch by itself: what it refuses before anything starts, and how it stops. SLURM and Ray are stubs."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

FILE = Path(__file__).parents[2] / "docker" / "slurm.sbatch"

STUBS = {
    # A node after the other, and the first one last where they are to stay.
    "srun": """
        set -m  # as of SLURM, tasks hear interruptions
        while [ "$1" != bash ]; do shift; done
        for number in 1 0; do
          export SLURM_NODEID=$number SLURMD_NODENAME=node$number
          if [ "$3" = @node ]; then "$@" & else "$@"; fi
        done
        wait
    """,
    "uname": 'case ${SLURMD_NODENAME:-} in "${ODD:-none}") echo aarch64 ;; *) echo x86_64 ;; esac',
    "scontrol": 'echo "$@" >> called; [ "$2" != node ] || echo "NodeName=$3 NodeAddr=127.0.0.1 Port=6818"; '
    '[ "$2" != hostnames ] || printf "node0\\nnode1\\n"',
    "sleep": "/bin/sleep 0.1",
    "squeue": 'echo "${STATE:-RUNNING}"',
    # On the head what stands after -- is run; another node waits until its Ray is stopped.
    "ray": """
        if [ "$1" = stop ]; then echo "stopped $SLURMD_NODENAME" >> called; touch stopped; exit; fi
        echo "$@" >> called
        if [ "$SLURM_NODEID" != 0 ]; then until [ -e stopped ]; do sleep 0.1; done; exit; fi
        while [ "$1" != -- ]; do shift; done
        shift
        "$@"
    """,
}

PYTHON = """#!{python}
import os, sys, time
if "pipeline.cli" not in sys.argv:
    if "load_params" in sys.argv[2]:
        print(open("address").read())
        sys.exit()
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
print("runs", sys.argv[4:], os.environ["RAY_ADDRESS"], flush=True)
try:
    time.sleep(60 if "wait" in sys.argv else 0)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""


class Allocation:
    """Two nodes that SLURM gave, which are this machine, and a checkout that they share."""

    def __init__(self, folder: Path) -> None:
        self.root, self.home = folder / "checkout", folder / "home"
        programs, stubs = self.root / ".venv" / "bin", folder / "stubs"
        for path in (programs, stubs, self.root / "docker", self.home / ".ray"):
            path.mkdir(parents=True)
        shutil.copy(FILE, self.root / "docker")
        (self.root / "dvc.yaml").touch()
        (self.root / "address").write_text("auto")
        (self.home / ".ray" / "auth_token").write_text("0" * 64)
        for name, text in STUBS.items():
            (stubs / name).write_text(f"#!/bin/bash\n{text}")
        (programs / "python").write_text(PYTHON.format(python=sys.executable))
        for path in [*stubs.iterdir(), programs / "python"]:
            path.chmod(0o755)
        self.environment = {
            "HOME": str(self.home),
            "PATH": f"{stubs}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "node[0-1]",
            "SLURM_SUBMIT_DIR": str(self.root),
        }

    def start(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["bash", str(FILE), *arguments],
            cwd=self.root,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def refused(self, **variables: str) -> list[str]:
        process = self.start(**variables)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 2, said
        assert "symmetric-run" not in self.called()
        return said.splitlines()

    def called(self) -> str:
        path = self.root / "called"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def allocation(tmp_path: Path) -> Allocation:
    return Allocation(tmp_path)


def test_outside_of_slurm_it_says_how_it_is_submitted(allocation: Allocation) -> None:
    del allocation.environment["SLURM_JOB_ID"]
    assert allocation.refused() == ["error: submit this from the checkout's folder: sbatch docker/slurm.sbatch"]


def test_head_that_does_not_see_the_checkout_is_told(allocation: Allocation) -> None:
    (said,) = allocation.refused(SLURM_SUBMIT_DIR="/nowhere")
    assert said.startswith("error: /nowhere: ")
    assert "sees no checkout there" in said


def test_missing_token_is_told_with_what_makes_one(allocation: Allocation) -> None:
    token = allocation.home / ".ray" / "auth_token"
    token.unlink()
    (said,) = allocation.refused()
    assert said.startswith(f"error: {token}: no token")
    assert "get-auth-token --generate" in said


def test_address_of_another_cluster_is_told(allocation: Allocation) -> None:
    (allocation.root / "address").write_text("10.0.0.1:6379")
    (said,) = allocation.refused()
    assert "search.cluster.address is 10.0.0.1:6379" in said


def test_node_of_another_architecture_is_told_by_its_name(allocation: Allocation) -> None:
    (said,) = allocation.refused(ODD="node1")
    assert said.startswith("error: node1: is of another architecture (aarch64) than the head (x86_64)")


def test_run_ends_with_its_status_and_leaves_nothing_behind(allocation: Allocation) -> None:
    process = allocation.start("--force", "it's")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert said.splitlines()[-1] == "runs ['--force', \"it's\"] 127.0.0.1:6379"
    assert "symmetric-run --address 127.0.0.1:6379 --min-nodes 2 --num-cpus" in allocation.called()
    assert "requeue" not in allocation.called()
    assert list((allocation.root / "state").iterdir()) == []


def test_ray_that_could_not_be_started_is_no_success(allocation: Allocation) -> None:
    """Of such a one `ray symmetric-run` itself says 0."""
    stub = allocation.root.parent / "stubs" / "ray"
    stub.write_text("#!/bin/bash\necho it cannot be started\n")
    process = allocation.start()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith("error: the pipeline was not run")


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_told_to_stop_it_interrupts_the_run_and_is_queued_again_if_it_was_not_cancelled(
    allocation: Allocation, state: str
) -> None:
    process = allocation.start("wait", STATE=state)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("runs ['wait']")
        time.sleep(0.3)  # it is listening for the interruption
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    finally:
        for left in [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []:
            left.kill()
    assert process.returncode == 130, said
    assert "interrupted" in said.splitlines()
    assert ("requeue 7" in allocation.called()) == (state == "RUNNING")


def test_token_is_made_by_the_command_that_is_named(tmp_path: Path) -> None:
    ray, home = Path(sys.executable).with_name("ray"), {**os.environ, "HOME": str(tmp_path)}
    subprocess.run([ray, "get-auth-token", "--generate"], env=home, check=True, capture_output=True, timeout=120)
    assert (tmp_path / ".ray" / "auth_token").stat().st_size >= 32

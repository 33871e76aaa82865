"""docker/slurm.sbatch on SLURM's own daemons: refused where it must be; preempted in its middle, it goes on."""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.checkout import TINY, Checkout
from support.hosts import Hosts, what_lacks
from support.journal_events import check_none_is_set_back
from support.slurm import Slurm, what_slurm_lacks

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

SETTINGS: dict[str, Any] = TINY | {
    "train.epochs": 16,
    "search.trials": 2,
    "search.cpus_per_trial": 2,
    "search.scheduler.name": "none",
    "search.confirm.seeds": 0,
    "search.cluster.address": "auto",
}
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
RAYS = "[r]aylet/raylet|[g]cs_server|[r]ay::"


class Bed:
    """Two hosts with SLURM, and a checkout that both see."""

    def __init__(self, folder: Path) -> None:
        self.hosts = Hosts(folder, 2)
        self.checkout = Checkout(folder / "checkout", SETTINGS)
        self.slurm = Slurm(self.hosts, folder, self.checkout.root)
        self.token = "/tmp/home/.ray/auth_token"

    def up(self) -> None:
        self.hosts.up()
        environment = self.checkout.root / ".venv"
        environment.mkdir()
        for name in ("bin", "lib"):
            (environment / name).symlink_to(Path(sys.prefix) / name)
        shutil.copy(Path(sys.prefix) / "pyvenv.cfg", environment)
        for number in self.hosts.numbers:
            made = self.hosts.run(number, f"mkdir -p ~/.ray && umask 77 && printf {'5' * 64} > {self.token}")
            assert made.returncode == 0, made.stderr
        self.slurm.up()

    def log(self, job: str) -> str:
        path = self.checkout.root / f"sar-search-{job}.log"
        return path.read_text() if path.exists() else ""

    def refused(self) -> list[str]:
        """What a job says that is refused."""
        job = self.slurm.submit("docker/slurm.sbatch search")
        state = self.slurm.until(job, OVER, 120)
        said = self.log(job)
        assert (state, self.slurm.job(job, "ExitCode")) == ("FAILED", "2:0"), said
        assert self.slurm.job(job, "Restarts") == "0"
        assert "Starting Ray" not in said
        return [line for line in said.splitlines() if line.startswith("error: ")]

    def events(self) -> list[dict[str, Any]]:
        found = list((self.checkout.root / "state" / "searches").glob("*/journal.jsonl"))
        lines = found[0].read_text().splitlines() if found else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def rays(self) -> str:
        return "".join(self.hosts.run(number, f"pgrep -a -f '{RAYS}'").stdout for number in self.hosts.numbers)


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    if lacks := what_lacks() or what_slurm_lacks():
        pytest.skip(lacks)
    # Not below /tmp, of which every host has its own.
    folder = Path(tempfile.mkdtemp(prefix="sar-slurm-", dir="/var/tmp"))
    bed = Bed(folder)
    try:
        bed.up()
        yield bed
    finally:
        bed.hosts.down()
        bed.slurm.down()
        shutil.rmtree(folder, ignore_errors=True)


def test_node_that_does_not_see_the_checkout_is_refused(bed: Bed) -> None:
    root = bed.checkout.root
    bed.hosts.run(2, f"mount -t tmpfs tmpfs {root}")
    try:
        (said,) = bed.refused()
    finally:
        bed.hosts.run(2, f"umount {root}")
    assert said.startswith(f"error: sar2: does not see the head's {root}")


def test_node_of_another_architecture_is_refused(bed: Bed) -> None:
    fake = bed.slurm.folder / "uname"
    fake.write_text("#!/bin/sh\necho aarch64\n")
    fake.chmod(0o755)
    place = shutil.which("uname")
    bed.hosts.run(2, f"mount --bind {fake} {place}")
    try:
        (said,) = bed.refused()
    finally:
        bed.hosts.run(2, f"umount {place}")
    assert said.startswith("error: sar2: is of another architecture (aarch64) than the head (")


def test_missing_token_is_refused_on_the_head_and_on_another_node(bed: Bed) -> None:
    for number, words in ((1, f"error: {bed.token}: no token"), (2, f"error: sar2: has no {bed.token}")):
        bed.hosts.run(number, f"mv {bed.token} {bed.token}.away")
        try:
            (said,) = bed.refused()
        finally:
            bed.hosts.run(number, f"mv {bed.token}.away {bed.token}")
        assert said.startswith(words)


def test_preempted_search_ends_as_by_ctrl_c_and_goes_on_when_it_is_queued_again(bed: Bed) -> None:
    job = bed.slurm.submit("docker/slurm.sbatch search")
    end = time.monotonic() + 900
    while not any(event["event"] == "checkpoint" for event in bed.events()):
        assert time.monotonic() < end, bed.log(job)[-4000:]
        assert bed.slurm.job(job, "JobState") not in OVER, bed.log(job)[-4000:]
        time.sleep(1)
    other = bed.slurm.submit("--partition=high --nodes=2 --exclusive --output=/dev/null --wrap='sleep 8'")
    bed.slurm.until(other, ("RUNNING", "COMPLETED"), 130)
    assert bed.rays() == "", "the nodes were given to another job with a Ray on them"
    first = bed.log(job)
    assert "interrupted; what had finished is kept" in first
    assert "the job is queued again" in first
    before = bed.events()
    assert [event["event"] for event in before].count("ended") < 4, "the search was over before it was preempted"
    assert bed.slurm.until(job, OVER, 1500) == "COMPLETED", bed.log(job)[-4000:]
    assert bed.slurm.job(job, "Restarts") == "1"
    events = bed.events()
    assert [event["event"] for event in events].count("session") == 2
    assert events[: len(before)] == before
    ended = {event["trial"]: event["state"] for event in events if event["event"] == "ended"}
    assert ended == dict.fromkeys(["baseline", "paper", "t0000", "t0001"], "complete")
    check_none_is_set_back(events)
    nodes = {event["node"].split()[0] for event in events if "node" in event}
    assert nodes == {bed.hosts.address(number) for number in bed.hosts.numbers}
    summary = json.loads((bed.checkout.root / "results" / "search" / "summary.json").read_text())
    assert summary["trials"]["complete"] == 2
    assert bed.rays() == ""
    assert not list((bed.checkout.root / "state").glob("slurm-*"))


def test_cancelled_job_stops_and_does_not_come_back(bed: Bed) -> None:
    bed.checkout.set({"search.trials": 3, "train.epochs": 20})
    known = len(list((bed.checkout.root / "state" / "searches").glob("*/journal.jsonl")))
    job = bed.slurm.submit("docker/slurm.sbatch search")
    end = time.monotonic() + 300
    while len(list((bed.checkout.root / "state" / "searches").glob("*/journal.jsonl"))) == known:
        assert time.monotonic() < end, bed.log(job)[-4000:]
        time.sleep(1)
    bed.slurm.do(f"scancel {job}")
    assert bed.slurm.until(job, OVER, 60) == "CANCELLED"
    end = time.monotonic() + 60
    while bed.rays():
        assert time.monotonic() < end, bed.rays()
        time.sleep(1)
    assert "queued again" not in bed.log(job)
    assert bed.slurm.job(job, "JobState") == "CANCELLED"

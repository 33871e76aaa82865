"""The whole way on three hosts with a real sshd: `cluster up`, a search with hosts lost in its middle, `cluster down`.

The cluster's file is docker/ray-onprem.yaml with nothing but addresses, user and key filled in.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.checkout import TINY, Checkout
from support.hosts import Hosts, what_lacks
from support.journal_events import check_none_is_set_back
from support.services import BUCKET, S3_KEYS, s3_store

from pipeline.cluster.launch.launcher import HANDED
from pipeline.config.yaml import read_yaml

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

SETTINGS: dict[str, Any] = TINY | {
    "train.epochs": 24,
    "search.trials": 4,
    "search.cpus_per_trial": 2,
    "search.scheduler.name": "none",
    "search.confirm.seeds": 0,
    "search.max_failures": 3,
}
OWN_PROCESSES = ("gcs_server", "raylet", "ray::", "python")
FENCED = {6379, 10001, *range(20000, 21100)}
"""What docker/fence.sh closes on other addresses than the cluster's."""
NFT = shutil.which("nft", path=f"{os.environ['PATH']}:/usr/sbin") is not None


MADE = "import os, sys; print(os.getcwd(), *sys.version_info[:2])"
"""What the Makefile keeps of an environment: for which folder and which Python it is."""


class Bed:
    """Three hosts, and a checkout beside them from which the cluster is started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts = Hosts(folder, 3)
        self.checkout = Checkout(folder / "checkout", SETTINGS)
        self.home = folder / "home"
        self.home.mkdir()
        self.variables = {"HOME": str(self.home)}

    def up(self) -> None:
        self.hosts.up()
        self.elsewhere = self.hosts.on_another_network(2)
        file = self.checkout.root / "docker" / "ray-onprem.yaml"
        text = file.read_text()
        for blank, filled in {
            "<address of the machine that drives>": self.hosts.address(1),
            "<address>, <address>": f"{self.hosts.address(2)}, {self.hosts.address(3)}",
            "<user>": "root",
            "<path of the key, such as ~/.ssh/id_ed25519>": str(self.hosts.key),
        }.items():
            assert text.count(blank) == 1
            text = text.replace(blank, filled)
        file.write_text(text)
        for number in self.hosts.numbers:
            # The environment is there, as on machines that have been used before: making it takes minutes each.
            made = self.hosts.run(
                number,
                f"mkdir -p ~/sar-search/.venv && cd ~/sar-search/.venv && ln -s {sys.prefix}/bin {sys.prefix}/lib . && "
                f"cp {sys.prefix}/pyvenv.cfg . && cd .. && .venv/bin/python -Ic '{MADE}' > .venv/.ready && "
                "touch -d tomorrow .venv/.ready",
            )
            assert made.returncode == 0, made.stderr

    def cluster(self, *arguments: str) -> "subprocess.Popen[str]":
        return self.checkout.start(
            sys.executable, "-u", "-m", "pipeline.cli", "cluster", *arguments, env=self.variables
        )

    def begin_search(self, *, epochs: int) -> "subprocess.Popen[str]":
        """Start a search of one trial, with checkpoints in the bucket."""
        self.checkout.set({"search.cluster.storage": f"s3://{BUCKET}/sar", "search.cluster.ship_limit_mb": 2000})
        self.checkout.set({"search.trials": 1, "train.epochs": epochs})
        return self.cluster("repro", "onprem", "search")

    def await_checkpoint(self, run: "subprocess.Popen[str]") -> None:
        """Wait until the search has one, and not one before it, or its command has ended."""
        began = time.time()

        def has_one() -> bool:
            return any(event["event"] == "checkpoint" and event["time"] > began for event in self.events())

        self.until(lambda: has_one() or run.poll() is not None, "a checkpoint")

    def done(self, *arguments: str) -> str:
        process = self.cluster(*arguments)
        said, _ = process.communicate(timeout=1200)
        assert process.returncode == 0, said[-4000:]
        return said

    def events(self) -> list[dict[str, Any]]:
        """The newest search's journal as it is on the head."""
        newest = "$(ls -td ~/sar-search/state/searches/*/ | head -n 1)"
        said = self.hosts.run(1, f"cat {newest}journal.jsonl 2>/dev/null").stdout
        return [json.loads(line) for line in said.splitlines() if line.endswith("}")]

    def nodes(self, since: float = 0.0) -> set[str]:
        return {event["node"].split()[0] for event in self.events() if "node" in event and event["time"] > since}

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 900) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"{what} did not come to be"
            time.sleep(2)


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    if lacks := what_lacks():
        pytest.skip(lacks)
    # Not below /tmp, of which every host has its own.
    folder = Path(tempfile.mkdtemp(prefix="sar-hosts-", dir="/var/tmp"))
    bed = Bed(folder)
    try:
        bed.up()
        with s3_store(folder, BUCKET, host=bed.hosts.outside) as store:
            # The hosts have nothing of it: what leads to the bucket is handed to them.
            bed.variables |= S3_KEYS | {"AWS_ENDPOINT_URL": store}
            yield bed
    finally:
        bed.hosts.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def started(bed: Bed) -> str:
    return bed.done("up", "onprem")


def test_unreachable_host_is_told_before_anything_starts(bed: Bed) -> None:
    file = bed.checkout.root / "docker" / "ray-onprem.yaml"
    (bed.checkout.root / "far.yaml").write_text(file.read_text().replace("10.78.0.3", "10.78.0.77"))
    process = bed.cluster("up", "far.yaml")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "10.78.0.77: " in said
    assert "10.78.0.2: " not in said
    assert bed.hosts.run(1, "pgrep -f '[g]cs_server'").returncode == 1


def test_up_starts_ray_on_every_host(bed: Bed, started: str) -> None:
    for number in bed.hosts.numbers:
        assert f"({bed.hosts.address(number)}, " in started
    assert "3" not in bed.hosts.run(1, "stat -c %a ~/.ray/auth_token").stdout.replace("600", "")
    notes = [line for line in started.splitlines() if line.startswith("note: ")]
    if NFT:
        assert notes == []
    else:
        assert len(notes) == 1, "one host alone is on another network"
        assert f"{bed.hosts.address(2)}: Ray also listens on {bed.elsewhere}, outside of" in notes[0]


@pytest.mark.skipif(not NFT, reason="needs nft")
def test_rays_ports_are_closed_on_other_networks(bed: Bed, started: str) -> None:
    """The raylet of a host that is on two: from the head by the cluster's address, and by the other one."""
    bed.hosts.run(1, f"ip route replace {bed.elsewhere} via {bed.hosts.address(2)}")

    def answers(address: str, port: int) -> bool:
        return bed.hosts.run(1, f"timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/{port}'").returncode == 0

    assert answers(bed.hosts.address(2), 20000)
    assert not answers(bed.elsewhere, 20000)
    bed.hosts.run(2, "cd ~/sar-search && docker/fence.sh down")
    assert answers(bed.elsewhere, 20000), "it was not the fence that closed it"
    bed.hosts.run(2, f"cd ~/sar-search && docker/fence.sh {bed.hosts.address(2)}")
    assert not answers(bed.elsewhere, 20000)


WRONG = {"none": "RAY_AUTH_MODE=disabled", "wrong": f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN={'0' * 64}"}


@pytest.mark.parametrize("token", WRONG)
def test_without_the_token_joining_and_submitting_fail(bed: Bed, started: str, token: str) -> None:
    head = bed.hosts.address(1)
    place = f"cd ~/sar-search && {WRONG[token]}"
    joining = bed.hosts.run(2, f"{place} .venv/bin/ray start --address={head}:6379 --num-cpus=1")
    assert joining.returncode != 0
    assert "InvalidAuthToken" in joining.stdout + joining.stderr
    submitting = bed.hosts.run(
        1, f"{place} .venv/bin/ray job submit --address http://127.0.0.1:8265 -- touch /tmp/mine"
    )
    assert submitting.returncode != 0
    driving = bed.hosts.run(1, f"{place} .venv/bin/python -c 'import ray; ray.init(\"{head}:6379\")'")
    assert driving.returncode != 0
    assert bed.hosts.run(1, "ls /tmp/mine").returncode != 0


def test_pages_are_on_loopback_and_what_listens_elsewhere_is_rays_own(bed: Bed, started: str) -> None:
    for number in bed.hosts.numbers:
        lines = bed.hosts.run(number, "ss -H -tlnp").stdout.splitlines()
        assert lines
        for line in lines:
            local, process = line.split()[3], line.split()[-1]
            address, _, port = local.rpartition(":")
            if port == "8265":
                assert address == "127.0.0.1"
            if address.strip("[]").removeprefix("::ffff:") not in ("127.0.0.1", "::1", bed.hosts.address(number)):
                # Ray cannot be told to leave other interfaces alone; what it opens there is behind the fence.
                assert any(f'"{own}' in process for own in OWN_PROCESSES[:3]), line
                assert int(port) in FENCED, line


def test_what_is_wrong_with_hosts_is_told_for_each_before_any_trial(bed: Bed, started: str) -> None:
    """Storage and data that are the head's alone, and a host whose disk is full."""
    bed.checkout.set({"search.cluster.storage": f"s3://{BUCKET}/sar"})
    bed.done("repro", "onprem", "split")
    bed.checkout.set({"search.cluster.storage": None, "search.cluster.ship_limit_mb": 0})
    held = int(bed.hosts.run(3, "df --output=used -k /tmp | tail -n 1").stdout)
    bed.hosts.run(3, f"mount -o remount,size={held + 100_000}k /tmp")
    run = bed.cluster("repro", "onprem", "search")
    said, _ = run.communicate(timeout=600)
    bed.hosts.run(3, "mount -o remount,size=50% /tmp")
    assert run.returncode == 2, said[-4000:]
    for number in (2, 3):
        lines = [line for line in said.splitlines() if f"({bed.hosts.address(number)}, " in line]
        assert any("checkpoints must go where every node sees them" in line for line in lines), said[-4000:]
        assert any("it does not have the data" in line for line in lines), said[-4000:]
        assert any("MB free" in line and "MB needed" in line for line in lines) == (number == 3), said[-4000:]
    assert not any(event["event"] == "started" for event in bed.events())


def test_run_outlives_its_connection_keeps_ray_from_being_started_anew_and_is_stopped(bed: Bed, started: str) -> None:
    run = bed.begin_search(epochs=40)
    try:
        bed.await_checkpoint(run)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
    # As when the user's machine was switched off and on: Ray's launcher no longer knows of the cluster.
    Path("/tmp/ray/cluster-sar-search.state").unlink()
    again = bed.cluster("up", "onprem")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 2
    assert "a run is on this cluster" in said
    assert "run: runs" in bed.done("status", "onprem")
    assert "checking the parameters" in bed.done("logs", "onprem")
    watching = bed.cluster("repro", "onprem", "search")
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("a run is there already")
    bed.done("stop", "onprem")
    said, _ = watching.communicate(timeout=300)
    assert watching.returncode == 2, said[-4000:]
    assert "interrupted; what had finished is kept" in said, "it was killed"
    assert "the run on the head was stopped" in said
    assert "run: was stopped" in bed.done("status", "onprem")
    assert bed.hosts.run(1, "pgrep -f '[p]ipeline.cli repro'").returncode == 1
    assert [event["event"] for event in bed.events()].count("ended") < 3, "the search was over before it was stopped"


def test_run_goes_on_when_the_head_was_lost(bed: Bed, started: str) -> None:
    """Everything that runs on the head dies at once, as when it is switched off and on; its disk stays."""
    run = bed.begin_search(epochs=10)
    try:
        bed.await_checkpoint(run)
        bed.hosts.run(1, "pkill -KILL -f '[g]cs_server|[r]aylet|[r]ay::|[p]ipeline|[r]ay/dashboard'")
        said, _ = run.communicate(timeout=300)
    finally:
        if run.poll() is None:
            run.kill()
    assert run.returncode == 2, said[-4000:]
    assert "the run on the head was killed" in said
    before = [event["event"] for event in bed.events()]
    assert before.count("ended") < 3, "the search was over before the head was lost"
    bed.done("up", "onprem")
    bed.done("repro", "onprem", "search")
    events = bed.events()
    assert len(events) > len(before)
    assert [event["event"] for event in events].count("session") == 2
    ended = {event["trial"]: event["state"] for event in events if event["event"] == "ended"}
    assert ended == dict.fromkeys(["baseline", "paper", "t0000"], "complete")
    check_none_is_set_back(events)
    bed.checkout.set({name: SETTINGS[name] for name in ("search.trials", "train.epochs")})


def test_search_goes_on_though_a_host_dies_and_another_is_cut_off_and_healed(bed: Bed, started: str) -> None:
    bed.checkout.set({"search.cluster.storage": f"s3://{BUCKET}/sar", "search.cluster.ship_limit_mb": 2000})
    before = time.time()  # another search has been on these hosts
    run = bed.cluster("repro", "onprem", "search")
    try:
        bed.until(lambda: len(bed.nodes(since=before)) == 3 or run.poll() is not None, "trials on all three hosts")
        bed.until(lambda: any(e["event"] == "checkpoint" and e["time"] > before for e in bed.events()), "a checkpoint")
        bed.hosts.kill(3)
        bed.hosts.cut(2)
        began = time.time()
        time.sleep(60)
        bed.hosts.heal(2)
        said, _ = run.communicate(timeout=1800)
    finally:
        if run.poll() is None:
            run.kill()
    assert run.returncode == 0, said[-4000:]
    events = bed.events()
    assert all(e["path"].startswith(f"s3://{BUCKET}/sar/") for e in events if e["event"] == "checkpoint")
    secrets = bed.hosts.run(1, f"ls {HANDED}; grep -rl AWS_ACCESS_KEY_ID ~/sar-search/state ~/sar-search/results")
    assert secrets.stdout == ""
    ended = {event["trial"]: event["state"] for event in events if event["event"] == "ended"}
    assert sorted(ended) == ["baseline", "paper", *(f"t{number:04d}" for number in range(4))]
    assert set(ended.values()) == {"complete"}
    assert bed.nodes() == {bed.hosts.address(number) for number in bed.hosts.numbers}
    assert bed.hosts.address(3) not in bed.nodes(since=began + 60)
    check_none_is_set_back(events)
    summary = json.loads((bed.checkout.root / "results" / "search" / "summary.json").read_text())
    assert summary["trials"]["complete"] == 4
    assert "search" in read_yaml(bed.checkout.root / "dvc.lock")["stages"]


def test_down_leaves_nothing_running(bed: Bed, started: str) -> None:
    process = bed.cluster("down", "onprem")
    said, _ = process.communicate(timeout=600)
    # The host that died is told; the others are empty.
    assert process.returncode == 2, said[-3000:]
    assert "10.78.0.3: " in said
    for number in (1, 2):
        assert "sar_search" not in bed.hosts.run(number, "PATH=$PATH:/usr/sbin nft list tables").stdout
        left = bed.hosts.run(number, "pgrep -a -f '[r]aylet|[g]cs_server|[r]ay::|[p]ipeline'")
        assert left.stdout == "", left.stdout

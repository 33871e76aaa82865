"""docker/compose.yaml, whole: the three commands of docs/cluster/services.md, a search on head and workers, every service killed.

A service is killed by its first process, from outside, as when memory runs out: `docker kill` would count as the user's
own stop, after which no restart policy starts it again.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow_server import free_port
from support.browser import Browser, chromium
from support.checkout import TINY, Checkout
from support.engine import POSTGRES, S3, engine, image_of, inspect, program_there, project_image, until, what_lacks

from pipeline.compute.limits import usable_cpus

pytestmark = [pytest.mark.services, pytest.mark.containers, pytest.mark.timeout(5400)]

PROJECT = "sar-search-test"
OWNER = 4321
EPOCHS, TRIALS = 12, 6
SETTINGS: dict[str, Any] = TINY | {
    "train.epochs": EPOCHS,
    "search.trials": TRIALS,
    "search.cpus_per_trial": max(1, usable_cpus()),  # one on each node
    "search.scheduler.name": "none",
    "search.confirm.seeds": 0,
    "search.max_failures": 5,
}
NETWORK = "10.76.0"
INSIDE = {"postgres": 5432, "s3": 7070, "head": 6379}
"""Ports that services have inside, and that no one may reach from elsewhere."""


def _composer() -> str | None:
    """Docker Compose, or podman-compose, by the variable COMPOSE or on PATH; None where there is neither."""
    if found := os.environ.get("COMPOSE"):
        return found
    if program_there() == "docker":
        return (
            "docker compose"
            if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
            else None
        )
    return shutil.which("podman-compose")


class Services:
    """The services of a checkout that belongs to a user without a name."""

    def __init__(self, folder: Path, compose: str) -> None:
        self.checkout = Checkout(folder / "checkout", SETTINGS)
        self.mlflow, self.dashboard = free_port(), free_port()
        self.variables = {
            "COMPOSE": compose,
            "COMPOSE_PROJECT_NAME": PROJECT,
            "IMAGE": project_image(),
            "POSTGRES_IMAGE": image_of("POSTGRES_IMAGE", POSTGRES),
            "S3_IMAGE": image_of("S3_IMAGE", S3),
            "MLFLOW_PORT": str(self.mlflow),
            "DASHBOARD_PORT": str(self.dashboard),
        }
        print({name: value for name, value in self.variables.items() if name.endswith("IMAGE")})
        folder.chmod(0o755)
        subprocess.run(["chown", "-R", f"{OWNER}:{OWNER}", str(self.checkout.root)], check=True)

    def start(self, *command: str) -> "subprocess.Popen[str]":
        secrets = {"POSTGRES_PASSWORD", "S3_USER", "S3_PASSWORD", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_URI"}
        kept = {name: value for name, value in os.environ.items() if name not in secrets}
        return subprocess.Popen(
            command, cwd=self.checkout.root, env=kept | self.variables, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *command: str, seconds: float = 1800, status: int = 0) -> str:
        process = self.start(*command)
        said, _ = process.communicate(timeout=seconds)
        assert process.returncode == status, said[-6000:]
        return said

    def containers(self, service: str) -> list[str]:
        labels = [f"label=com.docker.compose.project={PROJECT}", f"label=com.docker.compose.service={service}"]
        flags = [part for label in labels for part in ("--filter", label)]
        return engine("ps", "-a", "--format", "{{.Names}}", *flags).stdout.split()

    def kill(self, name: str) -> None:
        """The first process of a container is gone, and the restart policy brings it back."""
        first = inspect(name)["State"]["Pid"]
        os.kill(first, signal.SIGKILL)

        def back() -> bool:
            state = inspect(name)["State"]
            return bool(state["Running"]) and state["Pid"] not in (0, first)

        until(back, f"{name}, started again by its restart policy", 90)

    def events(self) -> list[dict[str, Any]]:
        """The journal of the newest search."""
        journals = sorted(
            (self.checkout.root / "state/searches").glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime
        )
        lines = journals[-1].read_text().splitlines() if journals else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def epochs(self) -> int:
        return sum(event["event"] == "epoch" for event in self.events())

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"http://127.0.0.1:{self.mlflow}")


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    if lacks := what_lacks():
        pytest.skip(lacks)
    if (compose := _composer()) is None:
        pytest.skip("needs Docker Compose, or podman-compose with podman")
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a checkout to another user and to kill what is in containers")
    folder = Path(tempfile.mkdtemp(prefix="sar-compose-", dir="/var/tmp"))
    made = Services(folder, compose)
    try:
        yield made
    finally:
        made.start("docker/services.sh", "down", "--volumes").communicate(timeout=300)
        for name in [n for service in ("postgres", "s3", "mlflow", "head", "worker") for n in made.containers(service)]:
            engine("rm", "-f", "-v", name, check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def up(services: Services) -> str:
    assert not (services.checkout.root / "docker/.env").exists()
    return services.run("make", "--no-print-directory", "services-up")


def test_up_makes_secrets_and_waits_for_every_node(services: Services, up: str) -> None:
    assert "made docker/.env, with passwords of its own" in up
    assert len(re.findall(r"^\S+.*: \d+ CPUs, 0 GPUs$", up, re.M)) == 3, up[-3000:]
    env = (services.checkout.root / "docker/.env").read_text()
    assert f"RUN_AS={OWNER}:{OWNER}\n" in env
    for service in ("mlflow", "head", "worker"):
        for name in services.containers(service):
            said = engine("exec", name, "sh", "-c", "id -u; touch /opt/file 2>&1; touch /tmp/file && echo fine").stdout
            assert said.splitlines()[0] == str(OWNER)
            assert "Read-only file system" in said
            assert said.endswith("fine\n")


def test_secrets_are_in_no_command_and_in_no_file_of_the_checkout(services: Services, up: str) -> None:
    env = services.checkout.root / "docker/.env"
    for line in env.read_text().splitlines():
        name, _, value = line.partition("=")
        if name != "RUN_AS":
            found = subprocess.run(["grep", "-rlF", value, str(services.checkout.root)], capture_output=True, text=True)
            assert found.stdout.split() == [str(env)], name
            commands = subprocess.run(["ps", "-eo", "args", "--no-headers"], capture_output=True, text=True).stdout
            assert value not in commands.replace("grep", ""), name


def test_only_loopback_answers_and_nothing_from_another_network(services: Services, up: str) -> None:
    """From a host beside this one, which is a network namespace: at this machine's address on the wire between them."""

    def answers(address: str, port: int, where: tuple[str, ...] = ()) -> bool:
        command = [*where, "timeout", "3", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}"]
        return subprocess.run(command, capture_output=True).returncode == 0

    ports = [services.mlflow, services.dashboard, *INSIDE.values(), 5000, 8265]
    beside = ("ip", "netns", "exec", "sarbeside")
    wire = [
        "ip netns add sarbeside", "ip link add sarb type veth peer name eth0 netns sarbeside",
        f"ip address add {NETWORK}.254/24 dev sarb", "ip link set sarb up",
        f"ip -n sarbeside address add {NETWORK}.1/24 dev eth0", "ip -n sarbeside link set eth0 up",
    ]  # fmt: skip
    if shutil.which("ip") is None:
        pytest.skip("needs ip (Debian: iproute2)")
    try:
        for command in wire:
            subprocess.run(command.split(), check=True, capture_output=True)
        with socket.socket() as open_one:  # what is open to all is reached, so the wire is one
            open_one.bind((f"{NETWORK}.254", 0))
            open_one.listen()
            until(lambda: answers(f"{NETWORK}.254", open_one.getsockname()[1], beside), "the wire", 10)
        assert [port for port in ports if answers(f"{NETWORK}.254", port, beside)] == []
    finally:
        subprocess.run(["ip", "netns", "del", "sarbeside"], capture_output=True)
        subprocess.run(["ip", "link", "del", "sarb"], capture_output=True)
    assert answers("127.0.0.1", services.mlflow)
    assert answers("127.0.0.1", services.dashboard)
    for name in (
        name for service in ("postgres", "s3", "mlflow", "head", "worker") for name in services.containers(service)
    ):
        published = inspect(name)["NetworkSettings"]["Ports"] or {}
        assert {each["HostIp"] for bindings in published.values() for each in bindings or []} <= {"127.0.0.1"}, name


@pytest.fixture(scope="module")
def searched(services: Services, up: str) -> dict[str, Any]:
    """A search in whose middle every service is killed once, the head last, after which it is typed again."""
    workers = services.containers("worker")
    order = [*services.containers("postgres"), *services.containers("s3"), *services.containers("mlflow"), workers[0]]
    run = services.start("docker/services.sh", "repro", "search")
    killed: list[tuple[str, int]] = []
    try:
        until(lambda: len(_nodes(services)) == 3 or run.poll() is not None, "trials on all nodes", 1200)
        assert run.poll() is None, run.communicate()[0][-4000:]
        for name in order:
            seen = services.epochs()
            services.kill(name)
            killed.append((name, seen))
            until(
                lambda seen=seen: services.epochs() >= seen + 2 or run.poll() is not None, f"epochs after {name}", 600
            )
            assert run.poll() is None, (name, run.communicate()[0][-4000:])
        (head,) = services.containers("head")
        killed.append((head, services.epochs()))
        assert not any(event["event"] == "done" for event in services.events())
        services.kill(head)
        run.communicate(timeout=300)
    finally:
        if run.poll() is None:
            run.kill()
    assert run.returncode != 0
    open_trials = Counter(event["event"] for event in services.events())
    assert open_trials["ended"] < open_trials["started"], "the search was over before the head was killed"
    # The workers lose the head, end, and are started again by their policy too.
    services.run("docker/services.sh", "up")
    said = services.run("docker/services.sh", "repro", "search")
    print("killed, and epochs by then:", killed)
    return {"said": said, "killed": killed}


def _nodes(services: Services) -> set[str]:
    return {event["node"].split()[0] for event in services.events() if "node" in event}


def test_every_trial_is_accounted_for_on_every_node(services: Services, searched: dict[str, Any]) -> None:
    events = services.events()
    ended = {event["trial"]: event["state"] for event in events if event["event"] == "ended"}
    assert sorted(ended) == ["baseline", "paper", *(f"t{number:04d}" for number in range(TRIALS))]
    assert set(ended.values()) == {"complete"}
    hosts = {inspect(name)["Config"]["Hostname"]: name for name in services.containers("worker")}
    assert len(_nodes(services)) >= 3, (_nodes(services), hosts)
    assert Counter(event["event"] for event in events)["session"] == 2
    summary = json.loads((services.checkout.root / "results/search/summary.json").read_text())
    assert summary["trials"]["complete"] == TRIALS


def test_no_run_is_doubled_and_no_metric_is_lost(services: Services, searched: dict[str, Any]) -> None:
    (experiment,) = [e for e in services.client.search_experiments() if e.name == "sar-search/digits"]
    runs = services.client.search_runs([experiment.experiment_id], max_results=1000)
    (search,) = [run for run in runs if run.data.tags.get("sar.kind") == "search"]
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == search.info.run_id]
    names = Counter(run.data.tags.get("sar.trial", run.info.run_name) for run in trials)
    assert set(names.values()) == {1}, names
    assert len(trials) == TRIALS + 2
    assert {run.info.status for run in [search, *trials]} == {"FINISHED"}
    epochs = {(e["trial"], e["epoch"]): e["metrics"] for e in services.events() if e["event"] == "epoch"}
    assert len(epochs) == (TRIALS + 2) * EPOCHS
    for run in trials:
        by_epoch = [name for name in run.data.metrics if name.endswith("val/accuracy") and not name.startswith("best")]
        assert by_epoch, sorted(run.data.metrics)
        for name in by_epoch:
            history = services.client.get_metric_history(run.info.run_id, name)
            assert sorted(point.step for point in history) == list(range(1, EPOCHS + 1)), (run.info.run_name, name)


def test_artifacts_are_in_the_store(services: Services, searched: dict[str, Any]) -> None:
    script = (
        "import boto3, os; s = boto3.client('s3', endpoint_url=os.environ['MLFLOW_S3_ENDPOINT_URL']); "
        "print(*[o['Key'] for p in s.get_paginator('list_objects_v2').paginate(Bucket='mlflow') for o in p['Contents']], sep='\\n')"
    )
    (mlflow,) = services.containers("mlflow")
    keys = engine("exec", mlflow, "python", "-c", script).stdout.split()
    assert any(key.endswith("settings.png") for key in keys), keys
    (search,) = [
        run for e in services.client.search_experiments() if e.name == "sar-search/digits"
        for run in services.client.search_runs([e.experiment_id], "tags.`sar.kind` = 'search'")
    ]  # fmt: skip
    listed = {each.path for each in services.client.list_artifacts(search.info.run_id)}
    assert any(search.info.run_id in key for key in keys)
    assert listed


@pytest.mark.skipif(chromium() is None, reason="needs headless Chromium (Debian: chromium)")
def test_the_page_of_the_search_is_seen(services: Services, searched: dict[str, Any], tmp_path: Path) -> None:
    (experiment,) = [e for e in services.client.search_experiments() if e.name == "sar-search/digits"]
    (search,) = services.client.search_runs([experiment.experiment_id], "tags.`sar.kind` = 'search'")
    program = chromium()
    assert program
    with Browser(program, tmp_path, size=(1280, 860)) as page:
        page.open(
            f"http://127.0.0.1:{services.mlflow}/#/experiments/{experiment.experiment_id}/runs/{search.info.run_id}?workflowType=machine_learning"
        )
        page.wait_for(str(search.info.run_name), "best/val/accuracy", "Child runs")
        if folder := os.environ.get("SAR_SCREENSHOTS"):
            time.sleep(1.5)
            page.screenshot(Path(folder) / "compose-search.png")


def test_the_rest_of_the_pipeline_and_the_registry(services: Services, searched: dict[str, Any]) -> None:
    said = services.run("make", "--no-print-directory", "services-repro")
    assert "registry   models:/" in said, said[-3000:]
    assert len(services.client.search_model_versions()) == 1
    assert (services.checkout.root / "results/report/index.html").stat().st_uid == OWNER


def test_another_password_than_the_volumes_is_told_in_a_sentence(services: Services, searched: dict[str, Any]) -> None:
    env = services.checkout.root / "docker/.env"
    before = env.read_text()
    env.write_text(re.sub("POSTGRES_PASSWORD=.*", "POSTGRES_PASSWORD=another", before))
    services.run("docker/services.sh", "down")
    said = services.run("docker/services.sh", "up", status=2)
    assert said.rstrip().splitlines()[-1].startswith("error: mlflow: PostgreSQL does not take POSTGRES_PASSWORD")
    env.write_text(before)
    services.run("docker/services.sh", "down")
    services.run("docker/services.sh", "up")
    assert len(services.client.search_model_versions()) == 1, "what volumes have kept is there again"


def test_down_leaves_no_container(services: Services, up: str) -> None:
    services.run("make", "--no-print-directory", "services-down")
    assert [services.containers(service) for service in ("postgres", "s3", "mlflow", "head", "worker")] == [[]] * 5
    assert services.run("docker/services.sh", "repro", status=2) == "error: the head does not run: make services-up\n"

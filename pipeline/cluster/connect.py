"""A Ray cluster that is already there: joined as its driver, with this process's code on every node."""

import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from pipeline.cluster.runtime import QUIET
from pipeline.cluster.source_code import stage_code
from pipeline.errors import UserError, format_value

ON_WORKERS = ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_CHDIR_TO_TRIAL_DIR", "RAY_USAGE_STATS_ENABLED")
"""Those of `QUIET` that Ray reads in the workers, which do not have this process's environment."""

LOOK_AGAIN_S = 5.0

ANSWER_S = 10.0
"""How long the head may take to accept a connection."""


@dataclass(frozen=True)
class Node:
    """A node that is alive. name: for people. address: its own. cpus, gpus: what Ray may use of it. id: Ray's."""

    id: str
    name: str
    address: str
    cpus: float
    gpus: float

    def fit(self, cpus: float, gpus: float) -> int:
        """How many runs that take so much fit on it together."""
        by_cpu = int(self.cpus / cpus + 1e-9)
        return min(by_cpu, int(self.gpus / gpus + 1e-9)) if gpus else by_cpu


def cluster_address(asked: str | None) -> str | None:
    """The cluster that runs are meant for: what was asked for, else RAY_ADDRESS; None for this machine alone."""
    return asked or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def connect_to_cluster(
    address: str, plugins: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Be a driver of the cluster at an address. plugins: as of `stage_code`. environment: further variables of workers.

    Raises:
        UserError: nothing answers there, it wants another token, another Ray or Python, or this machine is no node.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    _require_answer(address)
    with tempfile.TemporaryDirectory(prefix="sar-search-code-") as staged:
        stage_code(Path(staged), plugins)
        sent: dict[str, Any] = {"working_dir": staged, "env_vars": {name: QUIET[name] for name in ON_WORKERS}}
        if environment:
            sent["worker_process_setup_hook"] = _variable_setter(dict(environment))
        try:
            ray.init(
                address=address,
                runtime_env=sent,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:  # Ray says it in many ways; each of them means that it cannot be joined
            raise UserError(f"search.cluster.address: {address}: {_why(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _variable_setter(variables: Mapping[str, str]) -> Callable[[], None]:
    """What a worker does as it starts. Ray logs the variables that it sets on every node; these may be keys."""

    def set_variables() -> None:
        os.environ.update(variables)

    return set_variables


def nodes() -> list[Node]:
    """The nodes of the cluster that this process is a driver of, those that are alive, by name."""
    alive = []
    there_are: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    for node in there_are:
        if node["Alive"]:
            there = node["Resources"]
            address, name = node["NodeManagerAddress"], node["NodeManagerHostname"]
            short = f"{name} ({address}, {node['NodeID'][:6]})"
            alive.append(Node(node["NodeID"], short, address, there.get("CPU", 0.0), there.get("GPU", 0.0)))
    return sorted(alive, key=lambda node: node.name)


def cluster_nodes(address: str) -> list[Node]:
    """The nodes of the cluster at an address, joined only to ask.

    Raises:
        UserError: as `connect_to_cluster`.
    """
    with connect_to_cluster(address):
        return nodes()


def driver_among_nodes() -> str | None:
    """The node that this worker is on, as a short name; None on a Ray of one machine alone, or without one."""
    if not ray.is_initialized():  # or asking would start one
        return None
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    if address == "127.0.0.1":
        return None
    return f"{address} {ray.get_runtime_context().get_node_id()[:6]}"


class Capacity:
    """How many runs fit on the cluster now. Nodes come and go; it is asked many times a second and looks seldom."""

    def __init__(self, cpus: int, gpus: float, most: int | None = None) -> None:
        self._cpus, self._gpus, self._most = cpus, gpus, most
        self._looked, self._fit = float("-inf"), 0
        self._refused: set[str] = set()

    @property
    def excluded(self) -> list[str]:
        """Ids of the nodes that will not do."""
        return sorted(self._refused)

    def exclude_node(self, node: str) -> bool:
        """Count no longer what would fit on a node. Whether that is new."""
        new = node not in self._refused
        self._refused.add(node)
        self._looked = float("-inf")
        return new

    def free_slots(self) -> int:
        """What fits, or `most` if one was given: what does not fit yet is what a cluster grows by."""
        if self._most is not None:
            return self._most
        if time.monotonic() - self._looked > LOOK_AGAIN_S:
            self._fit = sum(node.fit(self._cpus, self._gpus) for node in nodes() if node.id not in self._refused)
            self._looked = time.monotonic()
        return self._fit


def _require_answer(address: str) -> None:
    """Refuse an address at which nothing listens; Ray itself would try for minutes."""
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address.startswith("ray://") or not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(
            f"search.cluster.address: given {format_value(address)}; allowed: auto, or the head's host:port"
        )
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_S):
            pass
    except OSError as error:
        raise UserError(
            f"search.cluster.address: {address}: nothing answers there ({error.strerror or error}). Is the cluster up "
            "(`make cluster-status`), and is this the head's address?"
        ) from None


def _why(error: Exception) -> str:
    said = " ".join(str(error).split())
    kind = type(error).__name__
    if "uth" in kind or "token" in said.lower() or "UNAUTHENTICATED" in said:
        return (
            "the cluster wants another token, or one at all. Copy ~/.ray/auth_token from its head, with mode 600, and "
            "set RAY_AUTH_MODE=token."
        )
    if "ersion mismatch" in said:
        return f"it runs other versions: {said[:400]}. Use the same image or requirements.lock on every node."
    return (
        f"cannot be joined ({kind}: {said[:200]}). Is the cluster up (`ray status` on its head), and is this machine "
        "one of its nodes? `make cluster-repro` runs on the head."
    )

"""Connection to a running Ray cluster as its driver, with this process's code on every node."""

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
"""Variables of `QUIET` that Ray reads in workers, which do not inherit this process's environment."""

LOOK_AGAIN_S = 5.0
"""Seconds after which `Capacity` reads the nodes again."""

ANSWER_S = 10.0
"""Seconds within which the head must accept a connection."""


@dataclass(frozen=True)
class Node:
    """A node that is alive.

    Attributes:
        id: Ray's id of it.
        name: host name, address and start of the id, for people.
        address: its IP address.
        cpus, gpus: CPUs and GPUs that Ray may use on it.
    """

    id: str
    name: str
    address: str
    cpus: float
    gpus: float

    def fit(self, cpus: float, gpus: float) -> int:
        """Returns the number of runs that fit on the node together.

        Args:
            cpus, gpus: CPUs and GPUs of one run.
        """
        by_cpu = int(self.cpus / cpus + 1e-9)
        return min(by_cpu, int(self.gpus / gpus + 1e-9)) if gpus else by_cpu


def cluster_address(asked: str | None) -> str | None:
    """Returns the address of the cluster on which runs are to start; None for this machine alone.

    Args:
        asked: `search.cluster.address`. If it is None or empty, RAY_ADDRESS decides.
    """
    return asked or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def connect_to_cluster(
    address: str, plugins: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Connects to a cluster as a driver for the duration of the block.

    Args:
        address: `auto`, or host:port of the head.
        plugins: modules with users' methods, as for `stage_code`.
        environment: further environment variables of the workers.

    Raises:
        UserError: nothing answers there, the token or the versions of Ray or Python differ, or this machine
            is no node.
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
        except Exception as error:  # Ray raises many types; each means that the cluster cannot be joined
            raise UserError(f"search.cluster.address: {address}: {_why(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _variable_setter(variables: Mapping[str, str]) -> Callable[[], None]:
    """Returns a hook that sets variables when a worker starts.

    Ray's own `env_vars` are not used, because Ray logs them on every node, and these variables may be keys.
    """

    def set_variables() -> None:
        os.environ.update(variables)

    return set_variables


def nodes() -> list[Node]:
    """Returns the nodes that are alive in the cluster to which this process is connected, by name."""
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
    """Returns the nodes of a cluster, and connects to it only for that.

    Args:
        address: `auto`, or host:port of the head.

    Raises:
        UserError: as for `connect_to_cluster`.
    """
    with connect_to_cluster(address):
        return nodes()


def driver_among_nodes() -> str | None:
    """Returns a short name of the node that this worker runs on; None on a local Ray, or without Ray."""
    if not ray.is_initialized():  # without this check, the next call would start a Ray
        return None
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    if address == "127.0.0.1":
        return None
    return f"{address} {ray.get_runtime_context().get_node_id()[:6]}"


class Capacity:
    """Number of runs that fit on the cluster now.

    Nodes come and go. The number is asked for many times a second, so the nodes are read at most every few
    seconds.

    Args:
        cpus, gpus: CPUs and GPUs of one run.
        most: a fixed number that replaces the count, or None.
    """

    def __init__(self, cpus: int, gpus: float, most: int | None = None) -> None:
        self._cpus, self._gpus, self._most = cpus, gpus, most
        self._looked, self._fit = float("-inf"), 0
        self._refused: set[str] = set()

    @property
    def excluded(self) -> list[str]:
        """Ids of the excluded nodes."""
        return sorted(self._refused)

    def exclude_node(self, node: str) -> bool:
        """Excludes a node from the count, by its id. Returns whether it was not excluded before."""
        new = node not in self._refused
        self._refused.add(node)
        self._looked = float("-inf")
        return new

    def free_slots(self) -> int:
        """Returns the number of runs that fit on all nodes together, or `most` if it was given.

        A fixed `most` may exceed what fits: a cluster grows by the runs that wait.
        """
        if self._most is not None:
            return self._most
        if time.monotonic() - self._looked > LOOK_AGAIN_S:
            self._fit = sum(node.fit(self._cpus, self._gpus) for node in nodes() if node.id not in self._refused)
            self._looked = time.monotonic()
        return self._fit


def _require_answer(address: str) -> None:
    """Raises a UserError if nothing listens at an address. Ray itself would try for minutes."""
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
            "the cluster requires a token, and the one here is wrong or missing. Copy ~/.ray/auth_token from its head, "
            "with mode 600, and set RAY_AUTH_MODE=token."
        )
    if "ersion mismatch" in said:
        return f"the cluster runs other versions: {said[:400]}. Use the same image or requirements.lock on every node."
    return (
        f"cannot be joined ({kind}: {said[:200]}). Is the cluster up (`ray status` on its head), and is this machine "
        "one of its nodes? If it is not, use `make cluster-repro`, which runs the pipeline on the head."
    )

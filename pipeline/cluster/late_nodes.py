"""Nodes that join while runs are under way: looked at, from the first run that is put there, before it begins.

A run on a node that was not there at the beginning looks around as the others have been looked at. Where something is
wrong it says so and leaves; the driver then hands it out once more, away from that node.
"""

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.connect import nodes
from pipeline.cluster.nodes import (
    NodeRequirements,
    NodeResult,
    find_problems,
    inspect_node,
    list_once,
    own_versions,
    with_token,
)
from pipeline.cluster.storage import StorageError, join, remove_file, write_text
from pipeline.provenance.code_hash import code_digest

NODE_LABEL = "ray.io/node-id"
"""The label that Ray gives every node, by which runs are kept away from one."""


@dataclass(frozen=True)
class AdmissionRules:
    """What nodes that join later are held against. checked_nodes: ids of those that have been checked. driver: its
    node.

    name, secret: of the driver's token file in storage. versions, code: the driver's.
    """

    requirements: NodeRequirements
    checked_nodes: frozenset[str]
    driver: str
    name: str
    secret: str
    versions: Mapping[str, str]
    code: str


@dataclass(frozen=True)
class Refusal:
    """node: Ray's id. why: what is wrong with it, a line each, beginning with its name."""

    node: str
    why: Sequence[str]


@contextmanager
def make_admission_rules(requirements: NodeRequirements, answers: Sequence[NodeResult]) -> Iterator[AdmissionRules]:
    """Keep a token in storage by which nodes can show that they share it. answers: of the nodes that are there now.

    Raises:
        OSError, StorageError: storage cannot be written.
    """
    name, secret = f".sar-search-{secrets.token_hex(4)}", secrets.token_hex(16)
    driver: str = ray.get_runtime_context().get_node_id()
    checked_nodes = frozenset(answer.node.id for answer in answers)
    token = join(requirements.storage, name)
    write_text(token, secret)
    try:
        alone = NodeRequirements(
            list_once(requirements.bundle),
            requirements.storage,
            requirements.sendable,
            requirements.gpus,
            requirements.grows,
        )
        yield AdmissionRules(alone, checked_nodes, driver, name, secret, own_versions(), code_digest())
    finally:
        with suppress(OSError, StorageError):
            remove_file(token)


_admitted: set[str] = set()
"""Secrets of the rules that this process's node has passed: a worker runs many trials."""


def check_this_node(admission: AdmissionRules) -> Refusal | None:
    """On a worker: why runs must not be on its node; None if it is as the others are."""
    here: str = ray.get_runtime_context().get_node_id()
    if here in admission.checked_nodes or admission.secret in _admitted:
        return None
    node = next((node for node in nodes() if node.id == here), None)
    if node is None:  # it has been declared dead, and its runs are being started elsewhere
        return Refusal(here, [f"node {here[:6]}: the cluster has given it up"])
    try:
        asked = _drivers_clock(admission)
        report = inspect_node(admission.requirements.storage, admission.name, admission.requirements.bundle)
        answer = with_token(NodeResult(node, report, "", asked, _drivers_clock(admission)), admission.secret)
    except Exception as error:  # whatever a node cannot do, this is about that node
        why = " ".join(str(error).split())[-300:]
        return Refusal(here, [f"{node.name}: cannot run our code: {type(error).__name__}: {why}"])
    wrong = find_problems([answer], admission.requirements, here=admission.versions, code=admission.code)
    if wrong:
        return Refusal(here, wrong)
    _admitted.add(admission.secret)
    return None


def exclude_selector(refused: Sequence[str]) -> dict[str, str]:
    """A label selector that keeps runs away from nodes, by their ids; empty for none."""
    return {NODE_LABEL: f"!in({','.join(sorted(refused))})"} if refused else {}


def _drivers_clock(admission: AdmissionRules) -> float:
    pinned = NodeAffinitySchedulingStrategy(admission.driver, soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": pinned}
    remote: Any = ray.remote(**options)(_clock)
    return float(ray.get(remote.remote()))


def _clock() -> float:
    return time.time()

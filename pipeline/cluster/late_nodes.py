"""Nodes that join a running search.

The first trial on a new node makes the inspection that other nodes had at the start, before it trains. If the
inspection finds a fault, the trial reports it and ends, and the driver schedules it on another node.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
    stored_token,
    with_token,
)
from pipeline.provenance.code_hash import code_digest

NODE_LABEL = "ray.io/node-id"
"""Label that Ray gives every node. Runs are kept away from a node by it."""


@dataclass(frozen=True)
class AdmissionRules:
    """Requirements for nodes that join later.

    Attributes:
        requirements: the requirements, as at the start.
        checked_nodes: ids of the nodes that were inspected at the start.
        driver: id of the driver's node.
        name, secret: name and content of the driver's token file in storage.
        versions, code: versions and `code_digest` of the driver.
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
    """Rejection of a node.

    Attributes:
        node: Ray's id of it.
        why: its faults, a line each, which begins with its name.
    """

    node: str
    why: Sequence[str]


@contextmanager
def make_admission_rules(requirements: NodeRequirements, answers: Sequence[NodeResult]) -> Iterator[AdmissionRules]:
    """Yields the rules for later nodes, and stores a token by which these show that they share the storage.

    The token is removed when the block ends.

    Args:
        requirements: the requirements, as at the start.
        answers: results of the nodes that were inspected at the start.

    Raises:
        OSError, StorageError: storage cannot be written.
    """
    driver: str = ray.get_runtime_context().get_node_id()
    checked_nodes = frozenset(answer.node.id for answer in answers)
    alone = replace(requirements, bundle=list_once(requirements.bundle))
    with stored_token(requirements.storage) as (name, secret):
        yield AdmissionRules(alone, checked_nodes, driver, name, secret, own_versions(), code_digest())


_admitted: set[str] = set()
"""Secrets of the rules that this process's node has passed. A worker runs many trials, and is inspected once."""


def check_this_node(admission: AdmissionRules) -> Refusal | None:
    """Inspects the node of this worker, unless that was done before.

    Args:
        admission: the rules.

    Returns:
        The rejection, or None if runs may be on this node.
    """
    here: str = ray.get_runtime_context().get_node_id()
    if here in admission.checked_nodes or admission.secret in _admitted:
        return None
    node = next((node for node in nodes() if node.id == here), None)
    if node is None:  # it was declared dead, and its runs are started elsewhere
        return Refusal(here, [f"node {here[:6]}: the cluster has declared it dead"])
    try:
        asked = _drivers_clock(admission)
        report = inspect_node(admission.requirements.storage, admission.name, admission.requirements.bundle)
        answer = with_token(NodeResult(node, report, "", asked, _drivers_clock(admission)), admission.secret)
    except Exception as error:  # any error here concerns that node alone
        why = " ".join(str(error).split())[-300:]
        return Refusal(here, [f"{node.name}: cannot run the pipeline's code: {type(error).__name__}: {why}"])
    wrong = find_problems([answer], admission.requirements, here=admission.versions, code=admission.code)
    if wrong:
        return Refusal(here, wrong)
    _admitted.add(admission.secret)
    return None


def exclude_selector(refused: Sequence[str]) -> dict[str, str]:
    """Returns a label selector of Ray's that keeps runs away from nodes.

    Args:
        refused: ids of the nodes. For none of them, the result is empty.
    """
    return {NODE_LABEL: f"!in({','.join(sorted(refused))})"} if refused else {}


def _drivers_clock(admission: AdmissionRules) -> float:
    """Returns the time on the driver's node, in seconds."""
    pinned = NodeAffinitySchedulingStrategy(admission.driver, soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": pinned}
    remote: Any = ray.remote(**options)(_clock)
    return float(ray.get(remote.remote()))


def _clock() -> float:
    return time.time()

"""Inspection of every node before trials start: versions, code, data, storage, clock and disk.

A task that takes no resources is pinned to each node. Its report is compared with the state of this process,
the driver.
"""

import platform
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.connect import Node, nodes
from pipeline.cluster.data_bundle import DataBundle, find_bundle
from pipeline.cluster.storage import StorageError, exists, join, read_text, remove_file, write_text
from pipeline.errors import UserError, join_lines
from pipeline.provenance.code_hash import code_digest

ANSWER_S = 120.0
"""Seconds within which a node must answer. A cold one first unpacks the code and starts a worker."""

CLOCK_S = 60.0
"""Seconds by which a node's clock may differ from the driver's, because files and tokens are dated by it."""

SPARE_BYTES = 200 * 10**6
"""Free bytes that a node needs beyond the data."""

PACKAGES = ("ray", "torch", "timm", "numpy")
"""Packages whose versions must be equal on all nodes."""

PROCESSOR = "processor"
"""Key of the processor's kind beside the versions.

Kinds such as x86_64 and aarch64 round differently, so their trials are not comparable.
"""


@dataclass(frozen=True)
class NodeRequirements:
    """Requirements that every node is compared with.

    Attributes:
        bundle: the data.
        storage: address of the checkpoints.
        sendable: whether nodes without the data can receive them.
        gpus: GPUs of one trial.
        grows: whether further nodes may join later.
    """

    bundle: DataBundle
    storage: str
    sendable: bool
    gpus: float
    grows: bool = False


@dataclass(frozen=True)
class NodeReport:
    """Report of a node on itself.

    Attributes:
        versions: of Python and packages, and the kind of processor.
        code: its `code_digest`.
        clock: its time, in seconds.
        free: free bytes for temporary files.
        temporary: folder of temporary files.
        cuda: GPUs that torch sees.
        data: whether it has unchanged files of the data.
        token: content of the driver's token file, or why it cannot be read. After `with_token`: empty if it
            is right, otherwise the fault.
        wrote: None if it could write to storage, or why it could not.
    """

    versions: Mapping[str, str]
    code: str
    clock: float
    free: int
    temporary: str
    cuda: int
    data: bool
    token: str
    wrote: str | None


@dataclass(frozen=True)
class NodeResult:
    """A node's report, with the driver's clock before and after.

    Attributes:
        node: the node.
        report: its report, or None if there was none.
        why: the reason for a missing report; empty otherwise.
        asked, answered: driver's time in seconds when the node was asked, and when its report arrived.
    """

    node: Node
    report: NodeReport | None
    why: str
    asked: float
    answered: float


def inspect_node(storage: str, name: str, bundle: DataBundle) -> NodeReport:
    """Returns a report on the machine on which this runs.

    Args:
        storage: address of the checkpoints.
        name: name of the driver's token file in it.
        bundle: the data to look for.
    """
    import torch

    token, wrote = "", None
    try:
        token = read_text(join(storage, name))
    except (OSError, StorageError) as error:
        token = f"cannot be read: {_describe(error)}"
    probe = join(storage, f"{name}-{secrets.token_hex(4)}")
    try:
        # Without the driver's file this is a different storage, and nothing is written there.
        if exists(join(storage, name)):
            write_text(probe, "")
            remove_file(probe)
    except (OSError, StorageError) as error:
        wrote = _describe(error)
    temporary = tempfile.gettempdir()
    return NodeReport(
        versions=own_versions(),
        code=code_digest(),
        clock=time.time(),
        free=shutil.disk_usage(temporary).free,
        temporary=temporary,
        cuda=torch.cuda.device_count(),
        data=find_bundle(bundle) is not None,
        token=token,
        wrote=wrote,
    )


def _describe(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).partition(": ")[2] or str(error)


def own_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that trials compute with, and the kind of processor."""
    kind = platform.machine().replace("arm64", "aarch64")  # macOS's name for aarch64
    return {PROCESSOR: kind, "Python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def inspect_nodes(requirements: NodeRequirements) -> list[NodeResult]:
    """Inspects every node of the cluster and waits for all of them.

    Raises:
        UserError: this machine cannot write to storage.
    """
    with ExitStack() as stack:
        try:
            name, secret = stack.enter_context(stored_token(requirements.storage))
        except (OSError, StorageError) as error:
            raise UserError(f"{requirements.storage}: cannot be written here ({_describe(error)}).") from None
        answers = _ask(requirements.storage, name, requirements.bundle)
    return [with_token(answer, secret) for answer in answers]


@contextmanager
def stored_token(storage: str) -> Iterator[tuple[str, str]]:
    """Yields name and content of a file in storage by which nodes show that they share it; removed after the block.

    Args:
        storage: address of the checkpoints.

    Raises:
        OSError, StorageError: storage cannot be written.
    """
    name, secret = f".sar-search-{secrets.token_hex(4)}", secrets.token_hex(16)
    token = join(storage, name)
    write_text(token, secret)
    try:
        yield name, secret
    finally:
        with suppress(OSError, StorageError):
            remove_file(token)


def _ask(storage: str, name: str, bundle: DataBundle) -> list[NodeResult]:
    """Runs `inspect_node` on every node.

    Args:
        storage: address of the checkpoints.
        name: name of the driver's token file in it.
        bundle: the data to look for.

    Returns:
        A result for every node, sorted by name.
    """
    listed = list_once(bundle)
    asked, waiting = {}, {}
    for node in nodes():
        pinned = NodeAffinitySchedulingStrategy(node.id, soft=False)
        options: dict[str, Any] = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": pinned}
        remote: Any = ray.remote(**options)(inspect_node)
        asked[node.id] = time.time()
        waiting[remote.remote(storage, name, listed)] = node
    answers, until = [], time.monotonic() + ANSWER_S
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=max(0.0, until - time.monotonic()))
        if not done:
            late = f"has not answered within {ANSWER_S:.0f} s; look at its raylet's logs"
            answers += [NodeResult(node, None, late, 0.0, 0.0) for node in waiting.values()]
            break
        node = waiting.pop(done[0])
        try:
            answers.append(NodeResult(node, ray.get(done[0]), "", asked[node.id], time.time()))
        except Exception as error:  # any error here concerns that node alone
            why = " ".join(str(getattr(error, "cause", None) or error).split())[-300:]
            said = f"cannot run the pipeline's code: {type(error).__name__}: {why}"
            answers.append(NodeResult(node, None, said, 0.0, 0.0))
    return sorted(answers, key=lambda answer: answer.node.name)


def list_once(bundle: DataBundle) -> DataBundle:
    """Returns a bundle without its references into the object store, as is enough to look for its files."""
    return replace(bundle, chunks={})


def with_token(answer: NodeResult, secret: str) -> NodeResult:
    """Returns the result with its token replaced: empty if it was the driver's, otherwise the fault."""
    if answer.report is None:
        return answer
    right = answer.report.token == secret
    other = answer.report.token if answer.report.token.startswith("cannot") else "is not the same place there"
    said = "" if right else other
    return replace(answer, report=replace(answer.report, token=said))


def find_problems(
    answers: Iterable[NodeResult], requirements: NodeRequirements, *, here: Mapping[str, str], code: str
) -> list[str]:
    """Returns the faults of the nodes, a line each.

    Args:
        answers: results of the nodes.
        requirements: the requirements to compare with.
        here: versions of the driver, from `own_versions`.
        code: `code_digest` of the driver.
    """
    return [
        f"{answer.node.name}: {said}" for answer in answers for said in _find_problem(answer, requirements, here, code)
    ]


def _find_problem(answer: NodeResult, requirements: NodeRequirements, here: Mapping[str, str], code: str) -> list[str]:
    """Returns the faults of one node.

    Args:
        answer: result of the node.
        requirements: the requirements to compare with.
        here: versions of the driver.
        code: `code_digest` of the driver.
    """
    report, said = answer.report, []
    if report is None:
        return [answer.why]
    for name, version in here.items():
        if name == PROCESSOR and (other := report.versions.get(name, version)) != version:
            said.append(
                f"its processor is {other}, that of this machine is {version}, and they round differently; leave the "
                "node out of the cluster"
            )
        elif name != PROCESSOR and report.versions.get(name) != version:
            said.append(
                f"{name} {report.versions.get(name, 'is missing')} there, {version} here; use the same image or "
                "requirements.lock on every node"
            )
    if report.code != code:
        said.append(
            f"it has another version of the package `pipeline` ({report.code} there, {code} here); remove that version "
            "from the node's PYTHONPATH"
        )
    off = max(answer.asked - report.clock, report.clock - answer.answered)
    if off > CLOCK_S:
        said.append(f"its clock is off by {off / 60:.0f} minutes; have it set by NTP")
    if report.token:
        said.append(
            f"{requirements.storage}: {report.token}; checkpoints must go where every node sees them: name such a "
            "folder, or a bucket, in search.cluster.storage"
        )
    elif report.wrote:
        said.append(f"{requirements.storage}: cannot be written there ({report.wrote})")
    if not report.data and not requirements.sendable:
        said.append("it does not have the data; see search.cluster.storage and search.cluster.ship_limit_mb")
    needed = SPARE_BYTES + (0 if report.data else requirements.bundle.bytes)
    if report.free < needed:
        said.append(f"{report.temporary}: {report.free / 1e6:,.0f} MB free, {needed / 1e6:,.0f} MB needed")
    if requirements.gpus and answer.node.gpus and not report.cuda:
        said.append(f"Ray counts {answer.node.gpus:g} GPUs there, but torch sees none; look at its driver and torch")
    return said


def check_nodes(requirements: NodeRequirements) -> Sequence[NodeResult]:
    """Checks every node before trials start.

    Args:
        requirements: the requirements to compare with.

    Returns:
        The results of all nodes.

    Raises:
        UserError: a node does not meet the requirements; a line for each node and fault.
    """
    answers = inspect_nodes(requirements)
    wrong = find_problems(answers, requirements, here=own_versions(), code=code_digest())
    if requirements.gpus and not requirements.grows and not any(answer.node.gpus for answer in answers):
        wrong.append("no node has a GPU, and a trial takes one (search.gpus_per_trial)")
    if wrong:
        raise UserError("the cluster's nodes are not ready:\n" + join_lines(wrong, most=40))
    return answers

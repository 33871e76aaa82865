"""A look at every node before trials start there: what each of them runs, has, sees and can write.

A task that takes no resources is pinned to each node, and what it finds is compared with what this process, the driver,
has.
"""

import platform
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
"""How long a node may take to answer; a cold one unpacks the code and starts a worker first."""

CLOCK_S = 60.0
"""How far a node's clock may be from the driver's: files and tokens are dated by it."""

SPARE_BYTES = 200 * 10**6
"""Free room on a node beyond what its trials are known to need."""

PACKAGES = ("ray", "torch", "timm", "numpy")

PROCESSOR = "processor"
"""Beside the versions: x86_64, aarch64 and their like round differently, so their trials do not compare."""


@dataclass(frozen=True)
class NodeRequirements:
    """What every node is compared with. bundle: the data. storage: address of where checkpoints go. gpus: of one trial.

    sendable: whether nodes that do not have the data can be given them. grows: whether nodes may be yet to come.
    """

    bundle: DataBundle
    storage: str
    sendable: bool
    gpus: float
    grows: bool = False


@dataclass(frozen=True)
class NodeReport:
    """What a node has said. versions: of Python and packages. code: `code_digest`. clock: seconds, by its own.

    free: bytes for temporary files. cuda: GPUs that torch sees. data: whether it has the files as they are.
    token: what it read of the driver's token file, or why not; empty once compared, if it is right. wrote: None, or why
    it could not write beside it.
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
    """A node's answer, and the driver's clock before and after. report: None if there was none, with the reason why."""

    node: Node
    report: NodeReport | None
    why: str
    asked: float
    answered: float


def inspect_node(storage: str, name: str, bundle: DataBundle) -> NodeReport:
    """Look at the machine that this runs on. name: of the driver's token file in storage."""
    import torch

    token, wrote = "", None
    try:
        token = read_text(join(storage, name))
    except (OSError, StorageError) as error:
        token = f"cannot be read: {_describe(error)}"
    probe = join(storage, f"{name}-{secrets.token_hex(4)}")
    try:
        # Without the driver's file this is another storage, and stays as it was found.
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
    """Versions of Python and of what a trial computes with, here; and the kind of processor."""
    kind = platform.machine().replace("arm64", "aarch64")  # the same, as macOS calls it
    return {PROCESSOR: kind, "Python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def inspect_nodes(requirements: NodeRequirements) -> list[NodeResult]:
    """Have every node of the cluster look around, and wait for all of them.

    Raises:
        UserError: storage cannot be written here.
    """
    name, secret = f".sar-search-{secrets.token_hex(4)}", secrets.token_hex(16)
    token = join(requirements.storage, name)
    try:
        write_text(token, secret)
    except (OSError, StorageError) as error:
        raise UserError(f"{requirements.storage}: cannot be written here ({_describe(error)}).") from None
    try:
        answers = _ask(requirements.storage, name, requirements.bundle)
    finally:
        with suppress(OSError, StorageError):
            remove_file(token)
    return [with_token(answer, secret) for answer in answers]


def _ask(storage: str, name: str, bundle: DataBundle) -> list[NodeResult]:
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
        except Exception as error:  # whatever a node cannot do, this is about that node
            why = " ".join(str(getattr(error, "cause", None) or error).split())[-300:]
            answers.append(NodeResult(node, None, f"cannot run our code: {type(error).__name__}: {why}", 0.0, 0.0))
    return sorted(answers, key=lambda answer: answer.node.name)


def list_once(bundle: DataBundle) -> DataBundle:
    """A bundle without what was sent of it, to be looked for."""
    return DataBundle(bundle.key, bundle.origins, bundle.sizes, bundle.hashes, {}, bundle.shared)


def with_token(answer: NodeResult, secret: str) -> NodeResult:
    """The answer with an empty token where it was the driver's."""
    if answer.report is None:
        return answer
    right = answer.report.token == secret
    said = "" if right else answer.report.token if answer.report.token.startswith("cannot") else "is another one"
    return NodeResult(
        answer.node,
        NodeReport(**{**vars(answer.report), "token": said}),
        answer.why,
        answer.asked,
        answer.answered,
    )


def find_problems(
    answers: Iterable[NodeResult], requirements: NodeRequirements, *, here: Mapping[str, str], code: str
) -> list[str]:
    """What is wrong with the nodes, a line each. here, code: versions and digest of the driver."""
    return [
        f"{answer.node.name}: {said}" for answer in answers for said in _find_problem(answer, requirements, here, code)
    ]


def _find_problem(answer: NodeResult, requirements: NodeRequirements, here: Mapping[str, str], code: str) -> list[str]:
    report, said = answer.report, []
    if report is None:
        return [answer.why]
    for name, version in here.items():
        if name == PROCESSOR and (other := report.versions.get(name, version)) != version:
            said.append(f"its processor is {other}, this one {version}, and what they compute differs; leave it out")
        elif name != PROCESSOR and report.versions.get(name) != version:
            said.append(
                f"{name} {report.versions.get(name, 'is missing')} there, {version} here; use one image or lock"
            )
    if report.code != code:
        said.append(
            f"its pipeline package is another one ({report.code} there, {code} here); take it off its PYTHONPATH"
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
    """Look at every node and refuse to go on where one of them would fail.

    Raises:
        UserError: what is wrong, a line for each node and fault.
    """
    answers = inspect_nodes(requirements)
    wrong = find_problems(answers, requirements, here=own_versions(), code=code_digest())
    if requirements.gpus and not requirements.grows and not any(answer.node.gpus for answer in answers):
        wrong.append("no node has a GPU, and a trial takes one (search.gpus_per_trial)")
    if wrong:
        raise UserError("the cluster's nodes are not ready:\n" + join_lines(wrong, most=40))
    return answers

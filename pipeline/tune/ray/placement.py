"""Placement of a search's trials: on this machine, or on a Ray cluster whose nodes have been checked before."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.cluster.connect import Capacity, connect_to_cluster
from pipeline.cluster.data_bundle import DataBundle, make_bundle, open_bundle, place_in, send_bundle
from pipeline.cluster.late_nodes import AdmissionRules, make_admission_rules
from pipeline.cluster.nodes import NodeRequirements, NodeResult, check_nodes
from pipeline.cluster.runtime import local_ray
from pipeline.cluster.storage import check_storage, worker_environment
from pipeline.models.model_config import Weights
from pipeline.tune.journal.remote_files import mark_in_use, note_checkpoint_folder
from pipeline.tune.task import RunSpec

MEGABYTE = 10**6


@dataclass(frozen=True)
class Runtime:
    """Place where trials run and leave their checkpoints.

    Attributes:
        checkpoints: Address of the folder of checkpoints.
        bundle: The trials' data, if nodes may have to be sent them; else None.
        capacity: Number of trials that fit now; None if it does not change.
        admission: Requirements for nodes that join later; None on this machine alone.
    """

    checkpoints: str
    bundle: DataBundle | None = None
    capacity: Capacity | None = None
    admission: AdmissionRules | None = None


@dataclass(frozen=True)
class LocalData:
    """Paths of a trial's data on the node that it runs on.

    Attributes:
        prepared: Directory of the prepared set.
        split: The split's file.
        weights: Resolved pretrained weights, by specification.
    """

    prepared: Path
    split: Path
    weights: Mapping[str, Weights]


@contextmanager
def open_runtime(task: RunSpec) -> Iterator[Runtime]:
    """Starts Ray on this machine, or joins the cluster, checks its nodes and sends them the data.

    Args:
        task: The search or retraining.

    Raises:
        UserError: Ray cannot be started or joined, or nodes fail the check; the message lists the faults of all
            nodes.
    """
    resources = task.resources
    if resources.address is None:
        with local_ray(resources.machine_cpus, resources.machine_gpus):
            yield Runtime(str(task.folder / "ray"))
        return
    cluster, storage = task.params.search.cluster, _storage(task)
    with connect_to_cluster(resources.address, _plugins(task), worker_environment(storage)):
        bundle = _listed(task)
        requirements = _requirements(task, bundle)
        answers = check_nodes(requirements)
        # If several nodes have the data, the checkout is on a shared disk. If not, nodes that join later may lack them.
        shared = len(answers) > 1 and all(answer.report and answer.report.data for answer in answers)
        if not shared or bundle.bytes <= cluster.ship_limit_mb * MEGABYTE:
            limit = cluster.ship_limit_mb * MEGABYTE
            if storage is not None and bundle.bytes > limit:
                mark_in_use(place_in(storage, bundle), task.folder)
            bundle = send_bundle(bundle, limit_bytes=limit, storage=storage)
        capacity = Capacity(resources.cpus, resources.gpus, task.params.search.max_concurrent_trials)
        checkpoints = note_checkpoint_folder(storage, task.folder) if storage else str(task.folder / "ray")
        requirements = dataclasses.replace(requirements, bundle=bundle, sendable=bool(bundle.chunks or bundle.shared))
        with make_admission_rules(requirements, answers) as admission:
            yield Runtime(checkpoints, bundle, capacity, admission)


def inspect_cluster(task: RunSpec, *, data: bool = True) -> Sequence[NodeResult]:
    """Checks the cluster's nodes as `open_runtime` does, and starts nothing.

    Args:
        task: The search or retraining.
        data: Whether the data have been prepared, so that the nodes are checked for them.

    Raises:
        UserError: as in `open_runtime`.
    """
    assert task.resources.address is not None
    with connect_to_cluster(task.resources.address, _plugins(task), worker_environment(_storage(task))):
        return check_nodes(_requirements(task, _listed(task) if data else make_bundle({})))


def locate_data(prepared: Path, split: Path, weights: Mapping[str, Weights], bundle: DataBundle | None) -> LocalData:
    """Returns the paths of a search's data and pretrained weights on this node; unpacks them first if they were sent.

    Args:
        prepared: Directory of the prepared set on the driver's machine.
        split: The split's file on the driver's machine.
        weights: Resolved pretrained weights, by specification.
        bundle: The same files, as sent to nodes; None if the paths are valid here.

    Raises:
        UserError: as in `open_bundle`.
    """
    if bundle is None:
        return LocalData(prepared, split, weights)
    files = open_bundle(bundle)
    moved = {spec: dataclasses.replace(each, path=str(files[_weights_name(each)])) for spec, each in weights.items()}
    return LocalData(files[f"{PREPARED}/manifest.json"].parent, files[_split_name(split)], moved)


PREPARED, SPLITS = "prepared", "splits"
"""Folders of a bundle."""


def _listed(task: RunSpec) -> DataBundle:
    """Returns the bundle of everything that a task reads."""
    files = {f"{PREPARED}/{path.name}": path for path in task.prepared.iterdir() if path.is_file()}
    files |= {_split_name(split): split for split in (task.split, *task.other_splits)}
    return make_bundle(files | {_weights_name(each): Path(each.path) for each in task.weights.values()})


def _split_name(split: Path) -> str:
    return f"{SPLITS}/{split.name}"


def _weights_name(weights: Weights) -> str:
    return f"weights/{weights.sha256[:16]}-{Path(weights.path).name}"


def _storage(task: RunSpec) -> str | None:
    """Returns the address of the storage that nodes share; None if they share the checkout."""
    asked = task.params.search.cluster.storage
    return asked if asked is None or "://" in asked else str(Path(asked).expanduser().absolute())


def _requirements(task: RunSpec, bundle: DataBundle) -> NodeRequirements:
    cluster, storage = task.params.search.cluster, _storage(task)
    sendable = bundle.bytes <= cluster.ship_limit_mb * MEGABYTE or storage is not None
    if storage is not None:
        check_storage(storage, named_by="params.yaml: search.cluster.storage")
    else:
        there = next(folder for folder in (task.folder, *task.folder.parents) if folder.is_dir())
        storage = str(there)  # the check must not create the folder, so an existing one above it is checked
    grows = task.params.search.max_concurrent_trials is not None
    return NodeRequirements(bundle, storage, sendable, task.resources.gpus, grows)


def _plugins(task: RunSpec) -> list[str]:
    """Returns the names of the user's own methods."""
    return [name.removeprefix("plugin ") for name in task.header.get("code", {}) if name.startswith("plugin ")]

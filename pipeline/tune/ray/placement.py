"""Where a search's trials run: this machine alone, or a Ray cluster whose nodes have been looked at before."""

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
from pipeline.tune.journal.remote_files import list_checkpoints, mark_in_use
from pipeline.tune.task import RunSpec

MEGABYTE = 10**6


@dataclass(frozen=True)
class Runtime:
    """Where trials run and leave their checkpoints.

    checkpoints: the address of the folder for them. bundle: their data, where nodes may have to be sent them.
    capacity: how many trials fit now; None where that stays what it is. admission: what nodes that join later are held
    against.
    """

    checkpoints: str
    bundle: DataBundle | None = None
    capacity: Capacity | None = None
    admission: AdmissionRules | None = None


@dataclass(frozen=True)
class LocalData:
    """Where a trial finds what it reads on the node that it runs on."""

    prepared: Path
    split: Path
    weights: Mapping[str, Weights]


@contextmanager
def open_runtime(task: RunSpec) -> Iterator[Runtime]:
    """Start Ray here, or join the cluster, look at its nodes and send them the data.

    Raises:
        UserError: neither can be had, or something is wrong with a node; told for all nodes at once.
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
        # Nodes that join later may lack what those of now have; where several have it, the checkout is a shared one.
        shared = len(answers) > 1 and all(answer.report and answer.report.data for answer in answers)
        if not shared or bundle.bytes <= cluster.ship_limit_mb * MEGABYTE:
            limit = cluster.ship_limit_mb * MEGABYTE
            if storage is not None and bundle.bytes > limit:
                mark_in_use(place_in(storage, bundle), task.folder)
            bundle = send_bundle(bundle, limit_bytes=limit, storage=storage)
        capacity = Capacity(resources.cpus, resources.gpus, task.params.search.max_concurrent_trials)
        checkpoints = list_checkpoints(storage, task.folder) if storage else str(task.folder / "ray")
        requirements = dataclasses.replace(requirements, bundle=bundle, sendable=bool(bundle.chunks or bundle.shared))
        with make_admission_rules(requirements, answers) as admission:
            yield Runtime(checkpoints, bundle, capacity, admission)


def inspect_cluster(task: RunSpec, *, data: bool = True) -> Sequence[NodeResult]:
    """Look at the cluster's nodes as `open_runtime` does, and start nothing. data: whether they have been prepared.

    Raises:
        UserError: as `open_runtime`.
    """
    assert task.resources.address is not None
    with connect_to_cluster(task.resources.address, _plugins(task), worker_environment(_storage(task))):
        return check_nodes(_requirements(task, _listed(task) if data else make_bundle({})))


def locate_data(prepared: Path, split: Path, weights: Mapping[str, Weights], bundle: DataBundle | None) -> LocalData:
    """Where this node has a search's data and pretrained weights; unpacked first, if they had to be sent.

    Raises:
        UserError: as `open_bundle`.
    """
    if bundle is None:
        return LocalData(prepared, split, weights)
    files = open_bundle(bundle)
    moved = {spec: dataclasses.replace(each, path=str(files[_weights_name(each)])) for spec, each in weights.items()}
    return LocalData(files[f"{PREPARED}/manifest.json"].parent, files[_split_name(split)], moved)


PREPARED, SPLITS = "prepared", "splits"


def _listed(task: RunSpec) -> DataBundle:
    files = {f"{PREPARED}/{path.name}": path for path in task.prepared.iterdir() if path.is_file()}
    files |= {_split_name(split): split for split in (task.split, *task.other_splits)}
    return make_bundle(files | {_weights_name(each): Path(each.path) for each in task.weights.values()})


def _split_name(split: Path) -> str:
    return f"{SPLITS}/{split.name}"


def _weights_name(weights: Weights) -> str:
    return f"weights/{weights.sha256[:16]}-{Path(weights.path).name}"


def _storage(task: RunSpec) -> str | None:
    """The address of the storage that nodes share, None where that is the checkout."""
    asked = task.params.search.cluster.storage
    return asked if asked is None or "://" in asked else str(Path(asked).expanduser().absolute())


def _requirements(task: RunSpec, bundle: DataBundle) -> NodeRequirements:
    cluster, storage = task.params.search.cluster, _storage(task)
    sendable = bundle.bytes <= cluster.ship_limit_mb * MEGABYTE or storage is not None
    if storage is not None:
        check_storage(storage, named_by="params.yaml: search.cluster.storage")
    else:
        there = next(folder for folder in (task.folder, *task.folder.parents) if folder.is_dir())
        storage = str(there)  # nothing is made by a check
    grows = task.params.search.max_concurrent_trials is not None
    return NodeRequirements(bundle, storage, sendable, task.resources.gpus, grows)


def _plugins(task: RunSpec) -> list[str]:
    return [name.removeprefix("plugin ") for name in task.header.get("code", {}) if name.startswith("plugin ")]

"""Where a search's trials run: this machine alone, or a Ray cluster whose nodes have been looked at before."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.cluster.connect import Room, joined
from pipeline.cluster.data_bundle import Parcel, list_parcel, open_parcel, place_in, send_parcel
from pipeline.cluster.late_nodes import Admission, admitting
from pipeline.cluster.nodes import Answer, Wanted, check_nodes
from pipeline.cluster.runtime import local_ray
from pipeline.cluster.storage import check_storage, worker_environment
from pipeline.config import Params
from pipeline.models.model_config import Weights
from pipeline.tune.journal.remote_files import checkpoints_in, use_data

MEGABYTE = 10**6


class Sized(Protocol):
    """What runs take, and what there is: as `pipeline.tune.ray.runner.Resources`."""

    @property
    def cpus(self) -> int: ...
    @property
    def gpus(self) -> float: ...
    @property
    def machine_cpus(self) -> int: ...
    @property
    def machine_gpus(self) -> int: ...
    @property
    def address(self) -> str | None: ...


class Placeable(Protocol):
    """What is to be run: a search, or retraining. As `pipeline.tune.ray.runner.SearchTask`."""

    @property
    def params(self) -> Params: ...
    @property
    def resources(self) -> Sized: ...
    @property
    def folder(self) -> Path: ...
    @property
    def prepared(self) -> Path: ...
    @property
    def split(self) -> Path: ...
    @property
    def weights(self) -> Mapping[str, Weights]: ...
    @property
    def header(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Place:
    """Where trials run and leave their checkpoints.

    checkpoints: the address of the folder for them. parcel: their data, where nodes may have to be sent them. room: how
    many trials fit now; None where that stays what it is. admission: what nodes that join later are held against.
    """

    checkpoints: str
    parcel: Parcel | None = None
    room: Room | None = None
    admission: Admission | None = None


@dataclass(frozen=True)
class Found:
    """Where a trial finds what it reads on the node that it runs on."""

    prepared: Path
    split: Path
    weights: Mapping[str, Weights]


@contextmanager
def placed(task: Placeable) -> Iterator[Place]:
    """Start Ray here, or join the cluster, look at its nodes and send them the data.

    Raises:
        UserError: neither can be had, or something is wrong with a node; told for all nodes at once.
    """
    resources = task.resources
    if resources.address is None:
        with local_ray(resources.machine_cpus, resources.machine_gpus):
            yield Place(str(task.folder / "ray"))
        return
    cluster, storage = task.params.search.cluster, _storage(task)
    with joined(resources.address, _plugins(task), worker_environment(storage)):
        parcel = _listed(task)
        wanted = _wanted(task, parcel)
        answers = check_nodes(wanted)
        # Nodes that join later may lack what those of now have; where several have it, the checkout is a shared one.
        shared = len(answers) > 1 and all(answer.seen and answer.seen.data for answer in answers)
        if not shared or parcel.bytes <= cluster.ship_limit_mb * MEGABYTE:
            limit = cluster.ship_limit_mb * MEGABYTE
            if storage is not None and parcel.bytes > limit:
                use_data(place_in(storage, parcel), task.folder)
            parcel = send_parcel(parcel, limit_bytes=limit, storage=storage)
        room = Room(resources.cpus, resources.gpus, task.params.search.max_concurrent_trials)
        checkpoints = checkpoints_in(storage, task.folder) if storage else str(task.folder / "ray")
        wanted = dataclasses.replace(wanted, parcel=parcel, sendable=bool(parcel.pieces or parcel.shared))
        with admitting(wanted, answers) as admission:
            yield Place(checkpoints, parcel, room, admission)


def look_at_cluster(task: Placeable, *, data: bool = True) -> Sequence[Answer]:
    """Look at the cluster's nodes as `placed` does, and start nothing. data: whether they have been prepared.

    Raises:
        UserError: as `placed`.
    """
    assert task.resources.address is not None
    with joined(task.resources.address, _plugins(task), worker_environment(_storage(task))):
        return check_nodes(_wanted(task, _listed(task) if data else list_parcel({})))


def find_data(prepared: Path, split: Path, weights: Mapping[str, Weights], parcel: Parcel | None) -> Found:
    """Where this node has a search's data and pretrained weights; unpacked first, if they had to be sent.

    Raises:
        UserError: as `open_parcel`.
    """
    if parcel is None:
        return Found(prepared, split, weights)
    files = open_parcel(parcel)
    moved = {spec: dataclasses.replace(each, path=str(files[_weights_name(each)])) for spec, each in weights.items()}
    return Found(files[f"{PREPARED}/manifest.json"].parent, files[SPLIT], moved)


PREPARED, SPLIT = "prepared", "split.json"


def _listed(task: Placeable) -> Parcel:
    files = {f"{PREPARED}/{path.name}": path for path in task.prepared.iterdir() if path.is_file()}
    files |= {SPLIT: task.split}
    return list_parcel(files | {_weights_name(each): Path(each.path) for each in task.weights.values()})


def _weights_name(weights: Weights) -> str:
    return f"weights/{weights.sha256[:16]}-{Path(weights.path).name}"


def _storage(task: Placeable) -> str | None:
    """The address of the storage that nodes share, None where that is the checkout."""
    asked = task.params.search.cluster.storage
    return asked if asked is None or "://" in asked else str(Path(asked).expanduser().absolute())


def _wanted(task: Placeable, parcel: Parcel) -> Wanted:
    cluster, storage = task.params.search.cluster, _storage(task)
    sendable = parcel.bytes <= cluster.ship_limit_mb * MEGABYTE or storage is not None
    if storage is not None:
        check_storage(storage, named_by="params.yaml: search.cluster.storage")
    else:
        there = next(folder for folder in (task.folder, *task.folder.parents) if folder.is_dir())
        storage = str(there)  # nothing is made by a check
    grows = task.params.search.max_concurrent_trials is not None
    return Wanted(parcel, storage, sendable, task.resources.gpus, grows)


def _plugins(task: Placeable) -> list[str]:
    return [name.removeprefix("plugin ") for name in task.header.get("code", {}) if name.startswith("plugin ")]

"""Where a search's trials run: this machine alone, or a Ray cluster whose nodes have been looked at before."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cluster.joining import Room, joined
from pipeline.cluster.nodes import Answer, Wanted, check_nodes
from pipeline.cluster.runtime import local_ray
from pipeline.cluster.ship import Parcel, list_parcel, open_parcel, send_parcel
from pipeline.errors import UserError, named
from pipeline.models.settings import Weights

if TYPE_CHECKING:
    from pipeline.tune.runner import SearchTask

MEGABYTE = 10**6


@dataclass(frozen=True)
class Place:
    """Where trials run and leave their checkpoints.

    checkpoints: the folder for them. parcel: their data, where nodes may have to be sent them. room: how many trials
    fit now; None where that stays what it is.
    """

    checkpoints: Path
    parcel: Parcel | None = None
    room: Room | None = None


@dataclass(frozen=True)
class Found:
    """Where a trial finds what it reads on the node that it runs on."""

    prepared: Path
    split: Path
    weights: Mapping[str, Weights]


@contextmanager
def placed(task: "SearchTask") -> Iterator[Place]:
    """Start Ray here, or join the cluster, look at its nodes and send them the data.

    Raises:
        UserError: neither can be had, or something is wrong with a node; told for all nodes at once.
    """
    resources = task.resources
    if resources.address is None:
        with local_ray(resources.machine_cpus, resources.machine_gpus):
            yield Place(task.folder / "ray")
        return
    cluster = task.params.search.cluster
    with joined(resources.address, _plugins(task)):
        parcel = _listed(task)
        answers = check_nodes(_wanted(task, parcel))
        # Nodes that join later may lack what those of now have; where several have it, the checkout is a shared one.
        shared = len(answers) > 1 and all(answer.seen and answer.seen.data for answer in answers)
        if not shared or parcel.bytes <= cluster.ship_limit_mb * MEGABYTE:
            storage = _storage(task) if cluster.storage else None
            parcel = send_parcel(parcel, limit_bytes=cluster.ship_limit_mb * MEGABYTE, storage=storage)
        room = Room(resources.cpus, resources.gpus, task.params.search.max_concurrent_trials)
        yield Place(checkpoints_of(task), parcel, room)


def look_at_cluster(task: "SearchTask", *, data: bool = True) -> Sequence[Answer]:
    """Look at the cluster's nodes as `placed` does, and start nothing. data: whether they have been prepared.

    Raises:
        UserError: as `placed`.
    """
    assert task.resources.address is not None
    with joined(task.resources.address, _plugins(task)):
        return check_nodes(_wanted(task, _listed(task) if data else list_parcel({})))


def checkpoints_of(task: "SearchTask") -> Path:
    """The folder for a search's checkpoints: among its state, or in the storage that nodes share."""
    if task.params.search.cluster.storage and task.resources.address is not None:
        return _storage(task) / "searches" / task.folder.name
    return task.folder / "ray"


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


def _listed(task: "SearchTask") -> Parcel:
    files = {f"{PREPARED}/{path.name}": path for path in task.prepared.iterdir() if path.is_file()}
    files |= {SPLIT: task.split}
    return list_parcel(files | {_weights_name(each): Path(each.path) for each in task.weights.values()})


def _weights_name(weights: Weights) -> str:
    return f"weights/{weights.sha256[:16]}-{Path(weights.path).name}"


def _storage(task: "SearchTask") -> Path:
    asked = task.params.search.cluster.storage
    return task.folder if asked is None else Path(asked).expanduser().absolute()


def _wanted(task: "SearchTask", parcel: Parcel) -> Wanted:
    cluster, storage = task.params.search.cluster, _storage(task)
    if cluster.storage is not None and not storage.is_dir():
        raise UserError(
            f"params.yaml: search.cluster.storage: {named(str(storage))}: no such folder here. Mount it on every node, "
            "or make it."
        )
    while not storage.is_dir():  # nothing is made by a check
        storage = storage.parent
    sendable = parcel.bytes <= cluster.ship_limit_mb * MEGABYTE or cluster.storage is not None
    grows = task.params.search.max_concurrent_trials is not None
    return Wanted(parcel, storage, sendable, task.resources.gpus, grows)


def _plugins(task: "SearchTask") -> list[str]:
    return [name.removeprefix("plugin ") for name in task.header.get("code", {}) if name.startswith("plugin ")]

"""One retraining run, from its newest checkpoint to its last epoch; what a worker does, on whatever node."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from pipeline.cluster.checkpoint_store import CheckpointStore
from pipeline.cluster.connect import driver_among_nodes
from pipeline.cluster.data_bundle import DataBundle
from pipeline.config import Params, Values
from pipeline.errors import UserError
from pipeline.models.model_config import Weights
from pipeline.train.checkpoint import write_checkpoint
from pipeline.train.loop import Diverged, Epoch
from pipeline.train.memory import is_out_of_memory, out_of_memory_advice
from pipeline.train.rank_info import RankInfo
from pipeline.train.sidecar import Sidecar, TrainState, read_sidecar
from pipeline.tune.ray.placement import locate_data
from pipeline.workspace import part_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.assembly import TrainingData, TrainingRun, WriteCheckpoint

HISTORY = "history.json"
"""A file beside a checkpoint: the time that it took, what its epochs used of the machine, and where it was trained. It
stays out of the checkpoint itself: the same model is the same files, wherever it was trained."""

ROLE = "train+val"


class History(TypedDict):
    """What `HISTORY` has. parts: after which epoch a node went on, and which."""

    seconds: float
    parts: list[dict[str, object]]
    usage: NotRequired[list[dict[str, Any]]]


@dataclass(frozen=True)
class RetrainJob:
    """One run. arm: "best" or the control's name. values: its configuration by dotted path. folder: where it is kept.
    fold: the number of the fold that it leaves out; 0: of all images.

    weights: the pretrained weights of the search, by specification. checkpoints: where they go while it trains.
    bundle: the data, where they may have to be found elsewhere on the node that it runs on.
    """

    arm: str
    seed: int
    params: Values
    values: Values
    prepared: Path
    split: Path
    threads: int
    folder: Path
    weights: Mapping[str, Weights] = field(default_factory=dict)
    checkpoints: CheckpointStore | None = None
    bundle: DataBundle | None = None
    fold: int = 0

    @property
    def name(self) -> str:
        return f"{self.arm}-seed{self.seed}"

    @property
    def model_folder(self) -> str:
        """Where its weights go in models/."""
        return str(part_folder(Path(), self.fold) / self.name)


def retrain_one(job: RetrainJob, world: RankInfo | None = None) -> None:
    """Train one arm with one seed, from its newest checkpoint on; the last one's sidecar holds the curves by epoch.

    world: of several workers, this one; the first writes the checkpoints.

    Raises:
        UserError: the training loss is no longer finite, memory does not suffice, or several workers cannot train it.
    """
    import torch

    from pipeline.assembly import build_run, load_data

    torch.set_num_threads(job.threads)
    params = Params.model_validate(job.params).with_values(job.values, where=job.name)
    found = locate_data(job.prepared, job.split, job.weights, job.bundle)
    data = load_data(found.prepared, found.split, params.base.device)
    run = build_run(params, data, seed=job.seed, scaled_by=ROLE, weights=found.weights)
    if world is not None:
        _check_shareable(run)
    try:
        _train(job, params, run, data, world)
    except Diverged as error:
        said = (
            f"retraining {job.name}: {error}. The configuration that the search found is at the edge of what trains; "
            "lower train.lr, or set train.clip_grad, and run again."
        )
        if world is None or job.checkpoints is None:
            raise UserError(said) from None
        job.checkpoints.note_failure(said)  # all workers have seen it, and none of them need be started again
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        gpus = params.retrain.gpus_per_run or 0.0
        advice = out_of_memory_advice(
            params.train.config(), device=data.device, gpus=gpus, share="retrain.gpus_per_run"
        )
        raise UserError(f"retraining {job.name}: out of memory. {advice}") from None


def seconds_in(folder: Path) -> float:
    """How long the run has trained that a checkpoint is of, in seconds."""
    return _history_in(folder)["seconds"]


def usage_in(folder: Path) -> list[tuple[int, float, dict[str, float]]]:
    """Of the run that a checkpoint is of, each epoch that was measured: its number, its seconds, and what it used."""
    return [(row["epoch"], row["seconds"], row["usage"]) for row in _history_in(folder).get("usage", [])]


def _train(job: RetrainJob, params: Params, run: "TrainingRun", data: "TrainingData", world: RankInfo | None) -> None:
    from pipeline.assembly import load_resume_state, train_resumable

    assert job.checkpoints is not None
    store = job.checkpoints
    with store.newest() as (done, folder):
        _broadcast(done, world)
        curves: list[dict[str, float]] = []
        history: History = {"seconds": 0.0, "parts": []}
        resume = None
        if folder is not None:
            if done >= params.train.epochs:
                return
            resume = load_resume_state(run, folder)
            curves, history = read_sidecar(folder)["curves"], _history_in(folder)
    history["parts"].append({"after": done, "node": driver_among_nodes()})

    def on_epoch(epoch: Epoch, due: bool, _: Callable[[], None]) -> "WriteCheckpoint | None":
        own = {name: value for name, value in epoch.metrics.items() if name != "seconds"}
        curves.append({"epoch": epoch.number, **own})
        history["seconds"] += epoch.metrics["seconds"]
        if epoch.usage:
            measured = {"epoch": epoch.number, "seconds": epoch.metrics["seconds"], "usage": dict(epoch.usage)}
            history.setdefault("usage", []).append(measured)
        if not due or (world is not None and world.rank != 0):
            return None
        said: Sidecar = {
            **run.sidecar,
            "arm": job.arm,
            "values": dict(job.values),
            "trained_on": ROLE,
            "curves": list(curves),
        }
        return partial(_save_checkpoint, store, epoch.number, said, json.dumps(history))

    train_resumable(
        run, params, data, on_epoch, seed=job.seed, resume=resume, last_with_state=False, role=ROLE, world=world
    )


def _save_checkpoint(
    store: CheckpointStore,
    epoch: int,
    sidecar: Sidecar,
    history: str,
    weights: "nn.Module | Mapping[str, Tensor]",
    state: TrainState | None,
) -> None:
    with store.write(epoch) as folder:
        (folder / HISTORY).write_text(history + "\n")
        write_checkpoint(folder, weights, sidecar, state=state)


def _broadcast(done: int, world: RankInfo | None) -> None:
    """All workers go on from one checkpoint, or stop at once: two that do not would train two networks.

    Raises:
        RuntimeError: they have found different ones; they are then started again.
    """
    if world is None:
        return
    from pipeline.train.distributed import broadcast_from_rank0

    if (first := broadcast_from_rank0(done)) != done:
        raise RuntimeError(f"worker {world.rank} has found a checkpoint of epoch {done}, the first one of {first}")


def _check_shareable(run: "TrainingRun") -> None:
    from pipeline.train.distributed import check_shareable

    try:
        check_shareable(run.model)
    except ValueError as error:
        raise UserError(f"model.name: {error}") from None


def _history_in(folder: Path) -> History:
    history: History = json.loads((folder / HISTORY).read_text())
    return history

"""Retraining runs from their newest checkpoints to their last epoch, as a worker on any node executes them: one, or
several seeds as a stack.
"""

import json
from collections.abc import Callable, Mapping, Sequence
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
"""A file beside a checkpoint: the seconds of training, the resources that each epoch used, and the nodes.

It is no part of the checkpoint, so that the same model has the same files wherever it was trained.
"""

ROLE = "train+val"
"""The role on which networks are retrained."""


class History(TypedDict):
    """Content of `HISTORY`.

    Attributes:
        seconds: Seconds of training.
        parts: A row for every start of the run: the epoch after which it started, and the node.
        usage: A row for every epoch that was measured: its number, its seconds, and the resources used.
    """

    seconds: float
    parts: list[dict[str, object]]
    usage: NotRequired[list[dict[str, Any]]]


@dataclass(frozen=True)
class RetrainJob:
    """One retraining run.

    Attributes:
        arm: "best" or the control's name.
        seed: Seed of the run.
        params: All parameters, as plain values.
        values: The arm's configuration, by dotted path.
        prepared: Folder of the prepared set.
        split: File of the split.
        threads: Number of torch's threads.
        folder: Folder in which the finished run is stored.
        weights: Pretrained weights of the search, by specification.
        checkpoints: Store of checkpoints during training; None before a runtime is open.
        bundle: The data to be located on the worker's node; None if they are at the paths above.
        fold: Number of the fold that the run leaves out; 0 for all images.
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
        """Name of the run in its part of the procedure."""
        return f"{self.arm}-seed{self.seed}"

    @property
    def model_folder(self) -> str:
        """Folder of the run's weights, below models/."""
        return str(part_folder(Path(), self.fold) / self.name)


def retrain_one(job: RetrainJob, world: RankInfo | None = None) -> None:
    """Trains one arm with one seed from its newest checkpoint; the last checkpoint's sidecar holds the curves by epoch.

    Args:
        job: The run.
        world: Rank of this worker, the first of which writes the checkpoints; None for a run in one worker.

    Raises:
        UserError: The training loss is no longer finite, memory does not suffice, or several workers cannot train it.
    """
    from pipeline.assembly import build_run

    params, data, weights = open_run(job)
    run = build_run(params, data, seed=job.seed, scaled_by=ROLE, weights=weights)
    if world is not None:
        _check_shareable(run)
    try:
        _train(job, params, run, data, world)
    except Diverged as error:
        said = _diverged(job, error)
        if world is None or job.checkpoints is None:
            raise UserError(said) from None
        job.checkpoints.note_failure(said)  # every worker diverges alike, so starting them again would not help
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        gpus = params.retrain.gpus_per_run or 0.0
        advice = out_of_memory_advice(
            params.train.config(), device=data.device, gpus=gpus, share="retrain.gpus_per_run"
        )
        raise UserError(f"retraining {job.name}: out of memory. {advice}") from None


def retrain_together(jobs: Sequence[RetrainJob]) -> str | None:
    """Trains one arm with several seeds as a stack, each run from its newest checkpoint.

    Each run has checkpoints of its own. Runs that cannot be stacked are trained one after the other.

    Args:
        jobs: The runs; they differ in their seeds alone.

    Returns:
        Why they were trained one after the other; None if they were stacked.

    Raises:
        UserError: The loss of a run is no longer finite; the other runs have been trained first. Or memory does not
            suffice for a single run.
    """
    if len(jobs) == 1:
        retrain_one(jobs[0])
        return None
    from pipeline.train.stacked.stack_speed import try_stack

    said = try_stack(partial(_train_stack, jobs), len(jobs))
    if said is not None:
        for job in jobs:
            retrain_one(job)
    return said


def seconds_in(folder: Path) -> float:
    """Returns the seconds of training of the run to which a checkpoint belongs."""
    return _history_in(folder)["seconds"]


def usage_in(folder: Path) -> list[tuple[int, float, dict[str, float]]]:
    """Returns the number, the seconds and the resource usage of each measured epoch of a checkpoint's run."""
    return [(row["epoch"], row["seconds"], row["usage"]) for row in _history_in(folder).get("usage", [])]


def open_run(job: RetrainJob) -> "tuple[Params, TrainingData, Mapping[str, Weights]]":
    """Returns a run's parameters, its data on the device, and its pretrained weights on this node.

    Args:
        job: The run.
    """
    import torch

    from pipeline.assembly import load_data

    torch.set_num_threads(job.threads)
    params = Params.model_validate(job.params).with_values(job.values, where=job.name)
    found = locate_data(job.prepared, job.split, job.weights, job.bundle)
    return params, load_data(found.prepared, found.split, params.base.device), found.weights


def _diverged(job: RetrainJob, error: Diverged) -> str:
    """Returns the message that a run diverged.

    Args:
        job: The run.
        error: The error of its training.
    """
    return (
        f"retraining {job.name}: {error}. With the configuration that the search found, training is barely stable; "
        "lower train.lr, or set train.clip_grad, and run again."
    )


def _train_stack(jobs: Sequence[RetrainJob]) -> None:
    """Trains runs together to their last epoch. Runs whose newest checkpoints are of different epochs are several
    stacks.

    Args:
        jobs: The runs.

    Raises:
        CannotStack: The runs cannot be trained together.
        UserError: A run diverged.
    """
    from pipeline.assembly import build_run, train_stacked_resumable

    params, data, weights = open_run(jobs[0])
    by_epoch: dict[int, list[_Recorded]] = {}
    for job in jobs:
        run = build_run(params, data, seed=job.seed, scaled_by=ROLE, weights=weights)
        recorded = _Recorded(job, run, params.train.epochs)
        by_epoch.setdefault(recorded.done, []).append(recorded)
    said = None
    for done, members in by_epoch.items():
        if done >= params.train.epochs:
            continue
        resume = [each.resume for each in members if each.resume is not None]
        diverged = train_stacked_resumable(
            [each.run for each in members],
            params,
            data,
            [each.on_epoch for each in members],
            seeds=[each.job.seed for each in members],
            resume=resume or None,
            role=ROLE,
        )
        for index, error in diverged.items():
            said = said or _diverged(members[index].job, error)
    if said is not None:
        raise UserError(said)


def _train(job: RetrainJob, params: Params, run: "TrainingRun", data: "TrainingData", world: RankInfo | None) -> None:
    """Trains the run to its last epoch, with checkpoints and their history.

    Args:
        job: The run.
        params: Parameters with the arm's configuration.
        run: Network, regularisers and training.
        data: The prepared set with its split, on the device.
        world: Rank of this worker; None for a run in one worker.
    """
    from pipeline.assembly import train_resumable

    recorded = _Recorded(job, run, params.train.epochs, world)
    if recorded.done >= params.train.epochs:
        return
    train_resumable(
        run,
        params,
        data,
        recorded.on_epoch,
        seed=job.seed,
        resume=recorded.resume,
        last_with_state=False,
        role=ROLE,
        world=world,
    )


class _Recorded:
    """A run that begins at its newest checkpoint, with its curves and its history.

    Args:
        job: The run.
        run: Its network, which gets the checkpoint's weights, and its regularisers.
        epochs: Epochs of the whole run.
        world: Rank of this worker; None for a run in one worker.

    Attributes:
        done: Epochs that are done.
        resume: Training state to resume from; None to begin, or if all epochs are done.
    """

    def __init__(self, job: RetrainJob, run: "TrainingRun", epochs: int, world: RankInfo | None = None) -> None:
        from pipeline.assembly import load_resume_state

        assert job.checkpoints is not None
        self.job, self.run, self._store = job, run, job.checkpoints
        self._writes = world is None or world.rank == 0
        self._curves: list[dict[str, float]] = []
        self._history: History = {"seconds": 0.0, "parts": []}
        self.resume: TrainState | None = None
        with self._store.newest() as (self.done, folder):
            _broadcast(self.done, world)
            if folder is not None and self.done < epochs:
                self.resume = load_resume_state(run, folder)
                self._curves, self._history = read_sidecar(folder)["curves"], _history_in(folder)
        self._history["parts"].append({"after": self.done, "node": driver_among_nodes()})

    def on_epoch(self, epoch: Epoch, due: bool, _: Callable[[], None]) -> "WriteCheckpoint | None":
        """Records an epoch, and returns the function that writes its checkpoint; None if none is due.

        Args:
            epoch: The epoch.
            due: Whether a checkpoint is due.
        """
        own = {name: value for name, value in epoch.metrics.items() if name != "seconds"}
        self._curves.append({"epoch": epoch.number, **own})
        self._history["seconds"] += epoch.metrics["seconds"]
        if epoch.usage:
            measured = {"epoch": epoch.number, "seconds": epoch.metrics["seconds"], "usage": dict(epoch.usage)}
            self._history.setdefault("usage", []).append(measured)
        if not due or not self._writes:
            return None
        said: Sidecar = {
            **self.run.sidecar,
            "arm": self.job.arm,
            "values": dict(self.job.values),
            "trained_on": ROLE,
            "curves": list(self._curves),
        }
        return partial(_save_checkpoint, self._store, epoch.number, said, json.dumps(self._history))


def _save_checkpoint(
    store: CheckpointStore,
    epoch: int,
    sidecar: Sidecar,
    history: str,
    weights: "nn.Module | Mapping[str, Tensor]",
    state: TrainState | None,
) -> None:
    """Writes a checkpoint and its history.

    Args:
        store: Checkpoints of the run.
        epoch: Number of the last epoch trained, from 1.
        sidecar: The checkpoint's sidecar.
        history: The history, as JSON.
        weights: The network, or its tensors by name.
        state: Training state; None for the last checkpoint.
    """
    with store.write(epoch) as folder:
        (folder / HISTORY).write_text(history + "\n")
        write_checkpoint(folder, weights, sidecar, state=state)


def _broadcast(done: int, world: RankInfo | None) -> None:
    """Checks that all workers resume from the same checkpoint.

    From different checkpoints, they would train different networks.

    Raises:
        RuntimeError: A worker has found another checkpoint than the first worker; all are then started again.
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

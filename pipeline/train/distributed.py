"""One network trained by several workers, so that every step is that of a single worker on the whole batch.

Each worker is a process of torch's default process group, which whoever starts them has made. torch's
DistributedDataParallel averages the gradients over the workers, in the last micro-batch of a batch alone. A worker
counts by its share of the images (`pipeline.train.rank_info`), so unequal shares give the mean over the whole batch all
the same. A method that divides by another count than that of images asks for it by `Regularizer.global_count`.

Equal but for rounding are losses, gradients and monitors. What is drawn inside the network (stochastic depth, dropout)
and by relative localisation is drawn by each worker for its own images: by the same law, but other values.
"""

import inspect
from contextlib import nullcontext
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.train.objective import Objective, StepLoss
from pipeline.train.rank_info import BatchShard, RankInfo


class SharedObjective:
    """An `Objective` whose gradients are those of all workers' images together.

    Takes the weights of rank 0. Every worker makes it, and runs every micro-batch of every batch, at the same time.

    Raises:
        ValueError: the network normalises by the batch, of which a worker sees a part.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        check_shareable(model)
        self._objective = objective
        # Methods that are at weight 0 for an epoch leave what they train without a gradient, as a single worker does.
        unused = any(True for _ in objective.trainable.parameters())
        step: Any = _Step(model, objective)
        self._step = DistributedDataParallel(step, find_unused_parameters=unused, **_buffers_left_alone())
        self._shard: BatchShard | None = None
        self._micro_batch = 0

    @property
    def trainable(self) -> nn.ModuleDict:
        """As `Objective.trainable`."""
        return self._objective.trainable

    def begin(self, shard: BatchShard) -> None:
        """The next steps are the micro-batches of this shard of a batch."""
        self._shard, self._micro_batch = shard, 0

    def step(self, inputs: Tensor, labels: Tensor, epoch: int, masks: Tensor | None = None) -> StepLoss:
        """As `Objective.step`, of this worker's part of the next micro-batch."""
        assert self._shard is not None
        own, whole = self._shard.sizes[self._micro_batch], self._shard.wholes[self._micro_batch]
        self._micro_batch += 1
        self._objective.count_over_workers(lambda counts: _total_of(counts, own, whole), unit=own / whole or 1.0)
        try:
            with nullcontext() if self._micro_batch == len(self._shard.sizes) else self._step.no_sync():
                total, logits, monitors = self._step(inputs, labels, epoch, masks)
        finally:
            self._objective.count_over_workers(None)
        return StepLoss(total, logits, monitors)


def total(values: Tensor) -> Tensor:
    """The sum of all workers' values, which are left as they are."""
    summed = values.clone()
    dist.all_reduce(summed)
    return summed


def broadcast_from_rank0(value: Any) -> Any:
    """What rank 0 says; the others' own values are not looked at."""
    said = [value]
    dist.broadcast_object_list(said)
    return said[0]


def streams_of(world: RankInfo | None) -> tuple[int, ...]:
    """What makes a worker's random streams its own; nothing for the first one, or a single one."""
    return (world.rank,) if world is not None and world.rank else ()


def check_shareable(model: nn.Module) -> None:
    """Refuse a network that several workers cannot train as one does.

    Raises:
        ValueError: it has batch normalisation.
    """
    found = next(
        (type(part).__name__ for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)), None
    )
    if found is not None:
        raise ValueError(
            f"{type(model).__name__} has {found}, which normalises by the batch, and each of several workers sees only "
            "a part of it; set retrain.workers_per_run to 1, or take a network with layer normalisation"
        )


class _Step(nn.Module):
    """A step of an objective as a module, which is what DistributedDataParallel takes; all that is trained is below."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.trainable = model, objective.trainable
        self._objective = objective

    def forward(
        self, inputs: Tensor, labels: Tensor, epoch: int, masks: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        loss = self._objective.step(inputs, labels, epoch, masks)
        return loss.total, loss.logits, dict(loss.monitors)


def _buffers_left_alone() -> dict[str, Any]:
    """Buffers are the same constants everywhere; torch has renamed the setting."""
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


def _total_of(counts: Tensor, own: int, whole: int) -> Tensor:
    """All workers' counts, times this one's share of the images: by it the worker's loss is weighted afterwards.

    One that only stands in has nothing to count, and divides by what there is, since its loss is weighted by 0.
    """
    # In float64: times a share, a count is no whole number, and float32 would round it before anything is divided.
    return total(counts.double() * float(own > 0)) * (own / whole or 1.0)

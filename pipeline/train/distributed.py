"""Training of one network by several workers, in which every step equals that of a single worker on the whole batch.

Each worker is a process of torch's default process group, which exists before this module is used. torch's
DistributedDataParallel averages the gradients over the workers, only in the last micro-batch of a batch. A worker is
weighted by its share of the images (`pipeline.train.rank_info`), so unequal shares also give the mean over the whole
batch. A method that divides by something other than a number of images reads `Regularizer.global_count`.

Losses, gradients and monitors are equal but for rounding. Each worker draws random numbers for its own images
inside the network (stochastic depth, dropout) and in relative localisation. These have the same distribution
as a single worker's, but other values.
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

    Every worker receives the weights of rank 0. Every worker constructs it, and runs every micro-batch of
    every batch, at the same time.

    Args:
        model: the network.
        objective: this worker's objective.

    Raises:
        ValueError: the network normalises by the batch, of which a worker sees only a part.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        check_shareable(model)
        self._objective = objective
        # A method with weight 0 in an epoch leaves its trainable parameters without a gradient, as on a single worker.
        unused = any(True for _ in objective.trainable.parameters())
        step: Any = _Step(model, objective)
        self._step = DistributedDataParallel(step, find_unused_parameters=unused, **_buffers_left_alone())
        self._shard: BatchShard | None = None
        self._micro_batch = 0

    @property
    def trainable(self) -> nn.ModuleDict:
        """The modules of `Objective.trainable`."""
        return self._objective.trainable

    def begin(self, shard: BatchShard) -> None:
        """Sets the batch whose micro-batches the next steps are."""
        self._shard, self._micro_batch = shard, 0

    def step(self, inputs: Tensor, labels: Tensor, epoch: int, masks: Tensor | None = None) -> StepLoss:
        """Runs `Objective.step` on this worker's part of the next micro-batch.

        Args:
            inputs: (B, C, H, W).
            labels: (B,) int64, or (B, K) shares.
            epoch: counted from 0.
            masks: (B, H, W); None: no method needs masks.
        """
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
    """Returns the sum of all workers' values; `values` itself is not changed."""
    summed = values.clone()
    dist.all_reduce(summed)
    return summed


def broadcast_from_rank0(value: Any) -> Any:
    """Broadcasts rank 0's value to every rank, and returns it.

    Args:
        value: any value that can be pickled; ignored on other ranks.
    """
    said = [value]
    dist.broadcast_object_list(said)
    return said[0]


def streams_of(world: RankInfo | None) -> tuple[int, ...]:
    """Returns the numbers that make a worker's random streams its own; () for rank 0 and for a single worker."""
    return (world.rank,) if world is not None and world.rank else ()


def check_shareable(model: nn.Module) -> None:
    """Checks that several workers can train a network as one does.

    Args:
        model: the network.

    Raises:
        ValueError: the network has batch normalisation.
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
    """A step of an objective as a module for DistributedDataParallel, with all trained modules as its children."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.trainable = model, objective.trainable
        self._objective = objective

    def forward(
        self, inputs: Tensor, labels: Tensor, epoch: int, masks: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Returns the total loss, the logits and the monitors of `Objective.step`.

        Args:
            inputs: (B, C, H, W).
            labels: (B,) int64, or (B, K) shares.
            epoch: counted from 0.
            masks: (B, H, W); None: no method needs masks.
        """
        loss = self._objective.step(inputs, labels, epoch, masks)
        return loss.total, loss.logits, dict(loss.monitors)


def _buffers_left_alone() -> dict[str, Any]:
    """Returns the keyword argument with which DistributedDataParallel does not broadcast buffers.

    All workers have the same constants as buffers. The argument's name depends on torch's version.
    """
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


def _total_of(counts: Tensor, own: int, whole: int) -> Tensor:
    """Returns the sum of all workers' counts, times this worker's share of the images.

    The worker's loss is later weighted by the same share. A worker without images adds 0 to the sum, and
    divides by the plain sum, since its loss has weight 0.

    Args:
        counts: this worker's counts, any shape.
        own: images of the micro-batch that this worker has.
        whole: images of the micro-batch, all workers together.
    """
    # In float64, since a count times a share is no whole number, and float32 would round it before the division.
    return total(counts.double() * float(own > 0)) * (own / whole or 1.0)

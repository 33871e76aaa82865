"""One step of the optimizer: the forward pass in the recipe's precision, and the backward pass, in micro-batches."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.train.distributed import SharedObjective
from pipeline.train.objective import StepLoss
from pipeline.train.rank_info import BatchShard
from pipeline.train.train_config import TrainConfig


class SteppedObjective(Protocol):
    """An objective of one network, or of a stack of several."""

    @property
    def trainable(self) -> nn.Module:
        """The modules that are trained beside the network."""

    def step(self, inputs: Tensor, labels: Tensor, epoch: int, masks: Tensor | None = None) -> StepLoss:
        """Runs the forward pass of one training batch and returns its loss, as `Objective.step` does.

        Args:
            inputs: images.
            labels: their labels, or shares of classes.
            epoch: counted from 0.
            masks: their masks; None: no method needs masks.
        """


def take_step(
    model: nn.Module,
    objective: SteppedObjective,
    optimizer: Optimizer,
    inputs: Tensor,
    labels: Tensor,
    masks: Tensor | None = None,
    *,
    epoch: int,
    config: TrainConfig,
    shard: BatchShard | None = None,
    clip: Callable[[float], object] | None = None,
    dim: int = 0,
) -> dict[str, Tensor]:
    """Takes one step of the optimizer on one batch, run in `config.accumulate` micro-batches as equal as possible.

    A batch of fewer images than micro-batches is run image by image. A micro-batch's loss is weighted by its share of
    the images, so the gradient of the cross-entropy is that of the whole batch, but for rounding. Random draws inside
    the network (dropout, stochastic depth) are made per micro-batch: with the same distribution, but other values. A
    regulariser's mean over maps that are not empty is taken in each micro-batch. If empty maps are spread unevenly,
    the other maps of a micro-batch with many empty ones weigh more than in the whole batch.

    Args:
        model: the network.
        objective: the objective; a `SharedObjective` needs `shard`.
        optimizer: the optimizer.
        inputs: (B, C, H, W).
        labels: (B,) int64, or (B, K) shares.
        masks: (B, H, W); None: no method needs masks.
        epoch: counted from 0.
        config: the recipe.
        shard: this worker's part of a batch that several workers run, with its own split into micro-batches;
            None: a single worker runs the batch.
        clip: scales the gradients to a largest norm; None: all gradients are scaled together.
        dim: dimension of inputs, labels and masks that counts the images; 1 for a stack, whose members come first.

    Returns:
        The monitors of `Objective.step`, and the accuracy, as means over the batch's images: detached
        scalars, or one value for each member of a stack. With `shard`, they are this worker's terms of these
        means, which add up over the workers.
    """
    if isinstance(objective, SharedObjective):
        assert shard is not None
        objective.begin(shard)
    optimizer.zero_grad(set_to_none=True)
    monitors: dict[str, Tensor] = {}
    micro_batches = min(config.accumulate, labels.shape[dim])
    cut = zip(inputs.tensor_split(micro_batches, dim), labels.tensor_split(micro_batches, dim), strict=True)
    objects: Sequence[Tensor | None] = [None] * micro_batches
    if masks is not None:
        objects = masks.tensor_split(micro_batches, dim)
    for index, (images, answers) in enumerate(cut):
        if shard is None:
            part = weight = answers.shape[dim] / labels.shape[dim]  # 1.0 for a whole batch: no bit of the loss changes
        else:
            part = shard.sizes[index] / shard.images
            weight = part * shard.workers  # the gradients are averaged over the workers afterwards
        with _precision(config, images.device):
            loss = objective.step(images, answers, epoch, objects[index])
        (loss.total * weight).backward()  # type: ignore[no-untyped-call, unused-ignore]
        found = {**loss.monitors, "accuracy": accuracy(loss.logits, answers)}
        terms = torch.stack(list(found.values())).detach().double() * part
        for name, term in zip(found, terms.unbind(), strict=True):
            monitors[name] = monitors[name] + term if name in monitors else term
    if config.clip_grad is not None and clip is not None:
        clip(config.clip_grad)
    elif config.clip_grad is not None:
        nn.utils.clip_grad_norm_([*model.parameters(), *objective.trainable.parameters()], config.clip_grad)
    optimizer.step()
    return monitors


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the share of images whose largest logit is their label's; with shares of classes, the largest share's.

    Args:
        logits: (..., B, K).
        labels: (..., B) int64, or (..., B, K) shares.
    """
    answers = labels.argmax(-1) if labels.is_floating_point() else labels
    return (logits.argmax(-1) == answers).double().mean(-1)


def _precision(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Returns the context that runs the forward pass in the recipe's precision."""
    # bfloat16 has float32's range, so losses need no scaling.
    return torch.autocast(device.type, torch.bfloat16) if config.precision == "bfloat16" else nullcontext()

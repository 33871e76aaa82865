"""One step of the optimizer: the forward pass in the recipe's precision, and the backward pass, in micro-batches."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.train.distributed import SharedObjective
from pipeline.train.objective import Objective
from pipeline.train.rank_info import BatchShard
from pipeline.train.train_config import TrainConfig


def take_step(
    model: nn.Module,
    objective: Objective | SharedObjective,
    optimizer: Optimizer,
    inputs: Tensor,
    labels: Tensor,
    masks: Tensor | None = None,
    *,
    epoch: int,
    config: TrainConfig,
    shard: BatchShard | None = None,
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

    Returns:
        The monitors of `Objective.step`, and the accuracy, as means over the batch's images: detached
        scalars. With `shard`, they are this worker's terms of these means, which add up over the workers.
    """
    if isinstance(objective, SharedObjective):
        assert shard is not None
        objective.begin(shard)
    optimizer.zero_grad(set_to_none=True)
    monitors: dict[str, Tensor] = {}
    micro_batches = min(config.accumulate, len(labels))
    cut = zip(inputs.tensor_split(micro_batches), labels.tensor_split(micro_batches), strict=True)
    objects: Sequence[Tensor | None] = [None] * micro_batches if masks is None else masks.tensor_split(micro_batches)
    for index, (images, answers) in enumerate(cut):
        if shard is None:
            part = weight = len(answers) / len(labels)  # 1.0 for a whole batch, which changes no bit of the loss
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
    if config.clip_grad is not None:
        nn.utils.clip_grad_norm_([*model.parameters(), *objective.trainable.parameters()], config.clip_grad)
    optimizer.step()
    return monitors


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the share of images whose largest logit is their label's; with (B, K) shares, the largest share's."""
    answers = labels.argmax(-1) if labels.is_floating_point() else labels
    return (logits.argmax(-1) == answers).double().mean()


def _precision(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Returns the context that runs the forward pass in the recipe's precision."""
    # bfloat16 has float32's range, so losses need no scaling.
    return torch.autocast(device.type, torch.bfloat16) if config.precision == "bfloat16" else nullcontext()

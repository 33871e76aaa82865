"""One step of the optimizer: a batch run in micro-batches, forward in the recipe's precision and backward."""

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
    """One step of the optimizer on one batch, run in `config.accumulate` micro-batches as equal as can be.

    inputs (B, C, H, W), labels (B,) or shares (B, K), masks (B, H, W) where a method asks for them; a batch of fewer
    images than micro-batches is run image by image.
    epoch: counted from 0. Returns the monitors of `Objective.step`, and accuracy, as means over the batch's images:
    detached scalars.

    A micro-batch's loss counts by its share of the images, so the gradient of the cross-entropy is that of the whole
    batch, but for rounding. What is drawn at random inside the network (dropout, stochastic depth) is drawn micro-batch
    by micro-batch: by the same law, but other values. A regulariser's mean over maps that are not empty is taken in
    each micro-batch, so where empty maps are spread unevenly over the micro-batches, the maps of a micro-batch with
    many of them weigh more than in the whole.

    shard: of a batch that several workers run, what is here; its micro-batches are cut where this cuts them. The
    monitors are then this worker's part of the sums that give the batch's.
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
            part = weight = len(answers) / len(labels)  # 1.0 for a whole batch, which changes no bit of it
        else:
            part = shard.sizes[index] / shard.images
            weight = part * shard.workers  # the mean over workers is taken of their gradients
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
    """Share of images whose largest logit is their label's; of shares (B, K), the label with the largest share."""
    answers = labels.argmax(-1) if labels.is_floating_point() else labels
    return (logits.argmax(-1) == answers).double().mean()


def _precision(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    # bfloat16 has float32's range, so losses need no scaling.
    return torch.autocast(device.type, torch.bfloat16) if config.precision == "bfloat16" else nullcontext()

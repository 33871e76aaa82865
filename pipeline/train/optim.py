"""Optimizers and learning-rate schedules of timm."""

from collections.abc import Iterator
from typing import Any

from timm.optim import (  # type: ignore[attr-defined]
    create_optimizer_v2,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.poly_lr import PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.step_lr import StepLRScheduler
from torch import nn
from torch.optim import Optimizer

from pipeline.models.architecture import list_classifiers
from pipeline.train.train_config import TrainConfig

FUSED = ("adamw", "sgd")
"""Names in timm of torch's own optimizers, which have a fused step on CPUs and on CUDA; the others are timm's."""


def make_optimizer(model: nn.Module, config: TrainConfig, *, beside: nn.Module | None = None) -> Optimizer:
    """Returns the recipe's optimizer over a network's parameters, with timm's own options except for rate and decay.

    Biases, norms and the parameters that the network itself lists are not decayed. Frozen parameters are in no group.

    With `layer_decay` d, the parameters are in timm's groups: layer i of L has the rate lr d^(L - 1 - i).
    Layer 0 is everything before the first block, each block is one layer, and the classifier is the last one
    (Clark et al., ELECTRA, arXiv 2003.10555; Bao et al., BEiT, arXiv 2106.08254). Modules that are trained
    beside the network have the rate lr.

    Args:
        model: the network.
        config: the recipe.
        beside: modules that are trained beside the network, such as parts of regularisers, decayed by the
            same rule; None: none.
    """
    # A fused step is one kernel for all weights, in place of several for each.
    fused: dict[str, Any] = {"fused": True} if config.optimizer in FUSED else {}
    optimizer = create_optimizer_v2(
        list(_groups(model, config)), opt=config.optimizer, lr=config.lr, weight_decay=0.0, **fused
    )
    for group in param_groups_weight_decay(beside, config.weight_decay) if beside is not None else ():
        optimizer.add_param_group(group)
    return optimizer


def make_schedule(optimizer: Optimizer, config: TrainConfig, steps_per_epoch: int) -> Scheduler:
    """Returns the learning-rate schedule: a linear warm-up, then the recipe's schedule.

    It is advanced by `step_update(step)`, steps counted from 0. The warm-up begins at `warmup_lr`, or, if
    that is None, at one step's share of `lr`. The recipe's schedule covers the steps after the warm-up: a
    cosine or a line from `lr` to `min_lr`, or `lr` throughout.

    Args:
        optimizer: the optimizer whose rate is set.
        config: the recipe.
        steps_per_epoch: steps in an epoch.

    Raises:
        ValueError: an unknown schedule.
    """
    warmup = min(config.warmup_epochs, config.epochs) * steps_per_epoch
    length = max(1, config.epochs * steps_per_epoch - warmup)
    shared: dict[str, Any] = {
        "warmup_t": warmup,
        "warmup_lr_init": config.lr / (warmup + 1) if config.warmup_lr is None else config.warmup_lr,
        "warmup_prefix": True,
        "t_in_epochs": False,
    }
    if config.scheduler == "cosine":
        return CosineLRScheduler(optimizer, t_initial=length, lr_min=config.min_lr, **shared)
    if config.scheduler == "linear":
        return PolyLRScheduler(optimizer, t_initial=length, lr_min=config.min_lr, power=1.0, **shared)
    if config.scheduler == "constant":
        return StepLRScheduler(optimizer, decay_t=length, decay_rate=1.0, **shared)
    raise ValueError(f"unknown schedule of the learning rate {config.scheduler!r}; known: cosine, linear, constant")


def learning_rate(optimizer: Optimizer) -> float:
    """Returns the learning rate that the schedule has set, before a group's own scale."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) / float(group.get("lr_scale", 1.0))


def _groups(model: nn.Module, config: TrainConfig) -> Iterator[dict[str, Any]]:
    """Yields timm's parameter groups.

    If the classifier has a learning rate of its own, groups that contain its parameters are split in two.
    """
    named: Any = getattr(model, "no_weight_decay", set)
    shared: dict[str, Any] = {"weight_decay": config.weight_decay, "no_weight_decay_list": named()}
    if config.layer_decay == 1:
        groups = param_groups_weight_decay(model, **shared)
    else:
        groups = param_groups_layer_decay(model, **shared, layer_decay=config.layer_decay)
    if config.classifier_lr_scale == 1:
        yield from groups
        return
    own = {id(weight) for classifier in list_classifiers(model) for weight in classifier.parameters()}
    for group in groups:
        scale = group.get("lr_scale", 1.0)
        for of_classifier, factor in ((False, scale), (True, scale * config.classifier_lr_scale)):
            if weights := [each for each in group["params"] if (id(each) in own) == of_classifier]:
                yield {**group, "params": weights, "lr_scale": factor}

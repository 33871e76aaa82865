"""The optimizer and the learning-rate schedule, both timm's."""

from typing import Any

from timm.optim import create_optimizer_v2, param_groups_weight_decay  # type: ignore[attr-defined]
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.poly_lr import PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.step_lr import StepLRScheduler
from torch import nn
from torch.optim import Optimizer

from pipeline.train.train_config import TrainConfig

FUSED = ("adamw", "sgd")
"""torch's own, by timm's names, which have a fused step on CPUs and on CUDA; the others are timm's."""


def make_optimizer(model: nn.Module, config: TrainConfig, *, beside: nn.Module | None = None) -> Optimizer:
    """The recipe's optimizer over a network's parameters, with timm's own settings but for rate and decay.

    Biases, norms and what the network names itself stay out of weight decay. beside: what else is trained, such as the
    trainable parts of regularisers; decayed by the same rule.
    """
    # One kernel for all weights where torch has one, in place of several for each of them.
    fused: dict[str, Any] = {"fused": True} if config.optimizer in FUSED else {}
    optimizer = create_optimizer_v2(
        model, opt=config.optimizer, lr=config.lr, weight_decay=config.weight_decay, **fused
    )
    for group in param_groups_weight_decay(beside, config.weight_decay) if beside is not None else ():
        optimizer.add_param_group(group)
    return optimizer


def make_schedule(optimizer: Optimizer, config: TrainConfig, steps_per_epoch: int) -> Scheduler:
    """Linear warm-up, then the recipe's schedule; advanced by `step_update(step)`, steps counted from 0.

    The warm-up begins at `warmup_lr`, or, where that is None, at one step's share of `lr`. What follows is laid over
    the steps that the warm-up leaves: a cosine or a line from `lr` to `min_lr`, or `lr` throughout.

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

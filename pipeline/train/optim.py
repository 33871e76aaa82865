"""AdamW and its learning-rate schedule, both timm's."""

from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn
from torch.optim import Optimizer

from pipeline.train.settings import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """AdamW over a network's parameters; biases, norms and what the network names itself stay out of weight decay."""
    return create_optimizer_v2(model, opt="adamw", lr=config.lr, weight_decay=config.weight_decay)


def make_schedule(optimizer: Optimizer, config: TrainConfig, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up from near 0, then a cosine to `min_lr`; advanced by `step_update(step)`, steps counted from 0."""
    warmup = min(config.warmup_epochs, config.epochs) * steps_per_epoch
    return CosineLRScheduler(
        optimizer,
        t_initial=max(1, config.epochs * steps_per_epoch - warmup),
        lr_min=config.min_lr,
        warmup_t=warmup,
        warmup_lr_init=config.lr / (warmup + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )

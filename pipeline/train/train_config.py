"""Inputs of this room as plain frozen values, importable without torch."""

from collections.abc import Mapping
from dataclasses import dataclass

MAX_MICRO_BATCHES = 64
"""The most micro-batches of a batch."""


@dataclass(frozen=True)
class TrainConfig:
    """The recipe.

    Attributes:
        epochs: planned length; every schedule covers it.
        batch_size: images of a step.
        lr: peak learning rate.
        min_lr: last learning rate.
        warmup_epochs: epochs of linear warm-up.
        weight_decay: decay of all weights but biases and norms.
        label_smoothing: label smoothing of the cross-entropy.
        clip_grad: largest gradient norm; None: no clipping.
        accumulate: micro-batches of a batch, run one after another, so that only one micro-batch's
            activations are in memory.
        optimizer: timm's name.
        scheduler: "cosine", "linear" or "constant", after the warm-up.
        warmup_lr: first learning rate of the warm-up; None: one step's share of `lr`.
        mixup: alpha of the beta distribution that mixup's shares are drawn from; 0: no mixup.
        cutmix: the same of CutMix; 0: no CutMix.
        mixup_prob: probability that a batch is mixed.
        mixup_switch: probability of CutMix if both are on.
        augment: "none", "light" or "deit".
        flip: whether the augmentation mirrors images.
        erasing: probability that an image loses a rectangle.
        ema_decay: decay of the averaged weights; 0: no average.
        precision: "float32" or "bfloat16", of forward passes in training.
        grad_checkpointing: whether activations are computed again in the backward pass.
        compile: "auto", "always" or "never", of training's passes (`pipeline.train.compilation`).
        workers: processes that decode the images of an encoded set ahead; 0: threads, or for a GPU a process for
            each core but one. The result does not depend on it.
        class_weights: weights of the cross-entropy by class name, "balanced", or None
            (`pipeline.train.class_weights`).
        sampling: "shuffle", every image once an epoch, or "balanced", with replacement and all classes equally often.
        layer_decay: ratio of a layer's learning rate to that of the layer after it; 1: equal rates.
        classifier_lr_scale: factor of the classifier's learning rate.
    """

    epochs: int
    batch_size: int
    lr: float
    min_lr: float
    warmup_epochs: int
    weight_decay: float
    label_smoothing: float
    clip_grad: float | None
    accumulate: int = 1
    optimizer: str = "adamw"
    scheduler: str = "cosine"
    warmup_lr: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch: float = 0.5
    augment: str = "none"
    flip: bool = True
    erasing: float = 0.0
    ema_decay: float = 0.0
    precision: str = "float32"
    grad_checkpointing: bool = False
    compile: str = "auto"
    workers: int = 0
    class_weights: Mapping[str, float] | str | None = None
    sampling: str = "shuffle"
    layer_decay: float = 1.0
    classifier_lr_scale: float = 1.0

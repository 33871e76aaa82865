"""What this room takes: plain frozen values, importable without torch."""

from collections.abc import Mapping
from dataclasses import dataclass

MAX_MICRO_BATCHES = 64
"""A batch is run in at most so many micro-batches."""


@dataclass(frozen=True)
class TrainConfig:
    """The recipe.

    epochs: planned length, over which every schedule is laid. batch_size: images a step. lr, min_lr: peak and last
    learning rate. warmup_epochs: epochs of linear warm-up, from warmup_lr; None: from one step's share of lr.
    weight_decay: not on biases and norms. label_smoothing: of the cross-entropy. clip_grad: largest gradient norm,
    None for no clipping. accumulate: micro-batches that a batch is run in, one after the other, so that the activations
    of one micro-batch at a time are held. optimizer: timm's name. scheduler: cosine, linear or constant, after the
    warm-up. layer_decay: factor of the learning rate from a layer to the one before it, 1 for none.
    classifier_lr_scale: of the classifier's learning rate.

    mixup, cutmix: alpha of the beta distribution that shares are drawn from, 0 for none; mixup_prob: of a batch to be
    mixed at all; mixup_switch: of cutmix where both are on. augment: none, light or deit; flip: whether it mirrors.
    erasing: probability of an image to lose a rectangle. ema_decay: of the averaged weights, 0 for none. precision:
    float32 or bfloat16, of forward passes in training. grad_checkpointing: compute activations again going backward.
    compile: auto, always or never, of training's passes; see `pipeline.train.compilation`.
    workers: processes that decode the images of an encoded set ahead, 0 for threads; they change no number.

    class_weights: of the cross-entropy, by class name, "balanced", or None; see
    `pipeline.train.class_weights`.
    sampling: shuffle, every image once an epoch, or balanced, with replacement and all classes equally often.
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

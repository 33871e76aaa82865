"""What this room takes: plain frozen values, importable without torch."""

from dataclasses import dataclass

MOST_PIECES = 64
"""A batch is run in at most so many pieces."""


@dataclass(frozen=True)
class TrainConfig:
    """The recipe.

    epochs: planned length, over which every schedule is laid. batch_size: images a step. lr, min_lr: peak and last
    learning rate of AdamW. warmup_epochs: epochs of linear warm-up. weight_decay: decoupled, not on biases and norms.
    label_smoothing: of the cross-entropy. clip_grad: largest gradient norm, None for no clipping. accumulate: pieces
    that a batch is run in, one after the other, so that the activations of one piece at a time are held.
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

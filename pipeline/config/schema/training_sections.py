"""Sections of params.yaml about one training run: the network and the recipe."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.schema.section import PathText, Section
from pipeline.models.model_config import ModelConfig, SpatialPriorConfig
from pipeline.train.train_config import MAX_MICRO_BATCHES, TrainConfig


class SpatialPriorParams(Section):
    blocks: int = Field(
        0, ge=0, le=1000, description="First blocks whose attention has a learned spatial prior (SP-ViT); 0: none."
    )
    hidden: int | None = Field(
        None, ge=1, le=100_000, description="Width of the prior's MLP of a head; null: the channels of a head."
    )
    positional_conv: bool = Field(
        False,
        description="A depthwise 3 x 3 convolution after every block, as in SP-ViT's code; with 0 blocks, the "
        "convolutions alone.",
    )

    def config(self) -> SpatialPriorConfig:
        return SpatialPriorConfig(**self.model_dump())


class ModelParams(Section):
    name: str = Field(
        "vit_tiny_patch16_224", min_length=1, description="A Vision Transformer, Swin or PVTv2 of timm, by name."
    )
    kwargs: dict[str, bool | int | float | str | list[int] | None] = Field(
        {"patch_size": 2, "embed_dim": 64, "depth": 4, "num_heads": 4},
        description="Keyword arguments that override the named network's own (patch_size, embed_dim, depth, ...).",
    )
    init: Literal["xavier", "timm"] = Field(
        "xavier", description="xavier learns small sets in few epochs; timm keeps timm's own."
    )
    drop_path: float = Field(0.0, ge=0, lt=1, description="Stochastic depth rate of the last block.")
    last_block: Literal["standard", "no_skip"] = Field(
        "standard", description="no_skip: no residual around the last block's attention, as in SAR's own runs."
    )
    spatial_prior: SpatialPriorParams = SpatialPriorParams()
    freeze: Annotated[int, Field(ge=0, le=1000)] | Literal["all"] = Field(
        0,
        description="Blocks, counted from the input, that stay as they are, with patch embedding, position embeddings "
        "and prefix tokens; all: everything but the classifier; 0: nothing.",
    )
    pretrained: PathText | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Weights that the network begins from: a timm name, a checkpoint's folder, a .safetensors or .pth "
        "file (a relative path starts at the checkout), or models:/name@alias; null: fresh ones.",
    )

    def config(self) -> ModelConfig:
        """What the network is, and no more: its checkpoints do without what it began from and what was frozen."""
        return ModelConfig(
            name=self.name,
            kwargs=dict(self.kwargs),
            init=self.init,
            drop_path=self.drop_path,
            last_block=self.last_block,
            spatial_prior=self.spatial_prior.config(),
        )


class TrainParams(Section):
    epochs: int = Field(8, ge=1, le=100_000, description="Planned epochs of a full run; schedules are laid over them.")
    batch_size: int = Field(32, ge=1, le=1_000_000, description="Images a step.")
    lr: float = Field(2e-3, gt=0, le=10, description="Peak learning rate.")
    min_lr: float = Field(0.0, ge=0, le=10, description="Learning rate that the schedule ends at.")
    warmup_epochs: int = Field(1, ge=0, le=100_000, description="Epochs of linear learning-rate warm-up.")
    warmup_lr: float | None = Field(
        None, ge=0, le=10, description="Learning rate of the first warm-up step; null: one step's share of lr."
    )
    scheduler: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Schedule of the learning rate after the warm-up: to min_lr, or lr throughout."
    )
    optimizer: Literal["adamw", "nadamw", "lamb", "lion", "sgd"] = Field(
        "adamw", description="timm's optimizer of that name, with timm's own defaults; sgd has Nesterov momentum 0.9."
    )
    weight_decay: float = Field(
        0.3, ge=0, le=10, description="Weight decay, decoupled in adamw, nadamw and lion; not on biases and norms."
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Factor of the learning rate from a block to the one before it (layer-wise decay): the classifier "
        "has lr, and the earlier a block, the lower its rate; 1: all have lr.",
    )
    classifier_lr_scale: float = Field(
        1.0, gt=0, le=1000, description="The classifier's learning rate, as a multiple of lr."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing of the cross-entropy.")
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0, le=1_000_000)]] | None = Field(
        None,
        description="What the classes weigh in the training loss; balanced: each as much as the others, however few "
        "its images are; a mapping: of class names to weights, 1 for those that it does not name; null: all alike.",
    )
    sampling: Literal["shuffle", "balanced"] = Field(
        "shuffle",
        description="Images of an epoch; shuffle: each of them once; balanced: as many, but with replacement, so that "
        "every class comes equally often.",
    )
    clip_grad: float | None = Field(None, gt=0, description="Largest norm of the gradient; null: not clipped.")
    accumulate: int = Field(
        1,
        ge=1,
        le=MAX_MICRO_BATCHES,
        description="Micro-batches that a batch is run in, whose gradients add up to its own: more take less memory "
        "and more time, and the optimizer's steps stay those of the whole batch.",
    )
    mixup: float = Field(
        0.0, ge=0, le=100, description="Mixup's alpha: batches are blended with their mirror order; 0: none."
    )
    cutmix: float = Field(
        0.0, ge=0, le=100, description="CutMix's alpha: a rectangle comes from another image of the batch; 0: none."
    )
    mixup_prob: float = Field(1.0, gt=0, le=1, description="Probability that a batch is mixed, where either is on.")
    mixup_switch: float = Field(
        0.5, ge=0, le=1, description="Probability of CutMix in a mixed batch, where both are on."
    )
    augment: Literal["none", "light", "deit"] = Field(
        "none",
        description="Of training images; light: shifted by up to an eighth of the side; deit: resized crops and "
        "RandAugment as in DeiT; both mirrored at random where flip is on.",
    )
    flip: bool = Field(
        True, description="Whether augment mirrors images; false where a mirror image is another thing, as with digits."
    )
    erasing: float = Field(
        0.0, ge=0, le=1, description="Probability that a rectangle of a training image is replaced by noise."
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="Decay of averaged weights, which are then scored and kept; 0: no average."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of forward passes in training, by autocast; scoring and regularisers stay in float32."
    )
    grad_checkpointing: bool = Field(
        False, description="Compute activations again going backward: less memory, more time, the same gradients."
    )
    compile: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Training's passes by torch.compile; auto: on CUDA, in runs of 2000 steps or more, and never with "
        "grad_checkpointing.",
    )
    workers: int = Field(
        0,
        ge=0,
        le=256,
        description="Processes of a run that decode images ahead, where the set is kept as JPEGs; 0: threads do it.",
    )

    def config(self) -> TrainConfig:
        return TrainConfig(**self.model_dump())

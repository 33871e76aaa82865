"""Sections of params.yaml about one training run: the network and the recipe."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.schema.section import PathText, Section
from pipeline.models.model_config import ModelConfig, SpatialPriorConfig
from pipeline.train.train_config import MAX_MICRO_BATCHES, TrainConfig


class SpatialPriorParams(Section):
    blocks: int = Field(
        0,
        ge=0,
        le=1000,
        description="Number of first blocks whose attention has a learned spatial prior (SP-ViT); 0: none.",
    )
    hidden: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Hidden width of the MLP that computes a head's prior; null: the channels of a head.",
    )
    positional_conv: bool = Field(
        False,
        description="Whether a depthwise 3 x 3 convolution follows every block, as in SP-ViT's code; with 0 blocks, "
        "the network has the convolutions alone.",
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
        "xavier", description="Initialisation; xavier: learns small sets in few epochs; timm: timm's own."
    )
    drop_path: float = Field(0.0, ge=0, lt=1, description="Stochastic depth rate of the last block.")
    last_block: Literal["standard", "no_skip"] = Field(
        "standard",
        description="Form of the last block; no_skip: without the residual around its attention, as in SAR's own runs.",
    )
    spatial_prior: SpatialPriorParams = SpatialPriorParams()
    freeze: Annotated[int, Field(ge=0, le=1000)] | Literal["all"] = Field(
        0,
        description="Number of frozen blocks, counted from the input; patch embedding, position embeddings and "
        "prefix tokens are frozen with them; all: everything but the classifier; 0: nothing.",
    )
    pretrained: PathText | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Weights with which training begins: a timm name, a checkpoint's folder, a .safetensors or .pth "
        "file (a relative path starts at the checkout), or models:/name@alias; null: random weights.",
    )

    def config(self) -> ModelConfig:
        """Returns the network's configuration, without pretrained weights and frozen blocks, which no checkpoint
        needs.
        """
        return ModelConfig(
            name=self.name,
            kwargs=dict(self.kwargs),
            init=self.init,
            drop_path=self.drop_path,
            last_block=self.last_block,
            spatial_prior=self.spatial_prior.config(),
        )


class TrainParams(Section):
    epochs: int = Field(8, ge=1, le=100_000, description="Planned epochs of a full run; schedules span them.")
    batch_size: int = Field(32, ge=1, le=1_000_000, description="Number of images in a step.")
    lr: float = Field(2e-3, gt=0, le=10, description="Peak learning rate.")
    min_lr: float = Field(0.0, ge=0, le=10, description="Learning rate at the end of the schedule.")
    warmup_epochs: int = Field(1, ge=0, le=100_000, description="Epochs of linear learning-rate warm-up.")
    warmup_lr: float | None = Field(
        None, ge=0, le=10, description="Learning rate of the first warm-up step; null: one step's share of lr."
    )
    scheduler: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Schedule of the learning rate after the warm-up: to min_lr, or lr throughout."
    )
    optimizer: Literal["adamw", "nadamw", "lamb", "lion", "sgd"] = Field(
        "adamw", description="timm's optimizer of this name, with timm's defaults; sgd has Nesterov momentum 0.9."
    )
    weight_decay: float = Field(
        0.3, ge=0, le=10, description="Weight decay, decoupled in adamw, nadamw and lion; biases and norms have none."
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Factor by which the learning rate falls from a block to the block before it (layer-wise decay). "
        "The classifier has lr; 1: all blocks have lr.",
    )
    classifier_lr_scale: float = Field(
        1.0, gt=0, le=1000, description="The classifier's learning rate, as a multiple of lr."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing of the cross-entropy.")
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0, le=1_000_000)]] | None = Field(
        None,
        description="Weights of the classes in the training loss; balanced: each class counts the same in total, "
        "however few images it has; a mapping: from class names to weights, 1 for classes that it does "
        "not name; null: all 1.",
    )
    sampling: Literal["shuffle", "balanced"] = Field(
        "shuffle",
        description="Images of an epoch; shuffle: each once; balanced: as many, drawn with replacement, so that "
        "every class is equally frequent.",
    )
    clip_grad: float | None = Field(None, gt=0, description="Largest norm of the gradient; null: not clipped.")
    accumulate: int = Field(
        1,
        ge=1,
        le=MAX_MICRO_BATCHES,
        description="Number of micro-batches in which a batch is run, with gradients accumulated. More of them take "
        "less memory and more time; the optimizer's steps remain those of the whole batch.",
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Mixup's alpha: each batch is blended with itself in reversed order; 0: none.",
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        le=100,
        description="CutMix's alpha: a rectangle of an image is replaced by that of another image of the batch; 0: "
        "none.",
    )
    mixup_prob: float = Field(
        1.0, gt=0, le=1, description="Probability that a batch is mixed, if mixup or cutmix is on."
    )
    mixup_switch: float = Field(0.5, ge=0, le=1, description="Probability of CutMix in a mixed batch, if both are on.")
    augment: Literal["none", "light", "deit"] = Field(
        "none",
        description="Augmentation of training images; light: shifts by up to an eighth of the side; deit: resized "
        "crops and RandAugment as in DeiT. Both mirror images at random if flip is on.",
    )
    flip: bool = Field(
        True,
        description="Whether augment mirrors images; set it to false if a mirror image means something else, as with "
        "digits.",
    )
    erasing: float = Field(
        0.0, ge=0, le=1, description="Probability that a rectangle of a training image is replaced by noise."
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="Decay of the averaged weights, which are then scored and stored; 0: no average."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Precision of forward passes in training, by autocast; scoring and regularisers always use "
        "float32.",
    )
    grad_checkpointing: bool = Field(
        False,
        description="Whether activations are computed again in the backward pass: less memory, more time, the same "
        "gradients.",
    )
    compile: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Whether training is compiled by torch.compile; auto: on CUDA, if timed steps show that it "
        "shortens the run. Never with grad_checkpointing.",
    )
    workers: int = Field(
        0,
        ge=0,
        le=256,
        description="Number of processes of a run that decode images ahead, if the set is stored as JPEGs; 0: "
        "threads decode them, for a GPU a process for each core but one.",
    )

    def config(self) -> TrainConfig:
        return TrainConfig(**self.model_dump())

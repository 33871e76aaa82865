"""The batches that a run trains on: augmented and mixed as the recipe says, decided by seed and epoch alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.mixup import Mixup
from torch import Tensor, nn

from pipeline.data.augment.augment import Augmentation
from pipeline.data.augment.rng import MIXING, isolated_rng
from pipeline.data.batches.batches import ImageBatches
from pipeline.data.prepared.prepared import UNDECIDED
from pipeline.regularizers.base import Regularizer
from pipeline.train.class_weights import BALANCED
from pipeline.train.rank_info import BatchShard
from pipeline.train.train_config import TrainConfig


class TrainLoader:
    """Training batches, epoch by epoch.

    model: says how many classes there are. seed: of the order, of the augmentation and of the mixing. shares: of every
    batch of an epoch, what this one of several workers runs; None for all of it. masks: whether each image's mask comes
    with it.

    Raises:
        ValueError: the recipe asks for what these images or this network cannot have.
    """

    def __init__(
        self,
        images: ImageBatches,
        config: TrainConfig,
        *,
        model: nn.Module,
        seed: int,
        shares: Sequence[BatchShard] | None = None,
        masks: bool = False,
    ) -> None:
        self._images, self._config, self._seed, self._shares, self._masks = images, config, seed, shares, masks
        self._augmentation = make_augmentation(config, channels=images.channels)
        self._mixer = make_mixer(config, model)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, or as balanced sampling draws them: inputs (B, C, H, W), and labels (B,) int64 or, where
        batches are mixed, shares (B, K).

        epoch: counted from 0. The shares have the label smoothing in them.
        """
        for inputs, labels, _ in self.with_masks(epoch):
            yield inputs, labels

    def with_masks(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """The batches of `epoch`, each with its masks (B, H, W) where the loader was made with them.

        A mask has of every pixel how much of it is object, 0 to 1, NaN where that is not decided. It is moved as its
        image is, and mixed as that is: CutMix pastes masks too; mixup blends them, and what is undecided in either of
        two images is undecided in the blend.
        """
        draw: Any = self._images.shuffled_with_masks if self._masks else self._images.shuffled
        batches = draw(
            self._config.batch_size,
            seed=self._seed,
            epoch=epoch,
            augmentation=self._augmentation,
            workers=self._config.workers,
            part=None if self._shares is None else self._rows,
            balanced=self._config.sampling == BALANCED,
        )
        for step, (inputs, labels, *found) in enumerate(batches):
            masks = object_shares(found[0]) if found else None
            if self._mixer is None:
                yield inputs, labels, masks
                continue
            with isolated_rng() as seed:
                if masks is not None:
                    seed(self._seed, epoch, MIXING, step)  # for the same draws as the images'
                    masks = mix(self._mixer, masks.unsqueeze(1), labels)[0].squeeze(1)
                seed(self._seed, epoch, MIXING, step)
                inputs, labels = mix(self._mixer, inputs, labels)
            own = slice(None) if self._shares is None else slice(len(self._shares[step].rows))
            yield inputs[own], labels[own], None if masks is None else masks[own]

    def _rows(self, step: int) -> NDArray[np.int64]:
        """The rows of this worker's share; where batches are mixed, and after them, those they are mixed with, in the
        mirror order: what is drawn is for the batch, so they are mixed as they would be in the whole of it.
        """
        assert self._shares is not None
        shard = self._shares[step]
        if self._mixer is None:
            return shard.rows
        return np.concatenate([shard.rows, (shard.images - 1 - shard.rows)[::-1]])


def check_masks(methods: Mapping[str, Regularizer], images: ImageBatches) -> None:
    """Refuse a method that is told where objects are, where the images' set has no masks.

    Raises:
        ValueError: as said; begins with `regularizer.` and the method's name.
    """
    for name, method in methods.items():
        if method.active and method.needs.masks and not images.has_masks:
            raise ValueError(f"regularizer.{name}: needs masks or boxes of the images, and this set has none")


def object_shares(masks: Tensor) -> Tensor:
    """Masks (..., H, W) uint8 as of a prepared set, as how much of every pixel is object: float32, NaN: undecided."""
    return masks.float().masked_fill_(masks == UNDECIDED, math.nan)


def make_augmentation(config: TrainConfig, *, channels: int) -> Augmentation | None:
    """What the recipe does to each image of so many channels; None where it is nothing.

    Raises:
        ValueError: the augmentation is not for such images.
    """
    if config.augment == "none" and config.erasing == 0.0:
        return None
    augmentation = Augmentation(config.augment, config.flip, config.erasing)
    augmentation.check(channels)
    return augmentation


def make_mixer(config: TrainConfig, model: nn.Module) -> Mixup | None:
    """timm's mixup and CutMix with the recipe's settings, one choice a batch as in DeiT; None where both are off.

    (Zhang et al., arXiv 1710.09412; Yun et al., arXiv 1905.04899.)

    Raises:
        ValueError: the network does not say how many classes it has, or no batch has two images.
    """
    if not (config.mixup or config.cutmix):
        return None
    if config.batch_size < 2:
        raise ValueError("train.mixup and train.cutmix mix the images of a batch: set train.batch_size to 2 or more")
    classes = getattr(model, "num_classes", None)
    if not isinstance(classes, int):
        raise ValueError(f"train.mixup and train.cutmix need the number of classes, which {type(model).__name__} lacks")
    return Mixup(  # type: ignore[no-untyped-call]
        mixup_alpha=config.mixup,
        cutmix_alpha=config.cutmix,
        prob=config.mixup_prob,
        switch_prob=config.mixup_switch,
        mode="batch",
        label_smoothing=config.label_smoothing,
        num_classes=classes,
    )


def mix(mixer: Mixup, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mix a batch of any size with its mirror order: inputs (B, C, H, W), which may be overwritten, labels (B,).

    Returns inputs and shares (B, K). timm takes even batches only. An odd one gets its middle image twice, so that
    this one meets itself and all others meet the image that they would; the copy is then taken out again.
    """
    count = len(labels)
    if count % 2 == 0:
        mixed, shares = mixer(inputs, labels)
        return mixed, shares
    middle = count // 2
    twice = torch.arange(count + 1, device=labels.device)
    twice[middle + 1 :] -= 1
    mixed, shares = mixer(inputs[twice], labels[twice])
    once = torch.arange(count, device=labels.device)
    once[middle + 1 :] += 1
    return mixed[once], shares[once]

"""Training batches, augmented and mixed as the recipe says; seed and epoch alone determine them."""

import math
from collections.abc import Iterator, Mapping, Sequence

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

    Args:
        images: the training images.
        config: the recipe.
        model: the network; its number of classes is read.
        seed: seed of the order, the augmentation and the mixing.
        shares: this worker's part of every batch of an epoch; None: a single worker takes whole batches.
        masks: whether each image comes with its mask.

    Raises:
        ValueError: the recipe asks for something that these images or this network do not support.
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
        """Yields the batches of an epoch, counted from 0: inputs (B, C, H, W) and labels.

        Labels are (B,) int64 or, if batches are mixed, shares (B, K), which include the label smoothing.
        Every image comes once, or as often as balanced sampling draws it.
        """
        for inputs, labels, _ in self.with_masks(epoch):
            yield inputs, labels

    def with_masks(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yields the batches of `epoch`, each with its masks (B, H, W), or None if the loader was made without masks.

        A mask holds the share of each pixel that is object, 0 to 1, and NaN if that is undecided. It is moved
        and mixed like its image. CutMix pastes masks too. Mixup blends them, and a pixel that is undecided in
        either image is undecided in the blend.
        """
        batches = self._images.shuffled(
            self._config.batch_size,
            seed=self._seed,
            epoch=epoch,
            augmentation=self._augmentation,
            workers=self._config.workers,
            part=None if self._shares is None else self._rows,
            balanced=self._config.sampling == BALANCED,
            masks=self._masks,
        )
        for step, (inputs, labels, *found) in enumerate(batches):
            masks = object_shares(found[0]) if found else None
            if self._mixer is None:
                yield inputs, labels, masks
                continue
            with isolated_rng() as seed:
                if masks is not None:
                    seed(self._seed, epoch, MIXING, step)  # so that masks and images are mixed by the same draws
                    masks = mix(self._mixer, masks.unsqueeze(1), labels)[0].squeeze(1)
                seed(self._seed, epoch, MIXING, step)
                inputs, labels = mix(self._mixer, inputs, labels)
            own = slice(None) if self._shares is None else slice(len(self._shares[step].rows))
            yield inputs[own], labels[own], None if masks is None else masks[own]

    def _rows(self, step: int) -> NDArray[np.int64]:
        """Returns the rows of the batch that this worker loads.

        These are the rows of its share. If batches are mixed, the rows that they are mixed with follow, in
        mirror order. Random draws are made for the whole batch, so the worker's images are mixed as they
        would be in the whole batch.
        """
        assert self._shares is not None
        shard = self._shares[step]
        if self._mixer is None:
            return shard.rows
        return np.concatenate([shard.rows, (shard.images - 1 - shard.rows)[::-1]])


def check_masks(methods: Mapping[str, Regularizer], images: ImageBatches) -> None:
    """Checks that the images have masks if a method needs them.

    Raises:
        ValueError: a method needs masks and the set has none. The message begins with `regularizer.` and the
            method's name.
    """
    for name, method in methods.items():
        if method.active and method.needs.masks and not images.has_masks:
            raise ValueError(f"regularizer.{name}: needs masks or boxes of the images, and this set has none")


def object_shares(masks: Tensor) -> Tensor:
    """Returns the share of each pixel that is object, float32, of masks (..., H, W) uint8 of a prepared set;
    NaN: undecided.
    """
    return masks.float().masked_fill_(masks == UNDECIDED, math.nan)


def make_augmentation(config: TrainConfig, *, channels: int) -> Augmentation | None:
    """Returns the augmentation that the recipe asks for, or None if it asks for none.

    Args:
        config: the recipe.
        channels: channels of the images.

    Raises:
        ValueError: the augmentation does not support images of so many channels.
    """
    if config.augment == "none" and config.erasing == 0.0:
        return None
    augmentation = Augmentation(config.augment, config.flip, config.erasing)
    augmentation.check(channels)
    return augmentation


def make_mixer(config: TrainConfig, model: nn.Module) -> Mixup | None:
    """Returns timm's mixup and CutMix with the recipe's parameters, or None if both are off.

    One of the two is chosen per batch, as in DeiT. (Zhang et al., arXiv 1710.09412; Yun et al., arXiv 1905.04899.)

    Args:
        config: the recipe.
        model: the network; its number of classes is read.

    Raises:
        ValueError: the network does not state its number of classes, or no batch has two images.
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
    """Mixes a batch of any size with its mirror order.

    timm accepts even batches only. In an odd batch the middle image is therefore duplicated, so that it meets
    itself and every other image meets its usual partner. The duplicate is removed afterwards.

    Args:
        mixer: timm's mixer.
        inputs: (B, C, H, W); may be overwritten.
        labels: (B,) int64.

    Returns:
        The mixed inputs (B, C, H, W), and the shares of the classes (B, K).
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

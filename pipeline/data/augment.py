"""Augmentation of training images, with timm's own operations.

    light   shifted by up to an eighth of the side, the border reflected; mirrored with probability 1/2
    deit    a crop of 8 to 100 % of the area resized (bicubic), mirrored with probability 1/2, then RandAugment
            m9-mstd0.5-inc1, which in timm takes the place of the colour jitter of 0.4
    erasing a rectangle of 2 to 33 % of the area becomes normal noise, after standardisation

(Touvron et al., Training Data-Efficient Image Transformers, arXiv 2012.12877, in the settings of its code, which SAR's
uses too; light is ours.) What is drawn for an image depends on seed, epoch and its id alone: neither on the batch that
it is in nor on the device. Shapes: B images, H x W pixels, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import transforms_imagenet_train
from torch import Tensor

from pipeline.data.streams import ERASING, PIXELS, SHIFTS, borrowed_streams

KINDS = ("none", "light", "deit")
RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
COLOUR_JITTER = 0.4


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images. kind: of `KINDS`. flip: whether it mirrors. erasing: a probability.

    Raises:
        ValueError: another kind.
    """

    kind: str = "none"
    flip: bool = True
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown augmentation {self.kind!r}; known: {', '.join(KINDS)}")

    def check(self, channels: int) -> None:
        """Refuse images that it is not for.

        Raises:
            ValueError: the operations on colour are for images of 1 or 3 channels.
        """
        if self.kind == "deit" and channels not in (1, 3):
            raise ValueError(f"train.augment deit is for images of 1 or 3 channels, not {channels}; take light or none")


class EpochAugmenter:
    """An augmentation with the draws of one epoch.

    mean: of the standardisation, by channel; what RandAugment moves in from outside of an image has that colour.
    images: one more than the largest id.
    """

    def __init__(
        self, augmentation: Augmentation, mean: Sequence[float], *, images: int, seed: int, epoch: int
    ) -> None:
        self._augmentation = augmentation
        self._mean = mean
        self._images = images
        self._stream = seed, epoch

    def change(self, pixels: Tensor, ids: NDArray[np.int64]) -> Tensor:
        """Augmented pixels (B, C, H, W) uint8, on the device that they came from."""
        if self._augmentation.kind == "light":
            return self._shifted(pixels, ids)
        if self._augmentation.kind == "deit":
            return self._transformed(pixels, ids)
        return pixels

    def erase(self, inputs: Tensor, ids: NDArray[np.int64]) -> Tensor:
        """Standardised images (B, C, H, W), erased in place."""
        if self._augmentation.erasing == 0.0:
            return inputs
        # The noise is drawn on the CPU, so that it is the same on every device.
        erase: Any = RandomErasing(  # type: ignore[no-untyped-call]
            self._augmentation.erasing, mode="pixel", device="cpu"
        )
        with borrowed_streams() as seed:
            for image, name in zip(inputs, ids.tolist(), strict=True):
                seed(*self._stream, ERASING, name)
                erase(image)
        return inputs

    def _shifted(self, pixels: Tensor, ids: NDArray[np.int64]) -> Tensor:
        drawn = torch.from_numpy(self._draws[ids]).to(pixels.device)
        rows, columns = (_reflected(drawn[:, axis], pixels.shape[2 + axis]) for axis in (0, 1))
        if self._augmentation.flip:
            columns = torch.where(drawn[:, 2:] < 0.5, columns.flip(1), columns)
        batch = torch.arange(len(pixels), device=pixels.device)[:, None, None]
        # Indices around a slice put the channels last.
        return pixels[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()

    @cached_property
    def _draws(self) -> NDArray[np.float32]:
        # A row an id: rows are filled in order, so an image's does not depend on how many there are.
        drawn = np.random.default_rng([*self._stream, SHIFTS]).random((self._images, 3), dtype=np.float32)
        return drawn

    def _transformed(self, pixels: Tensor, ids: NDArray[np.int64]) -> Tensor:
        channels, *sides = pixels.shape[1:]
        shown = pixels.permute(0, 2, 3, 1).cpu().numpy()
        made = np.empty_like(shown)
        operations = deit_operations((sides[0], sides[1]), self._mean, flip=self._augmentation.flip)
        with borrowed_streams() as seed:
            for index, name in enumerate(ids.tolist()):
                seed(*self._stream, PIXELS, name)
                # Operations on colour know three channels; those of a grey image stay equal to each other.
                image = Image.fromarray(np.broadcast_to(shown[index], (*sides, 3)).copy())
                for operation in operations:
                    image = operation(image)
                made[index] = np.asarray(image)[..., :channels]
        return torch.from_numpy(made).permute(0, 3, 1, 2).contiguous().to(pixels.device)


def _reflected(drawn: Tensor, side: int) -> Tensor:
    """Which pixel of `side` each of an image shifted by -reach .. reach shows, (B, side), from draws (B,) in 0 .. 1."""
    reach = max(1, side // 8)
    shift = (drawn * (2 * reach + 1)).long().clamp_(max=2 * reach) - reach
    index = (torch.arange(side, device=drawn.device) + shift[:, None]).abs()
    return (side - 1) - ((side - 1) - index).abs()


def deit_operations(sides: tuple[int, int], mean: Sequence[float], *, flip: bool) -> list[Any]:
    """timm's operations on a picture, one after the other, up to but not including its conversion to a tensor.

    sides: (H, W). mean: of the set by channel, 0 .. 1. Every operation takes and gives an RGB picture of PIL, and draws
    from the global streams.
    """
    crop, colour, _ = transforms_imagenet_train(
        sides,
        hflip=0.5 if flip else 0.0,
        color_jitter=COLOUR_JITTER,
        auto_augment=RAND_AUGMENT,
        interpolation="bicubic",
        mean=tuple(mean) * (1 if len(mean) == 3 else 3),
        separate=True,
    )
    operations: list[Any] = [*crop.transforms, *colour.transforms]
    for operation in operations[-1].ops:
        if operation.name == "PosterizeIncreasing":
            # At its largest magnitude of 10 timm asks for colours of 0 bits, which Pillow refuses; below, for 1 bit.
            operation.magnitude_max = 9.99
    return operations

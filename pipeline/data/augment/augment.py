"""Augmentation of training images, whole batches at a time, with draws of its own for every image.

    light   shifted by up to an eighth of the side, the border reflected; mirrored with probability 1/2
    deit    a crop of 8 to 100 % of the area resized (bicubic), mirrored with probability 1/2, then RandAugment
            m9-mstd0.5-inc1, which in timm takes the place of the colour jitter of 0.4
    erasing a rectangle of 2 to 33 % of the area becomes normal noise, after standardisation

(Touvron et al., Training Data-Efficient Image Transformers, arXiv 2012.12877, in the settings of its code, which SAR's
uses too; light is ours.) What is drawn for an image depends on seed, epoch and its id alone: neither on the batch that
it is in nor on the device. On a GPU `light` is done by torch, there; `deit` is done by kernels on the CPU, for whatever
device. Shapes: B images, H x W pixels, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from pipeline.data.augment.rand_augment import DRAWS, Operations, draw_operations
from pipeline.data.augment.rng import ERASING, PIXELS, SHIFTS, isolated_rng, uniform_draws

KINDS = ("none", "light", "deit")


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
            images = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
            return self.transformed(images, np.arange(len(ids)), ids).to(pixels.device)
        return pixels

    @property
    def on_host(self) -> bool:
        """Whether it is done on the CPU, whatever device trains."""
        return self._augmentation.kind == "deit"

    def transformed(self, images: NDArray[np.uint8], rows: NDArray[np.int64], ids: NDArray[np.int64]) -> Tensor:
        """What `change` makes of images, for what is done `on_host`, (B, C, H, W) uint8 on the CPU.

        images: (N, H, W, C) uint8, of which `rows` (B,) have the ids.
        """
        # Who does not augment need not wait for numba.
        from pipeline.data.augment.pixel_kernels import augment_batch

        made = augment_batch(images, rows, self._changes(ids, (images.shape[1], images.shape[2])), self._fill)
        return torch.from_numpy(made).permute(0, 3, 1, 2).contiguous()

    @property
    def moves(self) -> bool:
        """Whether it takes pixels from one place to another, and does nothing else to them."""
        return self._augmentation.kind == "light"

    def moved(
        self,
        images: NDArray[np.uint8],
        rows: NDArray[np.int64],
        ids: NDArray[np.int64],
        levels: NDArray[np.float32],
    ) -> Tensor:
        """What `change` and standardisation make of images, in one pass on the CPU; for what `moves`.

        images: (N, H, W, C) uint8, of which `rows` (B,) have the ids. levels (C, 256): what each grey level becomes.
        Returns (B, C, H, W) float32, bit for bit what the two would give.
        """
        from pipeline.data.augment.crop_kernels import shift_and_normalise  # here for the same reason

        down, across = self._shifts(ids, (images.shape[1], images.shape[2]), torch.device("cpu"))
        return torch.from_numpy(shift_and_normalise(images, rows, down.numpy(), across.numpy(), levels))

    def masks(self, masks: NDArray[np.uint8], rows: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Masks (N, H, W) uint8, of which `rows` (B,) have the ids, moved as their images are: (B, H, W).

        By the nearest pixel; what comes from outside is undecided (255). Erasing leaves masks as they are.
        """
        if self._augmentation.kind == "light":
            down, across = self._shifts(ids, (masks.shape[1], masks.shape[2]), torch.device("cpu"))
            return np.asarray(masks[rows[:, None, None], down.numpy()[:, :, None], across.numpy()[:, None, :]])
        if self._augmentation.kind == "deit":
            from pipeline.data.augment.mask_kernels import shift_masks  # here for the same reason

            return shift_masks(masks, rows, self._changes(ids, (masks.shape[1], masks.shape[2])))
        return np.asarray(masks[rows])

    def erase(self, inputs: Tensor, ids: NDArray[np.int64]) -> Tensor:
        """Standardised images (B, C, H, W), erased in place."""
        if self._augmentation.erasing == 0.0:
            return inputs
        chosen = uniform_draws([*self._stream, ERASING], ids, 1)[:, 0] < self._augmentation.erasing
        # The noise is drawn on the CPU, so that it is the same on every device.
        erase: Any = RandomErasing(1.0, mode="pixel", device="cpu")  # type: ignore[no-untyped-call]
        with isolated_rng() as seed:
            for place in chosen.nonzero()[0].tolist():
                seed(*self._stream, ERASING, int(ids[place]))
                erase(inputs[place])
        return inputs

    def _shifted(self, pixels: Tensor, ids: NDArray[np.int64]) -> Tensor:
        rows, columns = self._shifts(ids, (pixels.shape[2], pixels.shape[3]), pixels.device)
        batch = torch.arange(len(pixels), device=pixels.device)[:, None, None]
        # Indices around a slice put the channels last.
        return pixels[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()

    def _shifts(self, ids: NDArray[np.int64], sides: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Which of its own rows (B, H) and columns (B, W) each image shows."""
        drawn = torch.from_numpy(self._draws[ids]).to(device)
        rows, columns = (_reflected(drawn[:, axis], sides[axis]) for axis in (0, 1))
        if self._augmentation.flip:
            columns = torch.where(drawn[:, 2:] < 0.5, columns.flip(1), columns)
        return rows, columns

    @cached_property
    def _draws(self) -> NDArray[np.float32]:
        # A row an id: rows are filled in order, so an image's does not depend on how many there are.
        drawn = np.random.default_rng([*self._stream, SHIFTS]).random((self._images, 3), dtype=np.float32)
        return drawn

    def _changes(self, ids: NDArray[np.int64], sides: tuple[int, int]) -> Operations:
        drawn = uniform_draws([*self._stream, PIXELS], ids, DRAWS)
        return draw_operations(drawn, sides, flip=self._augmentation.flip)

    @cached_property
    def _fill(self) -> NDArray[np.uint8]:
        mean = tuple(self._mean) * (1 if len(self._mean) == 3 else 3)
        return np.array([min(255, round(255 * each)) for each in mean], dtype=np.uint8)


def _reflected(draws: Tensor, side: int) -> Tensor:
    """Which pixel of `side` each of an image shifted by -reach .. reach shows, (B, side), from draws (B,) in 0 .. 1."""
    reach = min(max(1, side // 8), side - 1)
    shift = (draws * (2 * reach + 1)).long().clamp_(max=2 * reach) - reach
    index = (torch.arange(side, device=draws.device) + shift[:, None]).abs()
    return (side - 1) - ((side - 1) - index).abs()

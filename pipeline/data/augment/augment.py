"""Augmentation of training images in whole batches, with random draws of its own for every image.

    light   shifted by up to an eighth of the side, the border reflected; mirrored with probability 1/2
    deit    a crop of 8 to 100 % of the area resized (bicubic), mirrored with probability 1/2, then RandAugment
            m9-mstd0.5-inc1, which in timm takes the place of the colour jitter of 0.4
    erasing a rectangle of 2 to 33 % of the area becomes normal noise, after standardisation

deit and erasing follow Touvron et al., Training Data-Efficient Image Transformers (arXiv 2012.12877), with
the values of its code, which SAR's code uses, too. light is this project's own.

The draws of an image depend only on seed, epoch and its key: its id, or its place in the epoch if classes are
balanced. They do not depend on the rest of the batch. On every device, `light` and `deit` draw the same.
Rectangles and noise of erasing are timm's on a CPU. On a GPU they come from draws of their own, with the same
distribution: timm draws image by image, on the host.

On a GPU, torch computes `light` there, and Triton's kernels compute `deit`, masks and erasing. Without Triton,
the CPU computes these three. Shapes: B images, H x W pixels, C channels.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from pipeline.compute.transfer import send
from pipeline.data.augment import erasing
from pipeline.data.augment.rand_augment import DRAWS, Operations, draw_operations
from pipeline.data.augment.rng import ERASING, PIXELS, SHIFTS, isolated_rng, uniform_draws

KINDS = ("none", "light", "deit")


@dataclass(frozen=True)
class Augmentation:
    """Augmentation that is applied to training images.

    Attributes:
        kind: One of `KINDS`.
        flip: Whether images are mirrored with probability 1/2.
        erasing: Probability that a rectangle of an image is erased.

    Raises:
        ValueError: If the kind is unknown.
    """

    kind: str = "none"
    flip: bool = True
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown augmentation {self.kind!r}; known: {', '.join(KINDS)}")

    def check(self, channels: int) -> None:
        """Checks that the augmentation supports images of this many channels.

        Raises:
            ValueError: If it does not: operations on colour need 1 or 3 channels.
        """
        if self.kind == "deit" and channels not in (1, 3):
            raise ValueError(f"train.augment deit is for images of 1 or 3 channels, not {channels}; take light or none")


class EpochAugmenter:
    """Augmentation with the random draws of one epoch.

    Args:
        augmentation: The kind and its options.
        mean: Mean by channel of the standardisation, in 0 .. 1. Areas that RandAugment moves in from outside
            get this colour.
        images: One more than the largest key.
        seed: Seed of the training run.
        epoch: Number of the epoch.
    """

    def __init__(
        self, augmentation: Augmentation, mean: Sequence[float], *, images: int, seed: int, epoch: int
    ) -> None:
        self._augmentation = augmentation
        self._mean = mean
        self._images = images
        self._stream = seed, epoch

    def change(self, pixels: Tensor, ids: NDArray[np.int64]) -> Tensor:
        """Returns augmented pixels (B, C, H, W) uint8, on the device of the input.

        Args:
            pixels: (B, C, H, W) uint8.
            ids: Keys of the images (B,), from which their draws follow.
        """
        if self._augmentation.kind == "light":
            return self._shifted(pixels, ids)
        if self._augmentation.kind == "deit":
            if has_kernels(pixels.device):
                # Imported here, because they import triton.
                from pipeline.data.augment.deit_triton import triton_deit
                from pipeline.data.augment.resize_triton import packed

                changes = self._changes(ids, (pixels.shape[2], pixels.shape[3]))
                return triton_deit(pixels, send(packed(changes), pixels.device), tuple(self._fill.tolist()))
            images = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
            return self.transformed(images, np.arange(len(ids)), ids).to(pixels.device)
        return pixels

    def on_host(self, device: torch.device) -> bool:
        """Returns whether the CPU computes the augmentation for a device, rather than the device itself."""
        return self._augmentation.kind == "deit" and not has_kernels(device)

    def transformed(self, images: NDArray[np.uint8], rows: NDArray[np.int64], ids: NDArray[np.int64]) -> Tensor:
        """Returns the same images as `change`, for an augmentation that is computed `on_host`.

        Args:
            images: (N, H, W, C) uint8, of which only some rows are read.
            rows: Rows of the batch in `images` (B,).
            ids: Keys of the images (B,), from which their draws follow.

        Returns:
            (B, C, H, W) uint8 on the CPU.
        """
        # Imported here, so that numba is loaded only if images are augmented.
        from pipeline.data.augment.pixel_kernels import augment_batch

        made = augment_batch(images, rows, self._changes(ids, (images.shape[1], images.shape[2])), self._fill)
        return torch.from_numpy(made).permute(0, 3, 1, 2).contiguous()

    @property
    def moves(self) -> bool:
        """True if the augmentation only moves pixels and changes no values."""
        return self._augmentation.kind == "light"

    def moved(
        self,
        images: NDArray[np.uint8],
        rows: NDArray[np.int64],
        ids: NDArray[np.int64],
        levels: NDArray[np.float32],
    ) -> Tensor:
        """Returns augmented and standardised images in one pass on the CPU, for an augmentation that `moves`.

        The result equals, bit for bit, `change` followed by standardisation.

        Args:
            images: (N, H, W, C) uint8, of which only some rows are read.
            rows: Rows of the batch in `images` (B,).
            ids: Keys of the images (B,), from which their draws follow.
            levels: Standardised value of every grey level, (C, 256) float32.

        Returns:
            (B, C, H, W) float32.
        """
        from pipeline.data.augment.crop_kernels import shift_and_normalise  # here, because it loads numba

        down, across = self._shifts(ids, (images.shape[1], images.shape[2]), torch.device("cpu"))
        return torch.from_numpy(shift_and_normalise(images, rows, down.numpy(), across.numpy(), levels))

    def masks(self, masks: NDArray[np.uint8], rows: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Returns masks (B, H, W) uint8, moved in the same way as their images.

        The nearest pixel is taken. Areas from outside the image are undecided (255). Erasing does not change
        masks.

        Args:
            masks: (N, H, W) uint8, of which only some rows are read.
            rows: Rows of the batch in `masks` (B,).
            ids: Keys of the images (B,), from which their draws follow.
        """
        if self._augmentation.kind == "light":
            down, across = self._shifts(ids, (masks.shape[1], masks.shape[2]), torch.device("cpu"))
            return np.asarray(masks[rows[:, None, None], down.numpy()[:, :, None], across.numpy()[:, None, :]])
        if self._augmentation.kind == "deit":
            from pipeline.data.augment.mask_kernels import shift_masks  # here, because it loads numba

            return shift_masks(masks, rows, self._changes(ids, (masks.shape[1], masks.shape[2])))
        return np.asarray(masks[rows])

    def moved_masks(self, masks: NDArray[np.uint8], ids: NDArray[np.int64], device: torch.device) -> Tensor:
        """Returns the same masks as `masks`, (B, H, W) uint8, on a device.

        Args:
            masks: Masks of the batch, (B, H, W) uint8.
            ids: Keys of the images (B,), from which their draws follow.
            device: Device of the result, which computes them itself if it has kernels.
        """
        if self._augmentation.kind != "deit" or not has_kernels(device):
            return send(self.masks(masks, np.arange(len(masks)), ids), device)
        # A launch is shorter than the rest of the host's work on a mask, and the host has a step to launch.
        from pipeline.data.augment.mask_triton import mask_places, triton_masks
        from pipeline.data.augment.resize_triton import packed

        sides = masks.shape[1], masks.shape[2]
        changes = self._changes(ids, sides)
        given = (send(each, device) for each in (masks, packed(changes), mask_places(changes, sides)))
        return triton_masks(*given)

    def erase(self, inputs: Tensor, ids: NDArray[np.int64]) -> Tensor:
        """Erases rectangles of standardised images (B, C, H, W) in place, and returns these images.

        Args:
            inputs: (B, C, H, W) float32.
            ids: Keys of the images (B,), from which their draws follow.
        """
        if self._augmentation.erasing == 0.0:
            return inputs
        if has_kernels(inputs.device):
            from pipeline.data.augment.erase_triton import triton_erase  # here, because it imports triton

            drawn = uniform_draws([*self._stream, ERASING], ids, erasing.DRAWS)
            sides = inputs.shape[2], inputs.shape[3]
            rectangles = erasing.draw_rectangles(drawn, self._augmentation.erasing, sides)
            return triton_erase(inputs, send(rectangles, inputs.device))
        chosen = uniform_draws([*self._stream, ERASING], ids, 1)[:, 0] < self._augmentation.erasing
        # Without kernels, the noise is drawn on the CPU, whatever device trains.
        erase: Any = RandomErasing(1.0, mode="pixel", device="cpu")  # type: ignore[no-untyped-call]
        with isolated_rng() as seed:
            for place in chosen.nonzero()[0].tolist():
                seed(*self._stream, ERASING, int(ids[place]))
                erase(inputs[place])
        return inputs

    def _shifted(self, pixels: Tensor, ids: NDArray[np.int64]) -> Tensor:
        rows, columns = self._shifts(ids, (pixels.shape[2], pixels.shape[3]), pixels.device)
        batch = torch.arange(len(pixels), device=pixels.device)[:, None, None]
        # In torch, index tensors on both sides of a slice put the sliced dimension (channels) last.
        return pixels[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()

    def _shifts(self, ids: NDArray[np.int64], sides: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns the row (B, H) and the column (B, W) of the image that is shown at each place of the result.

        Args:
            ids: Keys of the images (B,).
            sides: (H, W) of the images.
            device: Device of the result.
        """
        drawn = send(self._draws[ids], device)
        rows, columns = (_reflected(drawn[:, axis], sides[axis]) for axis in (0, 1))
        if self._augmentation.flip:
            columns = torch.where(drawn[:, 2:] < 0.5, columns.flip(1), columns)
        return rows, columns

    @cached_property
    def _draws(self) -> NDArray[np.float32]:
        # One row per key. Rows are filled in order, so a row does not depend on the number of images.
        drawn = np.random.default_rng([*self._stream, SHIFTS]).random((self._images, 3), dtype=np.float32)
        return drawn

    def _changes(self, ids: NDArray[np.int64], sides: tuple[int, int]) -> Operations:
        drawn = uniform_draws([*self._stream, PIXELS], ids, DRAWS)
        return draw_operations(drawn, sides, flip=self._augmentation.flip)

    @cached_property
    def _fill(self) -> NDArray[np.uint8]:
        mean = tuple(self._mean) * (1 if len(self._mean) == 3 else 3)
        return np.array([min(255, round(255 * each)) for each in mean], dtype=np.uint8)


def has_kernels(device: torch.device) -> bool:
    """Returns whether a device computes `deit` and erasing itself: it is a GPU, and Triton works."""
    return device.type == "cuda" and _triton_works()


@cache
def _triton_works() -> bool:
    try:
        importlib.import_module("triton")
    except (ImportError, OSError):  # it is missing, or one of its libraries is
        return False
    return True


def _reflected(draws: Tensor, side: int) -> Tensor:
    """Returns the pixel index shown at each place of shifted images, (B, side).

    An image is shifted by -reach .. reach pixels, where reach is an eighth of the side. Indices beyond the
    border are reflected.

    Args:
        draws: (B,) in 0 .. 1.
        side: Pixels along this axis.
    """
    reach = min(max(1, side // 8), side - 1)
    shift = (draws * (2 * reach + 1)).long().clamp_(max=2 * reach) - reach
    index = (torch.arange(side, device=draws.device) + shift[:, None]).abs()
    return (side - 1) - ((side - 1) - index).abs()

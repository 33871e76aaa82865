"""Batches of prepared images that live on the training device.

The uint8 images of a role are moved to the device once; each batch is gathered, scaled and standardised there. No
loader processes: they would outlive a trial that the scheduler stops. Shapes: B images, H x W pixels, C channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.augment import Augmentation, EpochAugmenter
from pipeline.data.store import Prepared


@dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation by channel of images scaled to 0 .. 1, as computed on training images."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def standardisation(images: NDArray[np.uint8]) -> Standardisation:
    """By channel over images (N, H, W, C) uint8. A constant channel gets deviation 1."""
    levels = np.arange(256, dtype=np.float64) / 255.0
    mean, std = [], []
    for channel in range(images.shape[-1]):
        # A histogram gives the exact moments without a float copy of the set.
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        centre = float(share @ levels)
        deviation = float(np.sqrt(share @ (levels - centre) ** 2))
        mean.append(centre)
        std.append(deviation if deviation > 1e-6 else 1.0)
    return Standardisation(tuple(mean), tuple(std))


class ImageBatches:
    """The images of one role on a device.

    images: (N, H, W, C) uint8 and labels (N,) int64 in `prepared`, restricted to `ids`.
    """

    def __init__(
        self, prepared: Prepared, ids: Sequence[int] | NDArray[np.int64], scale: Standardisation, device: torch.device
    ) -> None:
        self._ids = np.asarray(ids, dtype=np.int64)
        self._scale = scale
        pixels = torch.from_numpy(np.ascontiguousarray(prepared.images[self._ids]))
        self._pixels = pixels.permute(0, 3, 1, 2).contiguous().to(device)
        self._labels = torch.from_numpy(np.ascontiguousarray(prepared.labels[self._ids])).to(device)
        self._mean = torch.tensor(scale.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(scale.std, device=device).view(1, -1, 1, 1)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self._pixels.shape[1]

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in the order of the ids: inputs (B, C, H, W) float32, labels (B,) int64."""
        for start in range(0, len(self), batch_size):
            yield self._batch(slice(start, start + batch_size))

    def shuffled(
        self, batch_size: int, *, seed: int, epoch: int, augmentation: Augmentation | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in an order that depends on nothing but seed and epoch. The last batch may be smaller.

        augmentation: of the images; its draws depend on seed and epoch too, and on each image's id.
        """
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        augmenter = None
        if augmentation is not None:
            last = int(self._ids.max(initial=-1))
            augmenter = EpochAugmenter(augmentation, self._scale.mean, images=last + 1, seed=seed, epoch=epoch)
        on_device = torch.from_numpy(order).to(self._labels.device)
        for start in range(0, len(self), batch_size):
            index = on_device[start : start + batch_size]
            if augmenter is None:
                yield self._batch(index)
            else:
                yield self._augmented(index, self._ids[order[start : start + batch_size]], augmenter)

    def _batch(self, index: slice | Tensor) -> tuple[Tensor, Tensor]:
        return self._standardised(self._pixels[index]), self._labels[index]

    def _augmented(self, index: Tensor, ids: NDArray[np.int64], augmenter: EpochAugmenter) -> tuple[Tensor, Tensor]:
        inputs = self._standardised(augmenter.change(self._pixels[index], ids))
        return augmenter.erase(inputs, ids), self._labels[index]

    def _standardised(self, pixels: Tensor) -> Tensor:
        return pixels.float().div_(255.0).sub_(self._mean).div_(self._std)

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
        index = np.asarray(ids, dtype=np.int64)
        pixels = torch.from_numpy(np.ascontiguousarray(prepared.images[index]))
        self._pixels = pixels.permute(0, 3, 1, 2).contiguous().to(device)
        self._labels = torch.from_numpy(np.ascontiguousarray(prepared.labels[index])).to(device)
        self._mean = torch.tensor(scale.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(scale.std, device=device).view(1, -1, 1, 1)

    def __len__(self) -> int:
        return len(self._labels)

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in the order of the ids: inputs (B, C, H, W) float32, labels (B,) int64."""
        for start in range(0, len(self), batch_size):
            yield self._batch(slice(start, start + batch_size))

    def shuffled(self, batch_size: int, *, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in an order that depends on nothing but seed and epoch. The last batch may be smaller."""
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(self))).to(self._labels.device)
        for start in range(0, len(self), batch_size):
            yield self._batch(order[start : start + batch_size])

    def _batch(self, index: slice | Tensor) -> tuple[Tensor, Tensor]:
        scaled = self._pixels[index].float().div_(255.0)
        return scaled.sub_(self._mean).div_(self._std), self._labels[index]

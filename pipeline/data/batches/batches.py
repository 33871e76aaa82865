"""Batches of prepared images, made on the device that trains.

A batch's rows are gathered, augmented, scaled and standardised where `pipeline.data.batches.image_store` has them: in
GPU memory, or read from the one copy of the prepared set in a CPU's memory. Only a set that is kept encoded is read by
processes of their own, where they are asked for. Shapes: B images, H x W pixels, C channels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.augment.augment import Augmentation, EpochAugmenter
from pipeline.data.batches.image_store import ImageStore, Source, blocks, indexed_rows
from pipeline.data.prepared.encoded import ImageRows
from pipeline.data.prepared.prepared import Prepared

Part = Callable[[int], NDArray[np.int64]]


@dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation by channel of images scaled to 0 .. 1, as computed on training images."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def standardisation(images: ImageRows, ids: NDArray[np.int64] | None = None) -> Standardisation:
    """By channel over images (N, H, W, C) uint8, or over those of `ids`. A constant channel gets deviation 1."""
    rows = np.arange(len(images)) if ids is None else ids
    counts = np.zeros((images.shape[-1], 256), dtype=np.int64)
    for block in blocks(images, len(rows)):
        pixels = indexed_rows(images, rows[block])
        for channel, count in enumerate(counts):
            # Histograms give the exact moments without a float copy, and in blocks without any copy of the set.
            count += np.bincount(pixels[..., channel].ravel(), minlength=256)
    levels = np.arange(256, dtype=np.float64) / 255.0
    mean, std = [], []
    for count in counts:
        share = count / count.sum()
        centre = float(share @ levels)
        deviation = float(np.sqrt(share @ (levels - centre) ** 2))
        mean.append(centre)
        std.append(deviation if deviation > 1e-6 else 1.0)
    return Standardisation(tuple(mean), tuple(std))


class ImageBatches:
    """The images of one role on a device.

    images: (N, H, W, C) uint8, labels (N,) int64 and any masks (N, H, W) uint8 in `prepared`, restricted to `ids`.

    labels: of its images, (n,) int64. classes: names by label, of the whole set.
    """

    def __init__(
        self, prepared: Prepared, ids: Sequence[int] | NDArray[np.int64], scale: Standardisation, device: torch.device
    ) -> None:
        self._ids = np.asarray(ids, dtype=np.int64)
        self._scale, self._device = scale, device
        self._pixels, self._masks = ImageStore(prepared.images, self._ids, device), prepared.masks
        self.labels: NDArray[np.int64] = np.ascontiguousarray(prepared.labels[self._ids])
        self.classes: tuple[str, ...] = tuple(prepared.manifest.get("classes", ()))
        self._labels = torch.from_numpy(self.labels).to(device)
        self._mean = torch.tensor(scale.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(scale.std, device=device).view(1, -1, 1, 1)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self._pixels.channels

    @property
    def has_masks(self) -> bool:
        """Whether the set has masks, though not every image need have one that says anything."""
        return self._masks is not None

    def in_order(self, batch_size: int, *, workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in the order of the ids: inputs (B, C, H, W) float32, labels (B,) int64.

        workers: processes that decode ahead, where the set is kept encoded; 0: none, but threads.

        Raises:
            UserError: an encoded image is damaged.
        """
        for places, source in self._read(np.arange(len(self)), batch_size, workers):
            yield self._plain(places, source), self._labels[places[0] : places[-1] + 1]

    def shuffled(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        augmentation: Augmentation | None = None,
        workers: int = 0,
        part: Part | None = None,
        balanced: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in an order that depends on nothing but seed and epoch. The last batch may be smaller.

        augmentation: of the images; its draws depend on seed and epoch too, and on each image's id. workers: as for
        `in_order`; they change no bit. part: gives the places wanted of each batch by its number; the others are not
        read. balanced: as many images, but drawn with replacement: each of a class that any class is equally likely to
        be, and any image of that class. One that comes twice in an epoch is augmented twice, each time as its place in
        the epoch says.

        Raises:
            UserError: an encoded image is damaged.
        """
        for _, _, inputs, labels in self._shuffled(batch_size, seed, epoch, augmentation, workers, part, balanced):
            yield inputs, labels

    def shuffled_with_masks(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        augmentation: Augmentation | None = None,
        workers: int = 0,
        part: Part | None = None,
        balanced: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The batches of `shuffled`, each with its masks (B, H, W) uint8 on the device.

        They follow what moves an image, by the nearest pixel: 0 background, 1 object, 255 undecided or from outside.
        Of other images than those of this role no mask is read.

        Raises:
            UserError: an encoded image or mask is damaged.
            ValueError: the set has no masks.
        """
        self._require_masks()
        augmenter = self._augmenter(augmentation or Augmentation(), seed, epoch)
        drawn = self._shuffled(batch_size, seed, epoch, augmentation, workers, part, balanced)
        for places, key, inputs, labels in drawn:
            moved = augmenter.masks(self._masks_at(places), np.arange(len(places)), key)
            yield inputs, labels, torch.from_numpy(moved).to(self._device)

    def masks_in_order(self, batch_size: int) -> Iterator[Tensor]:
        """The masks (B, H, W) uint8 of the batches of `in_order`, on the device.

        Raises:
            UserError: an encoded mask is damaged.
            ValueError: the set has no masks.
        """
        self._require_masks()
        for places in _cut(np.arange(len(self)), batch_size, None):
            yield torch.from_numpy(self._masks_at(places)).to(self._device)

    def _require_masks(self) -> None:
        if self._masks is None:
            raise ValueError("this prepared set has no masks")

    def _masks_at(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        assert self._masks is not None
        return indexed_rows(self._masks, self._ids[places])

    def _shuffled(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        augmentation: Augmentation | None,
        workers: int,
        part: Part | None = None,
        balanced: bool = False,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Tensor, Tensor]]:
        """Of each batch the places of its images, what their augmentation is drawn for, inputs and labels."""
        rng = np.random.default_rng([seed, epoch])
        order = sample_evenly(self.labels, rng) if balanced else rng.permutation(len(self))
        # Where an image comes twice, its id cannot say which of the two is augmented; its place in the epoch can.
        keys = _cut(np.arange(len(self)) if balanced else self._ids[order], batch_size, part)
        augmenter = None if augmentation is None else self._augmenter(augmentation, seed, epoch)
        for (places, source), key in zip(self._read(order, batch_size, workers, part), keys, strict=True):
            if augmenter is None:
                inputs = self._plain(places, source)
            else:
                inputs = augmenter.erase(self._augmented(places, source, augmenter, key), key)
            yield places, key, inputs, self._labels[torch.from_numpy(places).to(self._device)]

    def _augmenter(self, augmentation: Augmentation, seed: int, epoch: int) -> EpochAugmenter:
        last = max(int(self._ids.max(initial=-1)), len(self) - 1)
        return EpochAugmenter(augmentation, self._scale.mean, images=last + 1, seed=seed, epoch=epoch)

    def _read(
        self, order: NDArray[np.int64], batch_size: int, workers: int, part: Part | None = None
    ) -> Iterator[tuple[NDArray[np.int64], Source]]:
        batches = _cut(order, batch_size, part)
        with closing(self._pixels.read(batches, workers=workers)) as sources:
            yield from zip(batches, sources, strict=True)

    def _plain(self, places: NDArray[np.int64], source: Source) -> Tensor:
        return self._standardised(self._channels_first(places, source))

    def _augmented(
        self, places: NDArray[np.int64], source: Source, augmenter: EpochAugmenter, keys: NDArray[np.int64]
    ) -> Tensor:
        if self._device.type == "cpu" and augmenter.moves:
            return augmenter.moved(*source, keys, self._levels)
        if augmenter.on_host:
            return self._standardised(augmenter.transformed(*source, keys).to(self._device))
        return self._standardised(augmenter.change(self._channels_first(places, source), keys))

    @cached_property
    def _levels(self) -> NDArray[np.float32]:
        # By the same operations that standardise a batch, so that its bits are the same.
        grey = torch.arange(256, dtype=torch.uint8, device=self._device).expand(1, self.channels, 1, 256)
        levels: NDArray[np.float32] = self._standardised(grey)[0, :, 0].cpu().numpy()
        return levels

    def _channels_first(self, places: NDArray[np.int64], source: Source) -> Tensor:
        return self._pixels.on_device(places, source).permute(0, 3, 1, 2).contiguous()

    def _standardised(self, pixels: Tensor) -> Tensor:
        return pixels.float().div_(255.0).sub_(self._mean).div_(self._std)


def sample_evenly(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """As many places as there are labels (N,), with replacement: of each a class first, then any image of that class.

    Every class that has an image is equally likely.
    """
    by_class = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    classes = rng.integers(len(sizes), size=len(labels))
    places: NDArray[np.int64] = by_class[starts[classes] + rng.integers(sizes[classes])]
    return places


def _cut(order: NDArray[np.int64], batch_size: int, part: Part | None) -> list[NDArray[np.int64]]:
    """An epoch's order by batches, or what is wanted of each of them."""
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return batches if part is None else [batch[part(number)] for number, batch in enumerate(batches)]

"""Batches of prepared images, made on the device that trains.

The rows of a batch are gathered where `pipeline.data.batches.image_store` stores them: in GPU memory, or in
the one copy of the prepared set in the CPU's memory. There they are augmented, scaled and standardised.
Worker processes are used only for sets that are stored encoded, and only if requested. Shapes: B images, H x
W pixels, C channels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.compute.transfer import send
from pipeline.data.augment.augment import Augmentation, EpochAugmenter
from pipeline.data.batches.image_store import ImageStore, Source, blocks, indexed_rows, on_host
from pipeline.data.prepared.encoded import ImageRows
from pipeline.data.prepared.prepared import Prepared

Part = Callable[[int], NDArray[np.int64]]
"""Function from a batch's number to the places within this batch that are wanted."""


@dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation by channel of images scaled to 0 .. 1, computed on training images."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def standardisation(images: ImageRows, ids: NDArray[np.int64] | None = None) -> Standardisation:
    """Returns mean and standard deviation by channel. A constant channel gets deviation 1.

    Args:
        images: (N, H, W, C) uint8.
        ids: Rows of the images to use; None: all.
    """
    rows = np.arange(len(images)) if ids is None else ids
    counts = np.zeros((images.shape[-1], 256), dtype=np.int64)
    for block in blocks(images, len(rows)):
        pixels = indexed_rows(images, rows[block])
        for channel, count in enumerate(counts):
            # Histograms by blocks give exact moments without a float copy of the set.
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

    Args:
        prepared: The prepared set: images (N, H, W, C) uint8, labels (N,) int64, and masks (N, H, W) uint8 or
            None.
        ids: Rows of the images of this role, (n,).
        scale: Standardisation to apply.
        device: Device of the batches.

    Attributes:
        labels: Labels of this role's images, (n,) int64.
        classes: Names by label, of the whole set.
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
        """True if the set has masks, though masks of single images may be undecided all over."""
        return self._masks is not None

    def in_order(self, batch_size: int, *, workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields every image once, in the order of the ids.

        Args:
            batch_size: Images per batch; the last batch may be smaller.
            workers: Processes that decode ahead if the set is stored encoded, as for `ImageStore.read`.

        Yields:
            Inputs (B, C, H, W) float32, and labels (B,) int64.

        Raises:
            UserError: If an encoded image is damaged.
        """
        for places, source in self._read(np.arange(len(self)), batch_size, workers):
            yield self._standardised(self._channels_first(places, source)), self._labels[places[0] : places[-1] + 1]

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
        masks: bool = False,
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yields every image once, in an order that depends only on seed and epoch.

        Masks are moved in the same way as their images, by the nearest pixel. Only masks of this role's
        images are read.

        Args:
            batch_size: Images per batch; the last batch may be smaller.
            seed: Seed of the training run.
            epoch: Number of the epoch.
            augmentation: Augmentation of the images. Its draws depend on seed, epoch and the image's id.
                None: no augmentation.
            workers: Processes that decode ahead if the set is stored encoded, as for `ImageStore.read`.
                The result is the same with any number.
            part: Returns the wanted places within a batch, given its number; other images are not read. None:
                all.
            balanced: Whether to draw as many images with replacement instead, each from a class that is drawn
                uniformly. An image that is drawn twice is augmented differently each time, by its place in
                the epoch.
            masks: Whether each batch comes with its masks.

        Yields:
            Inputs (B, C, H, W) float32, labels (B,) int64, and with `masks` the masks (B, H, W) uint8 on the
            device: 0 background, 1 object, 255 undecided or from outside the image.

        Raises:
            UserError: If an encoded image or mask is damaged.
            ValueError: If masks are requested and the set has none.
        """
        if masks:
            self._require_masks()
        rng = np.random.default_rng([seed, epoch])
        order = sample_evenly(self.labels, rng) if balanced else rng.permutation(len(self))
        # With replacement, an id may occur twice in an epoch; the place in the epoch is unique.
        keys = _cut(np.arange(len(self)) if balanced else self._ids[order], batch_size, part)
        last = max(int(self._ids.max(initial=-1)), len(self) - 1)
        augmenter = EpochAugmenter(
            augmentation or Augmentation(), self._scale.mean, images=last + 1, seed=seed, epoch=epoch
        )
        upload = not augmenter.on_host(self._device)
        read = self._read(order, batch_size, workers, part, upload=upload)
        for (places, source), key in zip(read, keys, strict=True):
            inputs = augmenter.erase(self._augmented(places, source, augmenter, key), key)
            batch: tuple[Tensor, ...] = inputs, self._labels[send(places, self._device)]
            if masks:
                batch = *batch, augmenter.moved_masks(self._masks_at(places), key, self._device)
            yield batch

    def masks_in_order(self, batch_size: int) -> Iterator[Tensor]:
        """Yields the masks (B, H, W) uint8 of the batches of `in_order`, on the device.

        Raises:
            UserError: If an encoded mask is damaged.
            ValueError: If the set has no masks.
        """
        self._require_masks()
        for places in _cut(np.arange(len(self)), batch_size, None):
            yield send(self._masks_at(places), self._device)

    def _require_masks(self) -> None:
        if self._masks is None:
            raise ValueError("this prepared set has no masks")

    def _masks_at(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        assert self._masks is not None
        return indexed_rows(self._masks, self._ids[places])

    def _read(
        self,
        order: NDArray[np.int64],
        batch_size: int,
        workers: int,
        part: Part | None = None,
        *,
        upload: bool = True,
    ) -> Iterator[tuple[NDArray[np.int64], Source]]:
        """Yields each batch's places in this role, and the source of its pixels.

        Args:
            order: Places of an epoch, (n,).
            batch_size: Images per batch.
            workers: Processes that decode ahead.
            part: As for `shuffled`.
            upload: Whether batches may be sent to a GPU ahead; false if the host augments them.
        """
        batches = _cut(order, batch_size, part)
        with closing(self._pixels.read(batches, workers=workers, upload=upload)) as sources:
            yield from zip(batches, sources, strict=True)

    def _augmented(
        self, places: NDArray[np.int64], source: Source, augmenter: EpochAugmenter, keys: NDArray[np.int64]
    ) -> Tensor:
        """Returns augmented and standardised inputs (B, C, H, W) float32, before erasing.

        Args:
            places: Places of the images in this role, (B,).
            source: Where their pixels are.
            augmenter: Augmentation of the epoch.
            keys: Keys of the images, from which their draws follow, (B,).
        """
        if self._device.type == "cpu" and augmenter.moves:
            return augmenter.moved(*on_host(source), keys, self._levels)
        if augmenter.on_host(self._device):
            transformed = augmenter.transformed(*on_host(source), keys)
            return self._standardised(send(transformed.numpy(), self._device))
        return self._standardised(augmenter.change(self._channels_first(places, source), keys))

    @cached_property
    def _levels(self) -> NDArray[np.float32]:
        # Computed by the operations that standardise a batch, so that results are equal to the bit.
        grey = torch.arange(256, dtype=torch.uint8, device=self._device).expand(1, self.channels, 1, 256)
        levels: NDArray[np.float32] = self._standardised(grey)[0, :, 0].cpu().numpy()
        return levels

    def _channels_first(self, places: NDArray[np.int64], source: Source) -> Tensor:
        return self._pixels.on_device(places, source).permute(0, 3, 1, 2).contiguous()

    def _standardised(self, pixels: Tensor) -> Tensor:
        return pixels.float().div_(255.0).sub_(self._mean).div_(self._std)


def sample_evenly(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns places drawn with replacement: a class first, uniformly, then any image of that class.

    Only classes that have images are drawn.

    Args:
        labels: (N,).
        rng: Source of the draws.

    Returns:
        Places (N,), as many as there are labels.
    """
    by_class = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    classes = rng.integers(len(sizes), size=len(labels))
    places: NDArray[np.int64] = by_class[starts[classes] + rng.integers(sizes[classes])]
    return places


def _cut(order: NDArray[np.int64], batch_size: int, part: Part | None) -> list[NDArray[np.int64]]:
    """Returns an epoch's order cut into batches.

    Args:
        order: Places of an epoch, (n,).
        batch_size: Places per batch.
        part: Returns the wanted places within a batch, given its number; None: all.
    """
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return batches if part is None else [batch[part(number)] for number, batch in enumerate(batches)]

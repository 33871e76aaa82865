"""Where the pixels of a role are while a run trains.

On a CPU they stay in the prepared files, which are memory-mapped: a batch's rows are read from the page cache, and the
runs of a node share that one copy. On a GPU they lie in its memory where they take no more than `GPU_SHARE` of what is
free there, and otherwise come from the page cache batch by batch. Encoded sets are decoded batch by batch, as
`pipeline.data.batches.prefetch` does it.
Shapes: N images of the set, n of the role, B of a batch, H x W pixels, C channels.
"""

from collections.abc import Generator, Sequence
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.batches.prefetch import decode_rows, prefetch_batches
from pipeline.data.prepared.encoded import ImageRows

Source = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""An array (m, H, W, C) uint8, and which of its rows (B,) are a batch: so that nothing is copied that need not be."""

GPU_SHARE = 0.2
"""Of the GPU memory that is free. A role that needs more stays in the host's memory, since networks need room too."""

BLOCK_BYTES = 64 * 2**20


class ImageStore:
    """The images `ids` (n,) of a set, images (N, H, W, C) uint8, for batches on a device."""

    def __init__(self, images: ImageRows, ids: NDArray[np.int64], device: torch.device) -> None:
        self._images, self._ids, self._device = images, ids, device
        self._held = self._copied() if self._fits() else None

    @property
    def channels(self) -> int:
        return int(self._images.shape[3])

    def read(self, batches: Sequence[NDArray[np.int64]], *, workers: int = 0) -> Generator[Source, None, None]:
        """The images at the places (B,) of each batch among the ids, batch after batch; arrays are not read yet.

        workers: processes that decode ahead, where the set is kept encoded.

        Raises:
            UserError: an encoded file is damaged.
        """
        if isinstance(self._images, np.ndarray):
            for places in batches:
                yield self._images, self._ids[places]
            return
        chosen = [self._ids[places] for places in batches]
        with closing(prefetch_batches(self._images, chosen, workers=workers)) as made:
            for images in made:
                yield images, np.arange(len(images))

    def on_device(self, places: NDArray[np.int64], source: Source) -> Tensor:
        """The images at `places`, which `read` has given as `source`, (B, H, W, C) uint8 on the device."""
        if self._held is not None:
            return self._held[torch.from_numpy(places).to(self._device)]
        images, rows = source
        pixels = torch.from_numpy(np.asarray(images[rows]))
        return pixels if self._device.type == "cpu" else pixels.pin_memory().to(self._device, non_blocking=True)

    def _fits(self) -> bool:
        if self._device.type != "cuda" or not isinstance(self._images, np.ndarray):
            return False
        free, _ = torch.cuda.mem_get_info(self._device)
        return len(self._ids) * _row_bytes(self._images) <= GPU_SHARE * free

    def _copied(self) -> Tensor:
        held = torch.empty((len(self._ids), *self._images.shape[1:]), dtype=torch.uint8, device=self._device)
        for rows in blocks(self._images, len(self._ids)):
            held[rows] = torch.from_numpy(np.asarray(self._images[self._ids[rows]])).to(self._device)
        return held


def blocks(images: ImageRows, count: int) -> list[slice]:
    """0 .. count cut into pieces of rows that decoded take `BLOCK_BYTES` at most, but for a single one."""
    step = max(1, BLOCK_BYTES // max(1, _row_bytes(images)))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def indexed_rows(images: ImageRows, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The rows (n,) of images or masks, read or decoded, (n, ...) uint8."""
    return np.asarray(images[rows]) if isinstance(images, np.ndarray) else decode_rows(images, rows)


def _row_bytes(images: ImageRows) -> int:
    return int(np.prod(images.shape[1:], dtype=np.int64))

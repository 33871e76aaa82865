"""Storage of the pixels of a role during training.

On a CPU, pixels stay in the prepared files, which are memory-mapped. The rows of a batch are read from the
page cache, and the runs of a node share that one copy. On a GPU, pixels are copied into its memory if they
take no more than `GPU_SHARE` of its free memory; otherwise they are read from the page cache batch by batch.
Encoded sets are decoded batch by batch by `pipeline.data.batches.prefetch`. Batches for a GPU are read or
decoded ahead of the training by a thread, which also sends them there, beside the work that is queued.

Shapes: N images of the set, n of the role, B of a batch, H x W pixels, C channels.
"""

from collections.abc import Generator, Sequence
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.compute.transfer import send
from pipeline.data.batches.prefetch import decode_rows, prefetch_batches, run_ahead
from pipeline.data.prepared.encoded import ImageRows

Rows = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""An array (m, H, W, C) uint8, and its rows (B,) that form a batch. Nothing is copied before it is needed."""


class Upload:
    """A batch on its way to a GPU, in a queue of its own.

    Args:
        images: The batch on the host, (B, H, W, C) uint8.
        device: The GPU.
        queue: The queue.
    """

    def __init__(self, images: NDArray[np.uint8], device: torch.device, queue: torch.cuda.Stream) -> None:
        with torch.cuda.stream(queue):
            self._pixels = send(images, device)
            self._done = queue.record_event()

    def arrived(self) -> Tensor:
        """Returns the batch for work that is queued from now on; that work waits for it, and the host does not."""
        current = torch.cuda.current_stream(self._pixels.device)
        current.wait_event(self._done)
        # Its memory belongs to the other queue, which must not use it again before this one has read it.
        self._pixels.record_stream(current)
        return self._pixels


Source = Rows | Upload


def on_host(source: Source) -> Rows:
    """Returns a batch that has not left the host.

    Raises:
        TypeError: If it is on its way to a GPU.
    """
    if isinstance(source, Upload):
        raise TypeError("this batch was sent to a GPU, and the host is to augment it")
    return source


GPU_SHARE = 0.2
"""Share of the free GPU memory that a role's pixels may take. Larger roles stay in the host's memory: networks
need room.
"""

MOST_WORKERS = 16
"""Most processes that decode for a GPU unless their number is given, each with batches in shared memory."""

BLOCK_BYTES = 64 * 2**20
"""Bytes of the pixels that are processed at a time when a whole role is read."""


class ImageStore:
    """Images of one role, for batches on a device.

    Args:
        images: Images of the whole set, (N, H, W, C) uint8.
        ids: Rows of the images of the role, (n,).
        device: Device of the batches.
    """

    def __init__(self, images: ImageRows, ids: NDArray[np.int64], device: torch.device) -> None:
        self._images, self._ids, self._device = images, ids, device
        self._held = self._copied() if self._fits() else None

    @property
    def channels(self) -> int:
        return int(self._images.shape[3])

    def read(
        self, batches: Sequence[NDArray[np.int64]], *, workers: int = 0, upload: bool = True
    ) -> Generator[Source, None, None]:
        """Yields the pixels of batch after batch. For a CPU, an array is passed on without being read.

        Args:
            batches: Places of each batch in the role, (B,).
            workers: Processes that decode ahead if the set is stored encoded. 0 uses threads for a CPU, and for a
                GPU a process for each core but one.
            upload: Whether batches may be sent to a GPU ahead, which yields `Upload`; false if the host
                augments them.

        Raises:
            UserError: If an encoded file is damaged.
        """
        rows = self._rows(batches, workers)
        if self._device.type != "cuda" or self._held is not None:
            yield from rows
            return
        made: Generator[Source, None, None] = self._uploads(rows) if upload else rows
        with closing(run_ahead(made)) as sources:
            yield from sources

    def _uploads(self, sources: Generator[Rows, None, None]) -> Generator[Upload, None, None]:
        queue = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call, unused-ignore]
        with closing(sources):
            for images, rows in sources:
                yield Upload(np.asarray(images[rows]), self._device, queue)

    def _rows(self, batches: Sequence[NDArray[np.int64]], workers: int) -> Generator[Rows, None, None]:
        if isinstance(self._images, np.ndarray):
            for places in batches:
                yield self._images, self._ids[places]
            return
        if not workers and self._device.type == "cuda":
            # Threads would take turns in Python with the thread that queues the GPU's work. A core is left to that one.
            workers = min(torch.get_num_threads() - 1, MOST_WORKERS)
        chosen = [self._ids[places] for places in batches]
        with closing(prefetch_batches(self._images, chosen, workers=workers)) as made:
            for images in made:
                yield images, np.arange(len(images))

    def on_device(self, places: NDArray[np.int64], source: Source) -> Tensor:
        """Returns images (B, H, W, C) uint8 on the device.

        Args:
            places: Places of the images in the role, (B,).
            source: Their pixels, as yielded by `read`.
        """
        if self._held is not None:
            return self._held[send(places, self._device)]
        if isinstance(source, Upload):
            return source.arrived()
        images, rows = source
        return send(np.asarray(images[rows]), self._device)

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
    """Returns slices of 0 .. count whose decoded rows take at most `BLOCK_BYTES`, or are a single row.

    Args:
        images: Images or masks by row.
        count: Number of rows.
    """
    step = max(1, BLOCK_BYTES // max(1, _row_bytes(images)))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def indexed_rows(images: ImageRows, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Returns rows (n, ...) uint8 of images or masks, read or decoded.

    Args:
        images: Images or masks by row.
        rows: Row numbers, (n,).
    """
    return np.asarray(images[rows]) if isinstance(images, np.ndarray) else decode_rows(images, rows)


def _row_bytes(images: ImageRows) -> int:
    return int(np.prod(images.shape[1:], dtype=np.int64))

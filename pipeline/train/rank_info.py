"""Division of every batch among several workers that train one network.

The workers go through the same batches as a single one would: the same seeded order, with every batch split
into the same `accumulate` micro-batches. Each worker takes its share of every micro-batch. The shares that
run at the same time are together one micro-batch of the single worker.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class BatchShard:
    """One worker's part of one batch.

    If a micro-batch has no image for this worker, its first row stands in, because all workers run all
    micro-batches. This row has weight 0.

    Attributes:
        rows: positions in the batch, int64, micro-batch after micro-batch.
        sizes: number of this worker's images in each micro-batch, 0 for a stand-in.
        wholes: number of all workers' images in each micro-batch.
        workers: number of workers.
    """

    rows: NDArray[np.int64]
    sizes: tuple[int, ...]
    wholes: tuple[int, ...]
    workers: int

    @property
    def images(self) -> int:
        """Number of images in the batch."""
        return sum(self.wholes)


@dataclass(frozen=True)
class RankInfo:
    """One of several workers.

    Attributes:
        rank: index of the worker, counted from 0.
        size: number of workers.
    """

    rank: int
    size: int

    def share(self, images: int, accumulate: int) -> BatchShard:
        """Returns this worker's part of a batch of `images` images, which is run in `accumulate` micro-batches.

        A batch of fewer images than micro-batches is run image by image. The rows are split in the same way
        as in `pipeline.train.step.take_step`.
        """
        micro_batches = np.array_split(np.arange(images), min(accumulate, images))
        parts = [np.array_split(micro_batch, self.size)[self.rank] for micro_batch in micro_batches]
        rows = [part if len(part) else micro_batch[:1] for part, micro_batch in zip(parts, micro_batches, strict=True)]
        return BatchShard(
            np.concatenate(rows),
            tuple(map(len, parts)),
            tuple(len(micro_batch) for micro_batch in micro_batches),
            self.size,
        )

    def shares(self, images: int, batch_size: int, accumulate: int) -> list[BatchShard]:
        """Returns this worker's part of each batch of an epoch, in order; the last batch may be smaller.

        Args:
            images: number of images in an epoch.
            batch_size: number of images in a batch.
            accumulate: number of micro-batches in a batch; a batch of fewer images has one for each image.
        """
        return [self.share(min(batch_size, images - start), accumulate) for start in range(0, images, batch_size)]

"""Which images of every batch each of several workers trains on.

Workers that train one network together go through the same batches as a single one would: the same seeded order, and
every batch cut into the same `accumulate` micro-batches. Of each micro-batch a worker takes its share, so that what the
workers run at the same time is, put together, one micro-batch of the single worker's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class BatchShard:
    """What one worker runs of one batch.

    rows: places in the batch, int64, micro-batch after micro-batch. sizes: images of each micro-batch that are this
    worker's; 0 where the micro-batch has none for it: a first row then stands in, since all workers run all
    micro-batches, and counts nothing. wholes: images of each micro-batch, all workers' together. workers: how many
    there are.
    """

    rows: NDArray[np.int64]
    sizes: tuple[int, ...]
    wholes: tuple[int, ...]
    workers: int

    @property
    def images(self) -> int:
        """Images of the batch."""
        return sum(self.wholes)


@dataclass(frozen=True)
class RankInfo:
    """One of several workers. rank: which, counted from 0. size: how many."""

    rank: int
    size: int

    def share(self, images: int, accumulate: int) -> BatchShard:
        """This worker's part of a batch of so many images, which is run in `accumulate` micro-batches.

        A batch of fewer images than micro-batches is run image by image, as `pipeline.train.step.take_step` does, and
        the rows fall into micro-batches where it cuts them.
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
        """This worker's part of every batch of an epoch over so many images; the last batch may be smaller."""
        return [self.share(min(batch_size, images - start), accumulate) for start in range(0, images, batch_size)]

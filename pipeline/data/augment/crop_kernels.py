"""Kernel that shifts and standardises prepared pixels in one pass on the CPU; importing it loads numba.

Shapes: N images of a set, B of a batch, H x W pixels, C channels.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.compute.compiled import compile_kernel, frozen
from pipeline.compute.threads import spread_over_threads


def shift_and_normalise(
    images: NDArray[np.uint8],
    rows: NDArray[np.int64],
    down: NDArray[np.int64],
    across: NDArray[np.int64],
    levels: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Returns shifted and standardised images (B, C, H, W) float32.

    Args:
        images: (N, h, w, C) uint8, an array or a memory map; only the rows needed are read.
        rows: Rows of the batch in `images` (B,).
        down: Row of the image that is shown in each row of the result, (B, H).
        across: Column of the image that is shown in each column of the result, (B, W).
        levels: Standardised value of every grey level, (C, 256).
    """
    count, height = down.shape
    out = np.empty((count, images.shape[3], height, across.shape[1]), dtype=np.float32)
    source, places = frozen(images), rows.astype(np.uint64)
    lines, columns = down.astype(np.uint64), across.astype(np.uint64)
    spread_over_threads(lambda begin, end: _move(source, places, lines, columns, levels, out, begin, end), count)
    return out


# Indices are unsigned, so that numba need not check for negative ones.
@compile_kernel
def _move(
    images: NDArray[np.uint8],
    rows: NDArray[np.uint64],
    down: NDArray[np.uint64],
    across: NDArray[np.uint64],
    levels: NDArray[np.float32],
    out: NDArray[np.float32],
    begin: int,
    end: int,
) -> None:
    """Writes the images begin .. end of a batch into `out`.

    Args:
        images: (N, h, w, C), read-only.
        rows: Rows of the batch in `images` (B,).
        down: Row that is shown in each row of the result, (B, H).
        across: Column that is shown in each column of the result, (B, W).
        levels: Standardised value of every grey level, (C, 256).
        out: (B, C, H, W), the result.
        begin, end: Range of the batch.
    """
    for place in range(begin, end):
        image = images[rows[place]]
        columns = across[place]
        for channel in range(out.shape[1]):
            table = levels[channel]
            for y in range(out.shape[2]):
                line = image[down[place, y]]
                shown = out[place, channel, y]
                for x in range(out.shape[3]):
                    shown[x] = table[line[columns[x], channel]]

"""Kernels that make inputs of prepared pixels in one pass, on the CPU. Import this module only to run them.

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
    """The images `rows` (B,) of a set, their pixels moved and standardised, (B, C, H, W) float32.

    images: (N, h, w, C) uint8, a memory map or an array, read where it lies. down (B, H), across (B, W): which of the
    image's own rows and columns is seen at each. levels (C, 256): what every grey level becomes.
    """
    count, height = down.shape
    out = np.empty((count, images.shape[3], height, across.shape[1]), dtype=np.float32)
    source, places = frozen(images), rows.astype(np.uint64)
    lines, columns = down.astype(np.uint64), across.astype(np.uint64)
    spread_over_threads(lambda begin, end: _move(source, places, lines, columns, levels, out, begin, end), count)
    return out


# Indices are unsigned, so that numba need not look for negative ones.
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

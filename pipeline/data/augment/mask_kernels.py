"""Kernel that moves masks like their images, by the nearest pixel, on the CPU; importing it loads numba.

Shapes: N masks of a set, B of a batch, H x W pixels.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.compute.compiled import compile_kernel, frozen
from pipeline.compute.threads import spread_over_threads
from pipeline.data.augment.rand_augment import ROTATE, SHEAR_X, Operations
from pipeline.data.prepared.prepared import UNDECIDED

Masks = NDArray[np.uint8]


def shift_masks(masks: Masks, rows: NDArray[np.int64], changes: Operations) -> Masks:
    """Returns masks (B, H, W) uint8, cropped, mirrored and moved like their images.

    Operations that change only colours leave masks unchanged. Areas that are moved in from outside are
    undecided (255).

    Args:
        masks: (N, H, W) uint8, an array or a memory map.
        rows: Rows of the batch in `masks` (B,).
        changes: Crops and operations of the batch.
    """
    out = np.empty((len(rows), *masks.shape[1:]), dtype=np.uint8)
    moves = (changes.operations == ROTATE) | (changes.operations >= SHEAR_X)
    source = frozen(masks)
    spread_over_threads(
        lambda begin, end: _move(source, rows, changes.boxes, changes.mirrored, moves, changes.values, out, begin, end),
        len(rows),
    )
    return out


@compile_kernel
def _move(
    masks: Masks,
    rows: NDArray[np.int64],
    boxes: NDArray[np.int64],
    mirrored: NDArray[np.bool_],
    moves: NDArray[np.bool_],
    matrices: NDArray[np.float64],
    out: Masks,
    begin: int,
    end: int,
) -> None:
    """Writes the masks begin .. end of a batch into `out`.

    Args:
        masks: (N, H, W), read-only.
        rows: Rows of the batch in `masks` (B,).
        boxes: Top, left, height and width of each crop, (B, 4).
        mirrored: (B,).
        moves: Whether an operation moves pixels, (B, layers).
        matrices: Affine matrices of the operations, (B, layers, 6), as `Operations.values`.
        out: (B, H, W), the result.
        begin, end: Range of the batch.
    """
    height, width = out.shape[1:]
    here, there = np.empty((height, width), dtype=np.uint8), np.empty((height, width), dtype=np.uint8)
    columns = np.empty(width, dtype=np.int64)
    for place in range(begin, end):
        top, left, tall, wide = boxes[place]
        # Coordinates are accumulated as in Pillow: its rounding decides which of two equally near pixels is taken.
        down, across = 0.5 * (tall / height), 0.5 * (wide / width)
        for x in range(width):
            columns[x] = left + min(int(across), wide - 1)
            across += wide / width
        for y in range(height):
            line = top + min(int(down), tall - 1)
            down += tall / height
            for x in range(width):
                seen = width - 1 - x if mirrored[place] else x
                here[y, seen] = masks[rows[place], line, columns[x]]
        for layer in range(moves.shape[1]):
            if not moves[place, layer]:
                continue
            matrix = matrices[place, layer]
            for y in range(height):
                for x in range(width):
                    column = math.floor(matrix[0] * (x + 0.5) + matrix[1] * (y + 0.5) + matrix[2])
                    line = math.floor(matrix[3] * (x + 0.5) + matrix[4] * (y + 0.5) + matrix[5])
                    inside = 0 <= column < width and 0 <= line < height
                    there[y, x] = here[line, column] if inside else UNDECIDED
            here, there = there, here
        out[place] = here

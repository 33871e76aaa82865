"""Masks of a whole batch on a GPU, moved like their images by the nearest pixel, with the bits of `mask_kernels`.

Import this module only to run it: it imports triton. If TRITON_INTERPRET=1 is set before triton is imported,
it runs on the CPU, slowly; the tests compare it with the CPU's kernels in this way.

Shapes: B masks of a batch, H x W pixels, L layers of RandAugment.
"""

# mypy cannot check Triton's functions: their arguments get their types at the launch.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.augment.deit_triton import PIXELS, source_place
from pipeline.data.augment.rand_augment import Operations
from pipeline.data.augment.resize_triton import EXACT
from pipeline.data.prepared.prepared import UNDECIDED


def mask_places(changes: Operations, sides: tuple[int, int]) -> NDArray[np.int32]:
    """Returns the row of the mask that each row of its crop shows, and the column for each column, (B, H + W).

    Args:
        changes: Crops of the batch.
        sides: (H, W) of the masks.
    """
    found = []
    for axis in (0, 1):
        side, cut = sides[axis], changes.boxes[:, 2 + axis, None]
        steps = np.repeat(cut / side, side, axis=1)
        steps[:, 0] *= 0.5
        # Coordinates are summed one after another, as on the CPU and in Pillow: rounding decides between equally near
        # pixels.
        places = np.minimum(np.cumsum(steps, axis=1).astype(np.int64), cut - 1) + changes.boxes[:, axis, None]
        found.append(places)
    found[1] = np.where(changes.mirrored[:, None], found[1][:, ::-1], found[1])
    return np.concatenate(found, axis=1).astype(np.int32)


def triton_masks(masks: Tensor, asked: Tensor, places: Tensor) -> Tensor:
    """Returns masks (B, H, W) uint8, moved like their images, with the nearest pixel; 255 comes from outside.

    Args:
        masks: (B, H, W) uint8.
        asked: `packed` operations on the masks' device.
        places: `mask_places` on the masks' device.
    """
    masks, asked, places = masks.contiguous(), asked.contiguous(), places.contiguous()
    count, height, width = masks.shape
    moved = torch.empty_like(masks)
    layers = (asked.shape[1] - 5) // 7
    _move_masks[count, triton.cdiv(height * width, PIXELS)](
        masks, asked, asked.shape[1], places, moved, height, width,
        layers=layers, undecided=UNDECIDED, block=PIXELS, **EXACT,
    )  # fmt: skip
    return moved


@triton.jit(do_not_specialize=["stride", "height", "width"])
def _move_masks(
    masks,
    asked,
    stride,
    places,
    out,
    height,
    width,
    layers: tl.constexpr,
    undecided: tl.constexpr,
    block: tl.constexpr,
):
    """Moves some pixels of a mask; each place is followed back through the operations to the pixel that it shows.

    Args:
        masks: Pointer to the masks, (B, H, W).
        asked: Pointer to the packed operations.
        stride: Numbers in a row of `asked`.
        places: Pointer to the rows and columns that the crop shows, (B, H + W).
        out: Output pointer, (B, H, W).
        height: H.
        width: W.
        layers: L.
        undecided: Value of places that lie outside of the mask.
        block: Pixels that a program computes.
    """
    image = tl.program_id(0).to(tl.int64)
    row = asked + image * stride
    place = tl.program_id(1) * block + tl.arange(0, block)
    inside = place < height * width
    y = place // width
    x = place - y * width
    for turn in tl.static_range(layers):
        operation = tl.load(row + 4 + layers - turn).to(tl.int32)
        if (operation == 3) | (operation >= 11):
            across, down = source_place(row + 5 + layers + 6 * (layers - 1 - turn), x, y)
            inside = inside & (across >= 0.0) & (across < width) & (down >= 0.0) & (down < height)
            x = tl.floor(tl.where(inside, across, 0.0)).to(tl.int32)
            y = tl.floor(tl.where(inside, down, 0.0)).to(tl.int32)
    lines = places + image * (height + width)
    line = tl.load(lines + y, mask=inside, other=0)
    column = tl.load(lines + height + x, mask=inside, other=0)
    level = tl.load(masks + (image * height + line) * width + column, mask=inside, other=undecided)
    tl.store(out + image * height * width + place, level, mask=place < height * width)

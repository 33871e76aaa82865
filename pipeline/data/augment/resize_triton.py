"""Crops of a whole batch on a GPU, resized to the whole image and mirrored, with the bits of `pixel_kernels`.

All that the host has drawn comes in one small table, so no launch waits for the device.

Import this module only to run it: it imports triton. If TRITON_INTERPRET=1 is set before triton is imported,
it runs on the CPU, slowly; the tests compare it with the CPU's kernels in this way.

Shapes: B images of a batch, H x W pixels, C channels, L layers of RandAugment.
"""

# mypy cannot check Triton's functions: their arguments get their types at the launch.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.augment.rand_augment import Operations

ROWS, COLUMNS = 8, 64
"""Pixels of a resized image that a program computes at once."""

WEIGHED = 256
"""Rows and columns whose weights a program computes."""

EXACT: dict[str, Any] = {"enable_fp_fusion": False, "num_warps": 8}
"""Options of a launch: every product is rounded, as on the CPU. With fewer warps, a thread needs too many registers."""


def packed(changes: Operations) -> NDArray[np.float64]:
    """Returns what the kernels need to know of a batch, (B, 5 + 7 L) float64; whole numbers are exact in it.

    A row holds the box, whether it is mirrored, the operations' numbers, and their six values each.
    """
    count = len(changes.boxes)
    parts = changes.boxes, changes.mirrored[:, None], changes.operations, changes.values.reshape(count, -1)
    return np.concatenate([part.astype(np.float64) for part in parts], axis=1)


def triton_resize(images: Tensor, asked: Tensor, between: Tensor, out: Tensor) -> None:
    """Writes crops of images, resized and mirrored.

    Args:
        images: (B, C, H, W) uint8 with any strides.
        asked: `packed` operations on the images' device, contiguous.
        between: Working memory, (B, C, H, W) uint8.
        out: Written: the result, (B, C, H, W) uint8.
    """
    count, channels, height, width = images.shape
    stride = asked.shape[1]
    weights = torch.empty((count, 6, height + width), dtype=torch.int32, device=images.device)
    _weigh[count, triton.cdiv(height + width, WEIGHED)](asked, stride, weights, height, width, block=WEIGHED, **EXACT)
    tiles = count, triton.cdiv(height, ROWS), triton.cdiv(width, COLUMNS)
    tile = {"channels": channels, "row_block": ROWS, "column_block": COLUMNS, **EXACT}
    _resize_across[tiles](images, *images.stride(), asked, stride, weights, between, height, width, **tile)
    _resize_down[tiles](between, asked, stride, weights, out, height, width, **tile)


@triton.jit
def _cubic(tap, low, count, centre):
    """Returns the bicubic filter (a = -0.5) at a pixel, and 0 for pixels that a place does not depend on.

    Args:
        tap: Number of the pixel, from 0.
        low: First pixel that each place depends on.
        count: Number of pixels that it depends on.
        centre: Place in the crop, float64.
    """
    x = tl.abs((low + tap).to(tl.float64) - centre + 0.5)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return tl.where(tap < count, tl.where(x < 1.0, near, tl.where(x < 2.0, far, 0.0)), 0.0)


# Triton turns an argument of value 1 into a constant, which has no methods, unless it is excluded from specialisation.
@triton.jit(do_not_specialize=["stride", "height", "width"])
def _weigh(asked, stride, weights, height, width, block: tl.constexpr):
    """Computes the resampling weights of a crop.

    A crop is never larger than the result, so each place of the result depends on at most five pixels.

    Args:
        asked: Pointer to the packed operations.
        stride: Numbers in a row of `asked`.
        weights: Output pointer, (B, 6, H + W) int32. For every row of the result, and then for every column:
            the first pixel that it depends on, and the weights of five pixels from there.
        height: H.
        width: W.
        block: Places that a program computes.
    """
    image = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * block + tl.arange(0, block)
    there = place < height + width
    place = tl.minimum(place, height + width - 1)
    down = place < height
    tall = tl.load(asked + image * stride + 2).to(tl.int32)
    wide = tl.load(asked + image * stride + 3).to(tl.int32)
    inside, outside = tl.where(down, tall, wide), tl.where(down, height, width)

    scale = inside.to(tl.float64) / outside.to(tl.float64)
    centre = (tl.where(down, place, place - height).to(tl.float64) + 0.5) * scale
    low = tl.maximum((centre - 1.5).to(tl.int32), 0)
    count = tl.minimum((centre + 2.5).to(tl.int32), inside) - low
    total = tl.zeros((block,), tl.float64)
    for tap in tl.static_range(5):
        total += _cubic(tap, low, count, centre)
    target = weights + image * 6 * (height + width) + place
    tl.store(target, low, mask=there)
    for tap in tl.static_range(5):
        share = _cubic(tap, low, count, centre) / total
        units = share * 4194304.0 + tl.where(share >= 0.0, 0.5, -0.5).to(tl.float64)
        tl.store(target + (1 + tap) * (height + width), units.to(tl.int32), mask=there)


@triton.jit
def _clipped(total):
    """Returns weighted sums in units of 2^-22 as levels in 0 .. 255."""
    return tl.minimum(tl.maximum(total >> 22, 0), 255).to(tl.uint8)


@triton.jit(do_not_specialize=["stride", "height", "width"])
def _resize_across(
    images,
    by_image,
    by_channel,
    by_row,
    by_column,
    asked,
    stride,
    weights,
    out,
    height,
    width,
    channels: tl.constexpr,
    row_block: tl.constexpr,
    column_block: tl.constexpr,
):
    """Resizes the rows of a crop to the width of the result, and mirrors them; the rest of `out` stays unwritten.

    Args:
        images: Pointer to the images.
        by_image, by_channel, by_row, by_column: Strides of the images.
        asked: Pointer to the packed operations.
        stride: Numbers in a row of `asked`.
        weights: Pointer to the resampling weights.
        out: Output pointer, (B, C, H, W).
        height: H.
        width: W.
        channels: C.
        row_block: Rows that a program computes.
        column_block: Columns that a program computes.
    """
    image = tl.program_id(0).to(tl.int64)
    box = asked + image * stride
    top, left = tl.load(box).to(tl.int32), tl.load(box + 1).to(tl.int32)
    tall, wide = tl.load(box + 2).to(tl.int32), tl.load(box + 3).to(tl.int32)
    mirrored = tl.load(box + 4) != 0.0
    y = tl.program_id(1) * row_block + tl.arange(0, row_block)
    x = tl.program_id(2) * column_block + tl.arange(0, column_block)
    if tl.program_id(1) * row_block < tall:
        weight = weights + image * 6 * (height + width) + height + x
        low = tl.load(weight, mask=x < width, other=0)
        seen = tl.where(mirrored, width - 1 - x, x)
        shown = (y < tall)[:, None] & (x < width)[None, :]
        for channel in tl.static_range(channels):
            line = images + image * by_image + channel * by_channel + ((top + y) * by_row)[:, None]
            total = tl.full((row_block, column_block), 2097152, tl.int32)
            for tap in tl.static_range(5):
                share = tl.load(weight + (1 + tap) * (height + width), mask=x < width, other=0)
                there = shown & (low + tap < wide)[None, :]
                level = tl.load(line + ((left + low + tap) * by_column)[None, :], mask=there, other=0)
                total += level.to(tl.int32) * share[None, :]
            at = (image * channels + channel) * height * width + (y * width)[:, None] + seen[None, :]
            tl.store(out + at, _clipped(total), mask=shown)


@triton.jit(do_not_specialize=["stride", "height", "width"])
def _resize_down(
    between,
    asked,
    stride,
    weights,
    out,
    height,
    width,
    channels: tl.constexpr,
    row_block: tl.constexpr,
    column_block: tl.constexpr,
):
    """Resizes the columns of crops that have been resized across.

    Args:
        between: Pointer to these crops, (B, C, H, W), of which the first rows are written.
        asked: Pointer to the packed operations.
        stride: Numbers in a row of `asked`.
        weights: Pointer to the resampling weights.
        out: Output pointer, (B, C, H, W).
        height: H.
        width: W.
        channels: C.
        row_block: Rows that a program computes.
        column_block: Columns that a program computes.
    """
    image = tl.program_id(0).to(tl.int64)
    tall = tl.load(asked + image * stride + 2).to(tl.int32)
    y = tl.program_id(1) * row_block + tl.arange(0, row_block)
    x = tl.program_id(2) * column_block + tl.arange(0, column_block)
    shown = (y < height)[:, None] & (x < width)[None, :]
    weight = weights + image * 6 * (height + width) + y
    low = tl.load(weight, mask=y < height, other=0)
    for channel in tl.static_range(channels):
        start = (image * channels + channel) * height * width
        total = tl.full((row_block, column_block), 2097152, tl.int32)
        for tap in tl.static_range(5):
            share = tl.load(weight + (1 + tap) * (height + width), mask=y < height, other=0)
            there = shown & (low + tap < tall)[:, None]
            level = tl.load(between + start + ((low + tap) * width)[:, None] + x[None, :], mask=there, other=0)
            total += level.to(tl.int32) * share[:, None]
        tl.store(out + start + (y * width)[:, None] + x[None, :], _clipped(total), mask=shown)

"""Augmentation `deit` on a GPU: crops, mirroring and RandAugment of a whole batch.

The results are those of `pixel_kernels`, to the bit: the same integers, the same order of
operations in float64 and float32, and no product that is fused with a sum. A batch takes three launches for
the crops, and two more for each operation of RandAugment: one for what depends on a whole image (tables and
mean grey levels) and one for the pixels. A program works on one image, and so takes one branch.

All that the host has drawn comes in one small table, so no launch waits for the device.

Import this module only to run it: it imports triton. If TRITON_INTERPRET=1 is set before triton is imported,
it runs on the CPU, slowly; the tests compare it with the CPU's kernels in this way.

Shapes: B images of a batch, H x W pixels, C channels (1 or 3), L layers of RandAugment. A grey image is
processed as one channel, which gives the same as three equal ones.
"""

# mypy cannot check Triton's functions: their arguments get their types at the launch.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.data.augment.resize_triton import EXACT, triton_resize

PIXELS = 512
"""Pixels that an operation changes at once."""

COUNTED = 4096
"""Pixels that are counted at once where a whole image is read."""

EDGE, MIDDLE = (float(np.float32(weight) / np.float32(13.0)) for weight in (1.0, 5.0))
"""Weights of the smoothing filter, as rounded to float32."""


def triton_deit(images: Tensor, asked: Tensor, fill: tuple[int, ...]) -> Tensor:
    """Returns augmented images (B, C, H, W) uint8.

    Args:
        images: (B, C, H, W) uint8 with any strides, C = 1 or 3.
        asked: `packed` operations on the images' device.
        fill: Colour of areas that are moved in from outside, three levels.
    """
    count, channels, height, width = images.shape
    asked = asked.contiguous()
    stride = asked.shape[1]
    layers = (stride - 5) // 7
    here, there = (torch.empty(images.shape, dtype=torch.uint8, device=images.device) for _ in range(2))
    tables = torch.empty((count, channels, 256), dtype=torch.uint8, device=images.device)
    means = torch.empty(count, dtype=torch.int32, device=images.device)
    triton_resize(images, asked, there, here)
    spans = count, triton.cdiv(height * width, PIXELS)
    for layer in range(layers):
        # Of the row: the number of the operation, and the first of its values.
        number, value = 5 + layer, 5 + layers + 6 * layer
        _read_whole[count, channels](
            here, asked, stride, number, value, tables, means, height * width, channels=channels, block=COUNTED, **EXACT
        )
        _operate[spans](
            here, asked, stride, number, value, tables, means, there, height, width, *fill,
            channels=channels, edge=EDGE, middle=MIDDLE, block=PIXELS, **EXACT,
        )  # fmt: skip
        here, there = there, here
    return here


@triton.jit
def _grey(start, place, there, pixels, channels: tl.constexpr):
    """Returns grey levels, by ITU-R 601-2 weights in units of 2^-16 as in Pillow.

    Args:
        start: Pointer to an image, (C, H, W).
        place: Numbers of the pixels.
        there: Whether each is in the image; 0 is returned for the others.
        pixels: H W.
        channels: C.
    """
    level = tl.load(start + place, mask=there, other=0).to(tl.int32)
    if channels == 3:
        green = tl.load(start + pixels + place, mask=there, other=0).to(tl.int32)
        blue = tl.load(start + 2 * pixels + place, mask=there, other=0).to(tl.int32)
        level = (level * 19595 + green * 38470 + blue * 7471 + 32768) >> 16
    return level


@triton.jit(do_not_specialize=["stride", "number", "value", "pixels"])
def _read_whole(
    here,
    asked,
    stride,
    number,
    value,
    tables,
    means,
    pixels,
    channels: tl.constexpr,
    block: tl.constexpr,
):
    """Computes what an operation needs of a whole image: new values of all levels, or the mean grey level.

    Args:
        here: Pointer to the images, (B, C, H, W).
        asked: Pointer to the packed operations.
        stride: Numbers in a row of `asked`.
        number: Place of the operation's number in such a row.
        value: Place of its first value.
        tables: Output pointer: new levels, (B, C, 256); written for operations on levels alone.
        means: Output pointer: mean grey levels, (B,) int32; written for contrast.
        pixels: H W.
        channels: C.
        block: Pixels that are read at once.
    """
    image, channel = tl.program_id(0).to(tl.int64), tl.program_id(1)
    operation = tl.load(asked + image * stride + number).to(tl.int32)
    start = here + image * channels * pixels
    if (operation >= 0) & (operation <= 6) & (operation != 3):
        amount = tl.load(asked + image * stride + value)
        made = _table(start + channel.to(tl.int64) * pixels, operation, amount, pixels, block)
        tl.store(tables + (image * channels + channel) * 256 + tl.arange(0, 256), made.to(tl.uint8))
    if (operation == 8) & (channel == 0):
        total = tl.sum(tl.zeros((block,), tl.int64), axis=0)
        for begin in range(0, pixels, block):
            place = begin + tl.arange(0, block)
            total += tl.sum(_grey(start, place, place < pixels, pixels, channels).to(tl.int64), axis=0)
        tl.store(means + image, (total.to(tl.float64) / pixels.to(tl.float64) + 0.5).to(tl.int32))


@triton.jit
def _table(start, operation, amount, pixels, block: tl.constexpr):
    """Returns the new value of every level, (256,) int32.

    Args:
        start: Pointer to one channel of an image.
        operation: Number of an operation that depends on a pixel's level alone.
        amount: Its bits, threshold or addend, float64.
        pixels: H W.
        block: Pixels that are read at once.
    """
    levels = tl.arange(0, 256)
    counts = tl.zeros((256,), tl.int32)
    if operation <= 1:
        for begin in range(0, pixels, block):
            place = begin + tl.arange(0, block)
            level = tl.load(start + place, mask=place < pixels, other=0).to(tl.int32)
            counts += tl.histogram(level, 256)
        # What lies beyond the image was counted as black.
        counts -= tl.where(levels == 0, tl.cdiv(pixels, block) * block - pixels, 0)
    low = tl.min(tl.where(counts > 0, levels, 255), axis=0)
    high = tl.max(tl.where(counts > 0, levels, 0), axis=0)

    scale = 255.0 / tl.maximum(high - low, 1).to(tl.float64)
    stretched = (levels.to(tl.float64) * scale + (-low).to(tl.float64) * scale).to(tl.int32)
    stretched = tl.minimum(tl.maximum(stretched, 0), 255)

    step = (pixels - tl.sum(tl.where(levels == high, counts, 0), axis=0)) // 255
    before = step // 2 + tl.cumsum(counts, axis=0) - counts
    equal = tl.where(step > 0, tl.minimum(before // tl.maximum(step, 1), 255), levels)

    bits = amount.to(tl.int32)
    dropped = tl.minimum(tl.maximum(8 - bits, 0), 8)
    made = levels
    made = tl.where((operation == 0) & (high > low), stretched, made)
    made = tl.where((operation == 1) & (high > low), equal, made)
    made = tl.where(operation == 2, 255 - levels, made)
    made = tl.where(operation == 4, (levels >> dropped) << dropped, made)
    made = tl.where((operation == 5) & (levels.to(tl.float64) >= amount), 255 - levels, made)
    return tl.where((operation == 6) & (levels < 128), tl.minimum(levels + bits, 255), made)


@triton.jit(do_not_specialize=["stride", "number", "value", "height", "width", "red", "green", "blue"])
def _operate(
    here,
    asked,
    stride,
    number,
    value,
    tables,
    means,
    out,
    height,
    width,
    red,
    green,
    blue,
    channels: tl.constexpr,
    edge: tl.constexpr,
    middle: tl.constexpr,
    block: tl.constexpr,
):
    """Applies one operation to some pixels of an image, or copies them if the image has none.

    Args:
        here: Pointer to the images, (B, C, H, W).
        asked: Pointer to the packed operations.
        stride: Numbers in a row of `asked`.
        number: Place of the operation's number in such a row.
        value: Place of its first value.
        tables: Pointer to new levels, (B, C, 256).
        means: Pointer to mean grey levels, (B,).
        out: Output pointer, (B, C, H, W).
        height: H.
        width: W.
        red, green, blue: Colour of places that lie outside of the image.
        channels: C.
        edge: Weight of a neighbour in the smoothed image.
        middle: Weight of the pixel itself.
        block: Pixels that a program computes.
    """
    image = tl.program_id(0).to(tl.int64)
    row = asked + image * stride
    operation = tl.load(row + number).to(tl.int32)
    pixels = height * width
    place = tl.program_id(1) * block + tl.arange(0, block)
    there = place < pixels
    y = place // width
    x = place - y * width
    start, target = here + image * channels * pixels, out + image * channels * pixels
    if operation < 0:
        for channel in tl.static_range(channels):
            at = channel * pixels + place
            tl.store(target + at, tl.load(start + at, mask=there), mask=there)
    elif (operation == 3) | (operation >= 11):
        _move(start, target, row + value, x, y, there, height, width, red, green, blue, channels)
    elif operation >= 7:
        share = tl.load(row + value).to(tl.float32)
        mean = tl.where(operation == 8, tl.load(means + image), 0)
        _blend(start, target, operation, share, mean, x, y, there, height, width, channels, edge, middle)
    else:
        for channel in tl.static_range(channels):
            at = channel * pixels + place
            level = tl.load(start + at, mask=there, other=0).to(tl.int32)
            made = tl.load(tables + (image * channels + channel) * 256 + level, mask=there)
            tl.store(target + at, made, mask=there)


@triton.jit
def _along(p, q, r, s, t):
    """Returns the cubic interpolation between q and r.

    Args:
        p, q, r, s: Levels of four neighbouring pixels, float64.
        t: Position between q and r, in 0 .. 1. At 0 the result is q exactly.
    """
    return q + t * ((r - p) + t * ((2.0 * (p - q) + r - s) + t * (q - p - r + s)))


@triton.jit
def _line(start, y, height, width, left, right, there):
    """Returns levels of one line of pixels, interpolated across, float64.

    Args:
        start: Pointer to one channel of an image.
        y: Line, which may lie outside; the nearest is read.
        height: H.
        width: W.
        left: Column to the left of each place, -1 or more.
        right: Position between this column and the next, in 0 .. 1.
        there: Whether each place is wanted.
    """
    line = start + tl.minimum(tl.maximum(y, 0), height - 1) * width
    p = tl.load(line + tl.maximum(left - 1, 0), mask=there, other=0).to(tl.float64)
    q = tl.load(line + tl.maximum(left, 0), mask=there, other=0).to(tl.float64)
    r = tl.load(line + tl.minimum(left + 1, width - 1), mask=there, other=0).to(tl.float64)
    s = tl.load(line + tl.minimum(left + 2, width - 1), mask=there, other=0).to(tl.float64)
    return _along(p, q, r, s, right)


@triton.jit
def source_place(matrix, x, y):
    """Returns the place (x, y) of an image that an affine transform shows, in float64.

    Args:
        matrix: Pointer to its six numbers.
        x, y: Places of the result.
    """
    x, y = x.to(tl.float64) + 0.5, y.to(tl.float64) + 0.5
    across = tl.load(matrix) * x + tl.load(matrix + 1) * y + tl.load(matrix + 2)
    down = tl.load(matrix + 3) * x + tl.load(matrix + 4) * y + tl.load(matrix + 5)
    return across, down


@triton.jit
def _move(start, target, matrix, x, y, there, height, width, red, green, blue, channels: tl.constexpr):
    """Applies an affine transform with bicubic interpolation.

    Args:
        start: Pointer to an image, (C, H, W).
        target: Output pointer, (C, H, W).
        matrix: Pointer to the six numbers of the transform.
        x, y: Places of the result.
        there: Whether each is in the image.
        height: H.
        width: W.
        red, green, blue: Colour of places that lie outside of the image.
        channels: C.
    """
    across, down = source_place(matrix, x, y)
    inside = (across >= 0.0) & (across < width) & (down >= 0.0) & (down < height)
    # A place far outside has no column in 32 bits.
    across, down = tl.where(inside, across, 0.0) - 0.5, tl.where(inside, down, 0.0) - 0.5
    left, top = tl.floor(across), tl.floor(down)
    right, below = across - left, down - top
    left, top = left.to(tl.int32), top.to(tl.int32)
    read = there & inside
    for channel in tl.static_range(channels):
        begin = start + channel * height * width
        a = _line(begin, top - 1, height, width, left, right, read)
        b = _line(begin, top, height, width, left, right, read)
        c = _line(begin, top + 1, height, width, left, right, read)
        d = _line(begin, top + 2, height, width, left, right, read)
        level = tl.minimum(tl.maximum(_along(a, b, c, d, below), 0.0), 255.0).to(tl.int32)
        filled = red
        if channel == 1:
            filled = green
        if channel == 2:
            filled = blue
        made = tl.where(inside, level, filled).to(tl.uint8)
        tl.store(target + channel * height * width + y * width + x, made, mask=there)


@triton.jit
def _blend(
    start,
    target,
    operation,
    share,
    mean,
    x,
    y,
    there,
    height,
    width,
    channels: tl.constexpr,
    edge: tl.constexpr,
    middle: tl.constexpr,
):
    """Mixes an image with its grey version (7), its mean grey level (8), black (9) or its smoothed version (10).

    Args:
        start: Pointer to an image, (C, H, W).
        target: Output pointer, (C, H, W).
        operation: Number of the operation, 7 to 10.
        share: 0 gives the other image, 1 gives this image; float32.
        mean: Mean grey level (8), or 0.
        x, y: Places of the result.
        there: Whether each is in the image.
        height: H.
        width: W.
        channels: C.
        edge: Weight of a neighbour in the smoothed image.
        middle: Weight of the pixel itself.
    """
    pixels = height * width
    place = y * width + x
    other = tl.zeros_like(place) + mean
    if operation == 7:
        other = _grey(start, place, there, pixels, channels)
    inner = there & (y > 0) & (y < height - 1) & (x > 0) & (x < width - 1)
    for channel in tl.static_range(channels):
        begin = start + channel * pixels
        level = tl.load(begin + place, mask=there, other=0).to(tl.int32)
        if operation == 10:
            total = tl.zeros_like(place).to(tl.float32) + 0.5
            total += _three(begin + place + width, inner, edge, edge)
            total += _three(begin + place, inner, edge, middle)
            total += _three(begin + place - width, inner, edge, edge)
            other = tl.where(inner, total.to(tl.int32), level)
        mixed = other.to(tl.float32) + share * (level - other).to(tl.float32)
        made = tl.minimum(tl.maximum(mixed, 0.0), 255.0).to(tl.int32).to(tl.uint8)
        tl.store(target + channel * pixels + place, made, mask=there)


@triton.jit
def _three(at, there, edge: tl.constexpr, centre: tl.constexpr):
    """Returns the weighted sum of each pixel with its neighbours to the left and right, float32.

    Args:
        at: Pointers to the pixels.
        there: Whether each is wanted.
        edge: Weight of a neighbour.
        centre: Weight of the pixel itself.
    """
    left = tl.load(at - 1, mask=there, other=0).to(tl.float32)
    level = tl.load(at, mask=there, other=0).to(tl.float32)
    right = tl.load(at + 1, mask=there, other=0).to(tl.float32)
    return left * edge + level * centre + right * edge

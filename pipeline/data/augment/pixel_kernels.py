"""Kernels of DeiT's recipe on uint8 pixels, one image at a time, on the CPU; importing them loads numba.

They give the results of Pillow: its bicubic resampling with coefficients of 22 bits, its bicubic transforms
in double precision, and its blends in single precision. Results are equal to the bit, unless the compiler
that built Pillow fused multiplications with additions. The arithmetic follows Pillow's documentation and
sources; `tests/data/test_pixel_kernels.py` compares the two.

Shapes: N images of a set, B of a batch, H x W pixels, C channels. Intermediate images have 3 channels.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.compute.compiled import compile_kernel, frozen
from pipeline.compute.threads import spread_over_threads
from pipeline.data.augment.rand_augment import Operations

Image = NDArray[np.uint8]


def augment_batch(images: Image, rows: NDArray[np.int64], changes: Operations, fill: NDArray[np.uint8]) -> Image:
    """Returns augmented images (B, H, W, C) uint8.

    A grey image is processed as one of three equal channels.

    Args:
        images: (N, H, W, C) uint8 with 1 or 3 channels, an array or a memory map.
        rows: Rows of the batch in `images` (B,).
        changes: Crops and operations of the batch.
        fill: Colour of areas that are moved in from outside, (3,) uint8.
    """
    out = np.empty((len(rows), *images.shape[1:]), dtype=np.uint8)
    asked = changes.boxes, changes.mirrored, changes.operations, changes.values
    source = frozen(images)
    spread_over_threads(lambda begin, end: _change(source, rows, *asked, fill, out, begin, end), len(rows))
    return out


@compile_kernel
def _cubic(x: float) -> float:
    """Returns the value of the bicubic filter (a = -0.5) at distance x in pixels."""
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0


@compile_kernel
def _weights(inside: int, outside: int, bounds: NDArray[np.int64], taps: NDArray[np.int32]) -> None:
    """Computes the resampling weights along one axis.

    A crop is never larger than the result, so each place of the result depends on at most five pixels.

    Args:
        inside: Pixels of the crop along the axis.
        outside: Pixels of the result along the axis.
        bounds: Written: the first pixel, and one after the last, that each place of the result depends on,
            (>= outside, 2).
        taps: Written: their weights in units of 2^-22, (>= outside, 5).
    """
    scale = inside / outside
    weights = np.empty(taps.shape[1])
    for place in range(outside):
        centre = (place + 0.5) * scale
        low, high = max(0, int(centre - 1.5)), min(inside, int(centre + 2.5))
        total = 0.0
        for tap in range(high - low):
            weights[tap] = _cubic(tap + low - centre + 0.5)
            total += weights[tap]
        bounds[place, 0], bounds[place, 1] = low, high
        for tap in range(high - low):
            share = weights[tap] / total
            taps[place, tap] = int(share * 4194304.0 + (0.5 if share >= 0.0 else -0.5))


@compile_kernel
def _clipped(total: int) -> int:
    """Returns a weighted sum in units of 2^-22 as a level in 0 .. 255."""
    return min(255, max(0, total >> 22))


@compile_kernel
def _resized(
    cut: Image, mirror: bool, bounds: NDArray[np.int64], taps: NDArray[np.int32], between: Image, out: Image
) -> None:
    """Resizes a crop, first across and then down, and mirrors it.

    Args:
        cut: The crop, (h, w, c) with 1 or 3 channels.
        mirror: Whether to mirror it.
        bounds: Working memory of `_weights`, (max(H, W), 2).
        taps: Working memory of `_weights`, (max(H, W), 5).
        between: Working memory for the crop resized across, (H, W, 3).
        out: Written: the result, (H, W, 3).
    """
    height, width, channels = out.shape[0], out.shape[1], cut.shape[2]
    _weights(cut.shape[1], width, bounds, taps)
    for y in range(cut.shape[0]):
        line = cut[y]
        for x in range(width):
            seen = width - 1 - x if mirror else x
            low, count = bounds[x, 0], bounds[x, 1] - bounds[x, 0]
            red, green, blue = 2097152, 2097152, 2097152
            for tap in range(count):
                weight = int(taps[x, tap])
                red += int(line[low + tap, 0]) * weight
                if channels == 3:
                    green += int(line[low + tap, 1]) * weight
                    blue += int(line[low + tap, 2]) * weight
            between[y, seen, 0] = _clipped(red)
            between[y, seen, 1] = _clipped(green if channels == 3 else red)
            between[y, seen, 2] = _clipped(blue if channels == 3 else red)
    _weights(cut.shape[0], height, bounds, taps)
    sums = np.empty(width * 3, dtype=np.int32)
    lines, shown = between.reshape(height, width * 3), out.reshape(height, width * 3)
    for y in range(height):
        sums[:] = 2097152
        for row in range(bounds[y, 0], bounds[y, 1]):
            weight, whole = taps[y, row - bounds[y, 0]], lines[row]
            for place in range(len(sums)):
                sums[place] += np.int32(whole[place]) * weight
        for place in range(len(sums)):
            shown[y, place] = _clipped(sums[place])


@compile_kernel
def _along(a: float, b: float, c: float, d: float, t: float) -> float:
    """Returns the cubic interpolation between b and c.

    Args:
        a, b, c, d: Levels of four neighbouring pixels.
        t: Position between b and c, in 0 .. 1.
    """
    # Levels may be unsigned, and their differences would wrap around.
    p, q, r, s = float(a), float(b), float(c), float(d)
    return q + t * ((r - p) + t * ((2.0 * (p - q) + r - s) + t * (q - p - r + s)))


@compile_kernel
def _moved(image: Image, matrix: NDArray[np.float64], fill: NDArray[np.uint8], out: Image) -> None:
    """Applies an affine transform with bicubic interpolation.

    Args:
        image: (H, W, 3).
        matrix: (a, b, c, d, e, f): place (x, y) of the result shows place (a x + b y + c, d x + e y + f) of
            the image.
        fill: Colour of places that lie outside of the image, (3,).
        out: Written: the result, (H, W, 3).
    """
    height, width, _ = image.shape
    values = np.empty(4)
    for y in range(height):
        for x in range(width):
            across = matrix[0] * (x + 0.5) + matrix[1] * (y + 0.5) + matrix[2]
            down = matrix[3] * (x + 0.5) + matrix[4] * (y + 0.5) + matrix[5]
            outside = across < 0.0 or across >= width or down < 0.0 or down >= height
            left, top = math.floor(across - 0.5), math.floor(down - 0.5)
            right, below = across - 0.5 - left, down - 0.5 - top
            x0, x1 = max(left - 1, 0), max(left, 0)
            x2, x3 = min(left + 1, width - 1), min(left + 2, width - 1)
            # Exactly on a line of pixels, the other lines have no weight.
            first, last = (1, 2) if below == 0.0 else (0, 4)
            for channel in range(3):
                if outside:
                    out[y, x, channel] = fill[channel]
                    continue
                for tap in range(first, last):
                    line = min(max(top - 1 + tap, 0), height - 1)
                    if right == 0.0:
                        values[tap] = image[line, x1, channel]
                    else:
                        before, after = image[line, x0, channel], image[line, x3, channel]
                        values[tap] = _along(before, image[line, x1, channel], image[line, x2, channel], after, right)
                value = values[1] if below == 0.0 else _along(values[0], values[1], values[2], values[3], below)
                out[y, x, channel] = int(min(255.0, max(0.0, value)))


@compile_kernel
def _table(image: Image, operation: int, value: float, table: NDArray[np.uint8]) -> None:
    """Computes the new value of every level for an operation that depends on a pixel's level alone.

    Args:
        image: (H, W, 3), for operations that depend on its histogram (AutoContrast, Equalize).
        operation: Number in `OPERATIONS`: 0, 1, 2, 4, 5 or 6.
        value: Bits (4), threshold (5) or addend (6).
        table: Written: the new levels by channel, (3, 256).
    """
    counts = np.zeros((3, 256), dtype=np.int64)
    if operation <= 1:
        for y in range(image.shape[0]):
            for x in range(image.shape[1]):
                for channel in range(3):
                    counts[channel, image[y, x, channel]] += 1
    bits = int(value)
    for channel in range(3):
        low, high = 0, 255
        if operation <= 1:
            seen = np.nonzero(counts[channel])[0]
            low, high = seen[0], seen[-1]
        step = (image.shape[0] * image.shape[1] - counts[channel, high]) // 255
        scale = 255.0 / max(1, high - low)
        before = step // 2
        for level in range(256):
            made = level
            if operation == 0 and high > low:
                made = min(255, max(0, int(level * scale + -low * scale)))
            elif operation == 1 and high > low and step > 0:
                made = min(255, before // step)
                before += counts[channel, level]
            elif operation == 2:
                made = 255 - level
            elif operation == 4:
                made = level >> (8 - bits) << (8 - bits)
            elif operation == 5 and level >= value:
                made = 255 - level
            elif operation == 6 and level < 128:
                made = min(255, level + bits)
            table[channel, level] = made


@compile_kernel
def _grey(image: Image, y: int, x: int) -> int:
    """Returns the grey level of a pixel, by ITU-R 601-2 weights in units of 2^-16 as in Pillow.

    Args:
        image: (H, W, 3).
        y, x: Row and column of the pixel.
    """
    return int(image[y, x, 0] * 19595 + image[y, x, 1] * 38470 + image[y, x, 2] * 7471 + 32768) >> 16


@compile_kernel
def _blended(image: Image, operation: int, factor: float, out: Image) -> None:
    """Mixes an image with its grey version (7), its mean grey level (8), black (9) or its smoothed version (10).

    Args:
        image: (H, W, 3).
        operation: Number in `OPERATIONS`, 7 to 10.
        factor: 0 gives the other image, 1 gives this image; above 1 extrapolates.
        out: Written: the result, (H, W, 3).
    """
    height, width, _ = image.shape
    share = np.float32(factor)
    mean = 0
    if operation == 8:
        for y in range(height):
            for x in range(width):
                mean += _grey(image, y, x)
        mean = int(mean / (height * width) + 0.5)
    edge, middle = np.float32(1.0) / np.float32(13.0), np.float32(5.0) / np.float32(13.0)
    for y in range(height):
        for x in range(width):
            other = _grey(image, y, x) if operation == 7 else mean
            inner = 0 < y < height - 1 and 0 < x < width - 1
            for channel in range(3):
                level = image[y, x, channel]
                if operation == 10:
                    other = level
                    if inner:
                        total = np.float32(0.5)
                        for line in (y + 1, y, y - 1):
                            centre = middle if line == y else edge
                            total += (
                                np.float32(image[line, x - 1, channel]) * edge
                                + np.float32(image[line, x, channel]) * centre
                                + np.float32(image[line, x + 1, channel]) * edge
                            )
                        other = int(total)
                mixed = np.float32(other) + share * np.float32(int(level) - int(other))
                out[y, x, channel] = int(min(np.float32(255.0), max(np.float32(0.0), mixed)))


@compile_kernel
def _change(
    images: Image,
    rows: NDArray[np.int64],
    boxes: NDArray[np.int64],
    mirrored: NDArray[np.bool_],
    operations: NDArray[np.int64],
    values: NDArray[np.float64],
    fill: NDArray[np.uint8],
    out: Image,
    begin: int,
    end: int,
) -> None:
    """Writes the augmented images begin .. end of a batch into `out`.

    Args:
        images: (N, H, W, C), read-only.
        rows: Rows of the batch in `images` (B,).
        boxes: Top, left, height and width of each crop, (B, 4).
        mirrored: (B,).
        operations: Numbers in `OPERATIONS`, -1 for none, (B, layers).
        values: Values of the operations, (B, layers, 6), as `Operations.values`.
        fill: Colour of areas that are moved in from outside, (3,).
        out: (B, H, W, C), the result.
        begin, end: Range of the batch.
    """
    height, width, channels = out.shape[1:]
    longer = max(height, width)
    bounds, taps = np.empty((longer, 2), dtype=np.int64), np.empty((longer, 5), dtype=np.int32)
    between = np.empty((height, width, 3), dtype=np.uint8)
    here, there = np.empty_like(between), np.empty_like(between)
    table = np.empty((3, 256), dtype=np.uint8)
    for place in range(begin, end):
        top, left, tall, wide = boxes[place]
        cut = images[rows[place], top : top + tall, left : left + wide]
        _resized(cut, mirrored[place], bounds, taps, between, here)
        for layer in range(operations.shape[1]):
            operation, value = operations[place, layer], values[place, layer]
            if operation < 0:
                continue
            if operation == 3 or operation >= 11:
                _moved(here, value, fill, there)
            elif operation >= 7:
                _blended(here, operation, value[0], there)
            else:
                _table(here, operation, value[0], table)
                for y in range(height):
                    for x in range(width):
                        for channel in range(3):
                            there[y, x, channel] = table[channel, here[y, x, channel]]
            here, there = there, here
        out[place] = here[:, :, :channels]

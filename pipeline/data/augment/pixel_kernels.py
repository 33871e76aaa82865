"""The operations of DeiT's recipe on uint8 pixels, image after image, on the CPU. Import this module only to run them.

They give what Pillow gives, to the bit where the compiler that built it has not fused multiplications with additions:
its bicubic resampling with coefficients of 22 bits, its bicubic transforms in double precision, its blends in single.
Pillow's documentation and sources say what is computed; `tests/data/test_pixel_kernels.py` compares.
Shapes: N images of a set, B of a batch, H x W pixels, C channels; an image at work has 3.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.compute.compiled import compile_kernel, frozen
from pipeline.compute.threads import spread_over_threads
from pipeline.data.augment.rand_augment import Operations

Image = NDArray[np.uint8]


def augment_batch(images: Image, rows: NDArray[np.int64], changes: Operations, fill: NDArray[np.uint8]) -> Image:
    """The images `rows` (B,) of a set (N, H, W, C) uint8, C of 1 or 3, changed: (B, H, W, C) uint8.

    fill (3,) uint8: the colour of what is moved in from outside. A grey image is worked on as one of three channels.
    """
    out = np.empty((len(rows), *images.shape[1:]), dtype=np.uint8)
    asked = changes.boxes, changes.mirrored, changes.operations, changes.values
    source = frozen(images)
    spread_over_threads(lambda begin, end: _change(source, rows, *asked, fill, out, begin, end), len(rows))
    return out


@compile_kernel
def _cubic(x: float) -> float:
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0


@compile_kernel
def _weights(inside: int, outside: int, bounds: NDArray[np.int64], taps: NDArray[np.int32]) -> None:
    """Fill in, for each place outside, where inside it begins and ends to look, and its taps in 2^-22.

    A crop is no larger than what it is resized to, so that a place looks at five pixels at most.
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
    return min(255, max(0, total >> 22))


@compile_kernel
def _resized(
    cut: Image, mirror: bool, bounds: NDArray[np.int64], taps: NDArray[np.int32], between: Image, out: Image
) -> None:
    """A crop (h, w, c) resized to out (H, W, 3), across and then down, and mirrored. between: room for (h, W, 3)."""
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
    # Levels may come as unsigned numbers, whose differences would not be negative.
    p, q, r, s = float(a), float(b), float(c), float(d)
    return q + t * ((r - p) + t * ((2.0 * (p - q) + r - s) + t * (q - p - r + s)))


@compile_kernel
def _moved(image: Image, matrix: NDArray[np.float64], fill: NDArray[np.uint8], out: Image) -> None:
    """An affine transform, bicubic; what lies outside of the image has the colour `fill`."""
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
            # Where it lies on a line, nothing of the others is seen.
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
    """What an operation that looks at each pixel's level alone makes of every level, table (3, 256)."""
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
    return int(image[y, x, 0] * 19595 + image[y, x, 1] * 38470 + image[y, x, 2] * 7471 + 32768) >> 16


@compile_kernel
def _blended(image: Image, operation: int, factor: float, out: Image) -> None:
    """An image mixed with its grey one (7), its mean grey (8), black (9) or its smoothed one (10)."""
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

"""Rectangles of random erasing for every image of a batch, as numbers that a kernel takes.

Their distribution is that of timm's RandomErasing with its default arguments: 2 to 33 % of the area, sides in a
log-uniform ratio of 0.3 to 1 / 0.3, and the first of ten attempts whose sides are below the image's. An image
that no attempt fits stays as it is. Shapes: B images.
"""

import math

import numpy as np
from numpy.typing import NDArray

AREA, RATIO, ATTEMPTS = (0.02, 1 / 3), (0.3, 1 / 0.3), 10

DRAWS = 2 + 4 * ATTEMPTS
"""Random numbers per image: whether it is erased, its seed, and area, ratio, top and left of each attempt."""


def draw_rectangles(draws: NDArray[np.float64], probability: float, sides: tuple[int, int]) -> NDArray[np.float64]:
    """Returns top, left, height, width and seed of each rectangle, (B, 5); height and width are 0 for none.

    The numbers are whole. Seeds have 53 bits, so that float64 holds them exactly.

    Args:
        draws: Numbers in 0 .. 1, without 1, (B, `DRAWS`).
        probability: Probability that an image is erased.
        sides: (H, W) of the images.
    """
    height, width = sides
    attempts = draws[:, 2:].reshape(-1, ATTEMPTS, 4)
    area = (AREA[0] + (AREA[1] - AREA[0]) * attempts[..., 0]) * (height * width)
    low, high = (math.log(each) for each in RATIO)
    ratio = np.exp(low + (high - low) * attempts[..., 1])
    tall, wide = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (tall < height) & (wide < width)
    chosen = np.arange(len(draws)), fits.argmax(axis=1)
    tall, wide, rooms = tall[chosen], wide[chosen], attempts[chosen]
    top = np.floor(rooms[:, 2] * (height - tall + 1))
    left = np.floor(rooms[:, 3] * (width - wide + 1))
    found = np.stack([top, left, tall, wide, np.floor(draws[:, 1] * 2.0**53)], axis=1)
    found[~fits.any(axis=1) | (draws[:, 0] >= probability), :4] = 0.0
    return found

"""Random parameters of DeiT's augmentation for every image of a batch, as numbers that the kernels take.

Crops are drawn as in torchvision's (and timm's) RandomResizedCrop, then mirroring, then RandAugment in timm's
form m9-mstd0.5-inc1. RandAugment applies two of fifteen operations, each with probability 1/2. The magnitude
is drawn from a normal distribution of mean 9 and standard deviation 0.5, clipped to 0 .. 10 (Cubuk et al.,
RandAugment, arXiv 1909.13719; Touvron et al., arXiv 2012.12877).

Two things differ from timm. A crop has at least one pixel, where timm fails on images of a pixel or two.
Posterizing leaves at least one bit, where timm asks Pillow for 0 bits, which Pillow rejects. Shapes: B
images.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OPERATIONS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd",
    "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing", "ShearX", "ShearY",
    "TranslateXRel", "TranslateYRel",
)  # fmt: skip
"""Operations by timm's names and in timm's order. An operation's number is its place."""

ROTATE, POSTERIZE, SOLARIZE, SOLARIZE_ADD = (OPERATIONS.index(name) for name in OPERATIONS[3:7])
FIRST_BLEND, LAST_BLEND = OPERATIONS.index("ColorIncreasing"), OPERATIONS.index("SharpnessIncreasing")
SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y = (OPERATIONS.index(name) for name in OPERATIONS[11:])

SCALE, RATIO, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10
LAYERS = 2
MAGNITUDE, DEVIATION, LARGEST = 9.0, 0.5, 10.0
DRAWS = 4 * ATTEMPTS + 1 + 4 * LAYERS
"""Random numbers per image: area, ratio, top and left of each attempt at a crop; one for mirroring; and for each
operation its kind, whether it is applied, its magnitude and its sign.
"""


@dataclass(frozen=True)
class Operations:
    """Crops and operations of each image of a batch.

    Attributes:
        boxes: Top, left, height and width of the crop, (B, 4) int64.
        mirrored: (B,) bool.
        operations: Numbers in `OPERATIONS`, -1 for none, (B, 2) int64.
        values: (B, 2, 6) float64. For operations that move pixels, the matrix (a, b, c, d, e, f): place (x,
            y) of the result shows place (a x + b y + c, d x + e y + f). For the others, the first entry is
            their bits, threshold, addend or factor.
    """

    boxes: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    operations: NDArray[np.int64]
    values: NDArray[np.float64]


def draw_operations(draws: NDArray[np.float64], sides: tuple[int, int], *, flip: bool) -> Operations:
    """Returns the crops and operations that follow from uniform random numbers.

    Args:
        draws: Numbers in 0 .. 1, (B, `DRAWS`).
        sides: (H, W) of the images.
        flip: Whether images are mirrored with probability 1/2.
    """
    from scipy.special import ndtri  # here, since other augmentations need no scipy

    crops, mirror, operations = np.split(draws, [4 * ATTEMPTS, 4 * ATTEMPTS + 1], axis=1)
    boxes = _boxes(crops.reshape(-1, ATTEMPTS, 4), sides)
    which, whether, level, sign = np.moveaxis(operations.reshape(-1, LAYERS, 4), -1, 0)
    numbers = np.where(whether <= 0.5, (which * len(OPERATIONS)).astype(np.int64), -1)
    levels = np.clip(MAGNITUDE + DEVIATION * ndtri(level), 0.0, LARGEST) / LARGEST
    values = _values(numbers, levels, np.where(sign > 0.5, -1.0, 1.0), sides)
    return Operations(boxes, (mirror[:, 0] < 0.5) & flip, numbers, values)


def _boxes(draws: NDArray[np.float64], sides: tuple[int, int]) -> NDArray[np.int64]:
    """Returns the first of each image's attempts at a crop that fits into it, (B, 4), or the central crop.

    Args:
        draws: (B, `ATTEMPTS`, 4) in 0 .. 1: area, ratio, top and left.
        sides: (H, W) of the images.
    """
    height, width = sides
    area = (SCALE[0] + (SCALE[1] - SCALE[0]) * draws[..., 0]) * (height * width)
    low, high = (math.log(each) for each in RATIO)
    ratio = np.exp(low + (high - low) * draws[..., 1])
    tall = np.maximum(np.rint(np.sqrt(area / ratio)), 1).astype(np.int64)
    wide = np.maximum(np.rint(np.sqrt(area * ratio)), 1).astype(np.int64)
    fits = (tall <= height) & (wide <= width)
    chosen = np.arange(len(draws)), fits.argmax(axis=1)
    tall, wide, rooms = tall[chosen], wide[chosen], draws[chosen]
    top = (rooms[:, 2] * (height - tall + 1)).astype(np.int64)
    left = (rooms[:, 3] * (width - wide + 1)).astype(np.int64)
    boxes = np.stack([top, left, tall, wide], axis=1)
    boxes[~fits.any(axis=1)] = _central(height, width)
    return boxes


def _central(height: int, width: int) -> tuple[int, int, int, int]:
    """Returns the central crop for images that no attempt fits: as much of the middle as the ratios allow."""
    tall = min(height, round(width / RATIO[0]))
    wide = min(width, round(height * RATIO[1]))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def _values(
    numbers: NDArray[np.int64], levels: NDArray[np.float64], signs: NDArray[np.float64], sides: tuple[int, int]
) -> NDArray[np.float64]:
    """Returns the matrices and other values of the operations, (B, 2, 6).

    The ranges are timm's: 30 degrees of rotation, 0.3 of shear, 0.45 of a side of translation.

    Args:
        numbers: Numbers in `OPERATIONS`, -1 for none, (B, 2).
        levels: Magnitudes as shares of the largest, (B, 2).
        signs: 1 or -1, (B, 2).
        sides: (H, W) of the images.
    """
    height, width = sides
    values = np.zeros((*numbers.shape, 6))
    values[..., 0] = values[..., 4] = 1.0
    for number, entry, most, side in (
        (SHEAR_X, 1, 0.3, 1), (SHEAR_Y, 3, 0.3, 1), (TRANSLATE_X, 2, 0.45, width), (TRANSLATE_Y, 5, 0.45, height),
    ):  # fmt: skip
        np.copyto(values[..., entry], signs * levels * most * side, where=numbers == number)
    for place in zip(*np.nonzero(numbers == ROTATE), strict=True):
        values[place] = _rotation(float(signs[place] * levels[place] * 30.0), height, width)
    first = values[..., 0]
    np.copyto(first, np.maximum(1, 4 - np.floor(levels * 4)), where=numbers == POSTERIZE)
    np.copyto(first, 256 - np.minimum(256, np.floor(levels * 256)), where=numbers == SOLARIZE)
    np.copyto(first, np.minimum(128, np.floor(levels * 110)), where=numbers == SOLARIZE_ADD)
    blends = (numbers >= FIRST_BLEND) & (numbers <= LAST_BLEND)
    np.copyto(first, np.maximum(0.1, 1.0 + signs * levels * 0.9), where=blends)
    return values


def _rotation(degrees: float, height: int, width: int) -> tuple[float, ...]:
    """Returns the matrix of a counterclockwise rotation around the middle of the image.

    Args:
        degrees: Angle.
        height, width: Of the image, in pixels.
    """
    angle = -math.radians(degrees % 360.0)
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return cosine, sine, cosine * -x + sine * -y + x, -sine, cosine, -sine * -x + cosine * -y + y

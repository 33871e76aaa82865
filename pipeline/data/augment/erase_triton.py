"""Random erasing on a GPU: rectangles of a whole batch are filled with normal noise in one launch.

The noise of a pixel depends only on its image's seed and on its place in the image (Salmon et al., Parallel
Random Numbers: As Easy as 1, 2, 3, SC 2011), so an image is erased in the same way in every batch.

Import this module only to run it: it imports triton. If TRITON_INTERPRET=1 is set before triton is imported,
it runs on the CPU, slowly, for the tests.

Shapes: B images of a batch, H x W pixels, C channels.
"""

# mypy cannot check Triton's functions: their arguments get their types at the launch.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

import triton
import triton.language as tl
from torch import Tensor

PIXELS = 1024
"""Pixels that a program looks at."""


def triton_erase(images: Tensor, rectangles: Tensor) -> Tensor:
    """Fills rectangles of images with normal noise in place, and returns the images.

    Args:
        images: (B, C, H, W) of a floating dtype, contiguous.
        rectangles: Top, left, height, width and seed of each, (B, 5) float64, as `erasing.draw_rectangles` gives
            them, on the images' device. A height of 0 erases nothing.

    Raises:
        ValueError: If the images are not contiguous.
    """
    if not images.is_contiguous():
        raise ValueError("images are erased in place, so they must be contiguous")
    count, channels, height, width = images.shape
    spans = count, triton.cdiv(height * width, PIXELS)
    _erase[spans](images, rectangles.contiguous(), height, width, channels=channels, block=PIXELS)
    return images


# Triton turns an argument of value 1 into a constant, which has no methods, unless it is excluded from specialisation.
@triton.jit(do_not_specialize=["height", "width"])
def _erase(images, rectangles, height, width, channels: tl.constexpr, block: tl.constexpr):
    """Fills the part of one image's rectangle that lies among some of its pixels.

    Args:
        images: Pointer to the images, (B, C, H, W).
        rectangles: Pointer to the rectangles, (B, 5).
        height: H.
        width: W.
        channels: C.
        block: Pixels that a program looks at.
    """
    image = tl.program_id(0).to(tl.int64)
    given = rectangles + image * 5
    top, left = tl.load(given).to(tl.int32), tl.load(given + 1).to(tl.int32)
    bottom, right = top + tl.load(given + 2).to(tl.int32), left + tl.load(given + 3).to(tl.int32)
    first = tl.program_id(1) * block
    # Most programs look at rows above or below the rectangle.
    if (first < bottom * width) & (first + block > top * width):
        seed = tl.load(given + 4).to(tl.int64)
        place = first + tl.arange(0, block)
        y = place // width
        x = place - y * width
        erased = (y >= top) & (y < bottom) & (x >= left) & (x < right)
        for channel in tl.static_range(channels):
            at = channel * height * width + place
            noise = tl.randn(seed, at)
            target = images + image * channels * height * width + at
            tl.store(target, noise.to(images.dtype.element_ty), mask=erased)

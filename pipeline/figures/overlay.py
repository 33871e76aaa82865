"""Heat map of a network's attention over a picture."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageColor

from pipeline.figures import VERMILION

STRENGTH = 0.65
"""Opacity of the strongest attention, in (0, 1)."""


def attention_overlay(image: NDArray[np.uint8], attention: ArrayLike, *, in_patches: bool = False) -> NDArray[np.uint8]:
    """Draws the attention over a grey version of the image. More attention has more colour.

    The strongest patch has the same opacity in every picture. Uniform attention leaves the image without
    colour.

    Args:
        image: (H, W, 3) uint8.
        attention: (h, w), of any scale.
        in_patches: Whether each patch has one opacity, which suits pictures of few pixels; otherwise it changes
            smoothly from patch to patch.

    Returns:
        The picture, (H, W, 3) uint8.

    Raises:
        ValueError: the shapes are different ones.
    """
    heat = np.asarray(attention, dtype=np.float32)
    if image.ndim != 3 or image.shape[-1] != 3 or heat.ndim != 2:
        raise ValueError(f"needed: an image (H, W, 3) and attention (h, w), got {image.shape} and {heat.shape}")
    spread = float(heat.max() - heat.min())
    share = (heat - heat.min()) / spread if spread > 1e-9 else np.zeros_like(heat)
    size = (image.shape[1], image.shape[0])
    filled = Image.Resampling.NEAREST if in_patches else Image.Resampling.BILINEAR
    over = np.asarray(Image.fromarray(share).resize(size, filled))[..., None] * STRENGTH
    grey = np.asarray(Image.fromarray(image).convert("L").convert("RGB"), dtype=np.float32)
    colour = np.array(ImageColor.getrgb(VERMILION), dtype=np.float32)
    return np.rint(grey * (1 - over) + colour * over).astype(np.uint8)

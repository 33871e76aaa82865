"""Sources of images, one small reader each. A reader returns a `Source`; `pipeline.data.store` writes it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Source:
    """A labelled image set in memory.

    images: (N, H, W, C) uint8. labels: (N,) int64 in 0 .. len(classes) - 1. masks: (N, H, W) uint8 with 0 background,
    1 object, 255 undecided, or None. classes: names by label. origin, licence: where it came from, for the manifest.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: NDArray[np.uint8] | None
    classes: tuple[str, ...]
    origin: str
    licence: str


def read_digits(image_size: int) -> Source:
    """scikit-learn's 1,797 scanned digits (8 x 8, 17 grey levels), enlarged bilinearly; the ink is the mask.

    The ink is where the enlarged scan is above a quarter of full black: thin strokes stay whole there, and the object
    covers about as much of the picture as the scan's non-blank pixels do (0.45 against 0.51).
    """
    from sklearn.datasets import load_digits  # takes a second to import, and only this source needs it

    bundle = load_digits()
    full_black = 16.0
    scans = np.asarray(bundle.images, dtype=np.float32) / full_black * 255.0
    images = np.stack([_enlarged(scan, image_size) for scan in scans])
    return Source(
        name="digits",
        images=images[..., None],
        labels=np.asarray(bundle.target, dtype=np.int64),
        masks=(images > 63).astype(np.uint8),
        classes=tuple(str(digit) for digit in range(10)),
        origin="scikit-learn's copy of the UCI ML hand-written digits test set (Alpaydin and Kaynak, 1998)",
        licence="CC BY 4.0",
    )


def _enlarged(scan: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    resized = Image.fromarray(scan).resize((side, side), Image.Resampling.BILINEAR)
    enlarged: NDArray[np.uint8] = np.clip(np.rint(np.asarray(resized)), 0, 255).astype(np.uint8)
    return enlarged


@dataclass(frozen=True)
class Preview:
    """What is known of a source before it is read. images: how many; classes: names by label; channels: 1 or 3."""

    images: int
    classes: tuple[str, ...]
    channels: int


def preview(name: str) -> Preview:
    """What a source will give, told without reading it."""
    return {"digits": Preview(images=1797, classes=tuple(str(digit) for digit in range(10)), channels=1)}[name]


SOURCES: dict[str, Callable[[int], Source]] = {"digits": read_digits}
"""Readers by the name that `prepare.dataset` gives; each takes the side of the prepared images in pixels."""

"""Result type of the readers of named sets: a split with the set's own labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.decode.masks import Box

Original = int | str
"""The set's own label: a number, or a WordNet id."""


@dataclass(frozen=True)
class SplitListing:
    """A split with n pictures.

    Attributes:
        is_test: Whether it is the test split.
        pictures: Paths (n), or pixels (n, H, W, 3) uint8.
        labels: The set's own labels (n).
        classes: Names by the set's own label.
        masks: Paths (n), or None if the set has no masks.
        boxes: Boxes of each picture, None for one whose objects are unknown; or None if the set has no boxes.
    """

    is_test: bool
    pictures: Sequence[str] | NDArray[np.uint8]
    labels: Sequence[Original]
    classes: Mapping[Original, str]
    masks: Sequence[str] | None = None
    boxes: Sequence[tuple[Box, ...] | None] | None = None

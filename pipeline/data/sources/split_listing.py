"""What readers of named sets give: each split as the set itself tells it, with its own labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.decode.masks import Box

Original = int | str
"""A label as the set has it: a number, or a WordNet id."""


@dataclass(frozen=True)
class SplitListing:
    """A split of n pictures.

    pictures: paths, or pixels (n, H, W, 3) uint8. labels: n, as the set has them. classes: names by such label. masks:
    n paths. boxes: those of each picture; none means that nothing is known of it.
    """

    is_test: bool
    pictures: Sequence[str] | NDArray[np.uint8]
    labels: Sequence[Original]
    classes: Mapping[Original, str]
    masks: Sequence[str] | None = None
    boxes: Sequence[tuple[Box, ...] | None] | None = None

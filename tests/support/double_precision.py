"""Batches in double precision: there, what is the same but for rounding agrees to many digits on every processor.

In float32 two orders of summing can come to differ by far more than a rounding: the entropy of a map has the logarithm
of each component's share in its slope, so a pixel that stands barely above the cut multiplies the rounding of its map
by the inverse of what it stands above it.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pipeline.data.batches.batches import ImageBatches


class DoubleBatches(ImageBatches):
    """The same images, their pixels in float64."""

    def in_order(self, *given: Any, **named: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, labels in super().in_order(*given, **named):
            yield inputs.double(), labels

    def shuffled(self, *given: Any, **named: Any) -> Iterator[tuple[Tensor, ...]]:
        for inputs, *others in super().shuffled(*given, **named):
            yield inputs.double(), *others

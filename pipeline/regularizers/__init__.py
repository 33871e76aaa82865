"""Regularisers, one method a file: mathematics on tensors, and above it a module that says what it needs.

What a method of your own needs is imported from here (docs/methods.md). The rest of the pipeline imports the modules.
"""

from pipeline.regularizers.base import (
    Features,
    Frozen,
    Regularizer,
    RegularizerOutput,
    RequiredFeatures,
    at_least_float32,
)
from pipeline.regularizers.features import Collector

__all__ = [
    "Collector",
    "Features",
    "Frozen",
    "Regularizer",
    "RegularizerOutput",
    "RequiredFeatures",
    "at_least_float32",
]

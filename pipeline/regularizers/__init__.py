"""Regularisers, one method a file: mathematics on tensors, and above it a module that says what it needs.

What a method of your own needs is imported from here (docs/methods.md). The rest of the pipeline imports the modules.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    # These import torch, for which `sar-search status`, which asks for a schedule, does not wait.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "features" if name == "Collector" else "base"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)

"""Regularisers, one method per file: a function of tensors, and a `Regularizer` that declares its inputs.

A method of the user's own imports what it needs from this package (docs/methods.md). The rest of the pipeline
imports the modules.
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
    # Imported on access: both modules import torch, and `sar-search status` needs only the schedules of this package.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "features" if name == "Collector" else "base"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)

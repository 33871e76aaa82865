"""Regularisers, one method per file: a function of tensors, and a `Regularizer` that declares its inputs.

A training loop of the user's own (docs/library.md) and a method of the user's own (docs/methods/your-own.md) import
what they need from this package. The rest of the pipeline imports the modules.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.regularizers.attached import Attached
    from pipeline.regularizers.base import (
        Features,
        Frozen,
        Regularizer,
        RegularizerOutput,
        RequiredFeatures,
        at_least_float32,
    )
    from pipeline.regularizers.features import Collector
    from pipeline.regularizers.guided_transfer import GuidedTransfer
    from pipeline.regularizers.head_disagreement import HeadDisagreement
    from pipeline.regularizers.mask_supervision import MaskSupervision
    from pipeline.regularizers.relative_localisation import RelativeLocalisation
    from pipeline.regularizers.spatial_entropy import SpatialEntropy
    from pipeline.regularizers.total_variation import TotalVariation

__all__ = [
    "Attached",
    "Collector",
    "Features",
    "Frozen",
    "GuidedTransfer",
    "HeadDisagreement",
    "MaskSupervision",
    "Regularizer",
    "RegularizerOutput",
    "RelativeLocalisation",
    "RequiredFeatures",
    "SpatialEntropy",
    "TotalVariation",
    "at_least_float32",
]

MODULES = {
    "Attached": "attached",
    "Collector": "features",
    "GuidedTransfer": "guided_transfer",
    "HeadDisagreement": "head_disagreement",
    "MaskSupervision": "mask_supervision",
    "RelativeLocalisation": "relative_localisation",
    "SpatialEntropy": "spatial_entropy",
    "TotalVariation": "total_variation",
}
"""The module of each name that is not in `base`."""


def __getattr__(name: str) -> Any:
    # Imported on access: the modules import torch, and `sar-search status` needs only the schedules of this package.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{MODULES.get(name, 'base')}"), name)

"""All methods, by their name under `regularizer` in params.yaml. A new method is its file and a line here."""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.regularizers.base import Regularizer
from pipeline.regularizers.spatial_entropy import SpatialEntropy

METHODS: dict[str, Callable[[Any], Regularizer]] = {"spatial_entropy": SpatialEntropy}


def build_regularizers(configs: Mapping[str, Any]) -> dict[str, Regularizer]:
    """One regulariser by name for each configuration; those of weight 0 only monitor."""
    return {name: METHODS[name](config) for name, config in configs.items()}

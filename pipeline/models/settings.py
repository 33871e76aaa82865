"""What this room takes: plain frozen values, importable without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INITS = ("xavier", "timm")

LAYER_NAMES = ("last", "last_two", "last_three", "last_four", "all")
"""Names for sets of blocks; `resolve_layers` turns them into indices."""

LayerSpec = str | tuple[int, ...]
"""One of LAYER_NAMES, or block indices counted from 0 (negative: from the end)."""


@dataclass(frozen=True)
class ModelConfig:
    """A network by its timm name.

    name: timm model name. kwargs: keyword arguments that override the named network's. init: "xavier" or "timm".
    drop_path: stochastic depth rate of the last block, rising linearly from 0 in the first.
    """

    name: str
    kwargs: Mapping[str, Any]
    init: str
    drop_path: float


def resolve_layers(spec: LayerSpec, depth: int) -> tuple[int, ...]:
    """Block indices (ascending, from 0) that a layer specification means in a network of `depth` blocks.

    Raises:
        ValueError: an unknown name, no index, an index out of range or twice, or more blocks than there are.
    """
    if isinstance(spec, str):
        if spec not in LAYER_NAMES:
            raise ValueError(f"unknown layers {spec!r}; known names: {', '.join(LAYER_NAMES)}, or a list of indices")
        count = depth if spec == "all" else LAYER_NAMES.index(spec) + 1
        if count > depth:
            raise ValueError(f"layers {spec!r} needs {count} blocks, but the network has {depth}")
        return tuple(range(depth - count, depth))
    indices = [int(index) for index in spec]
    if not indices:
        raise ValueError("layers is an empty list; name at least one block")
    for index in indices:
        if not -depth <= index < depth:
            raise ValueError(f"layers names block {index}, but the network's blocks are 0 to {depth - 1}")
    resolved = tuple(sorted(index % depth for index in indices))
    if len(set(resolved)) < len(resolved):
        raise ValueError(f"layers {list(indices)} names a block twice")
    return resolved

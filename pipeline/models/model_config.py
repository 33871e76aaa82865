"""Inputs of this room as plain frozen values, importable without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INITS = ("xavier", "timm")

LAST_BLOCKS = ("standard", "no_skip")

LAYER_NAMES = ("last", "last_two", "last_three", "last_four", "all")
"""Names for sets of blocks; `resolve_layers` turns them into indices."""

LayerSpec = str | tuple[int, ...]
"""One of LAYER_NAMES, or block indices counted from 0 (negative: from the end)."""


@dataclass(frozen=True)
class SpatialPriorConfig:
    """The attention of SP-ViT; see `spatial_prior`.

    Attributes:
        blocks: number of blocks, from the first, that have the prior.
        hidden: width of a head's MLP; None: the channels of a head.
        positional_conv: whether a depthwise 3 x 3 convolution follows every block of the network.
    """

    blocks: int = 0
    hidden: int | None = None
    positional_conv: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """A network by its timm name.

    Fields that were added after the first release have a default, so that the sidecars of earlier checkpoints
    can be read.

    Attributes:
        name: timm model name.
        kwargs: keyword arguments that override those of the named network.
        init: "xavier" or "timm".
        drop_path: stochastic depth rate of the last block; the rate rises linearly from 0 in the first block.
        last_block: "standard" or "no_skip" (see `last_block`).
        spatial_prior: the spatial prior; also accepted as a mapping, the form that a checkpoint's sidecar holds.
    """

    name: str
    kwargs: Mapping[str, Any]
    init: str
    drop_path: float
    last_block: str = "standard"
    spatial_prior: SpatialPriorConfig = SpatialPriorConfig()

    def __post_init__(self) -> None:
        if isinstance(self.spatial_prior, Mapping):
            object.__setattr__(self, "spatial_prior", SpatialPriorConfig(**self.spatial_prior))


NetworkRecord = Mapping[str, Any]
"""A description of the network that weights belong to: {"timm": name}, or `model`, `num_classes`, `image_size` and
`channels` from a checkpoint's sidecar.
"""


@dataclass(frozen=True)
class RecordedWeights:
    """The content of `Weights` that the journal and results store per specification: no path, which differs
    between machines.
    """

    sha256: str
    resolved: str
    network: NetworkRecord | None


@dataclass(frozen=True)
class Weights:
    """The weights that a specification (a timm name, a path, models:/name@alias) was resolved to.

    Attributes:
        spec: the specification as it was given.
        path: path of the file.
        sha256: SHA-256 of the file, in hexadecimal.
        resolved: meaning of the specification, in words; empty for a file, which means itself.
        network: record of the network that the weights belong to; None for a bare file.
    """

    spec: str
    path: str
    sha256: str
    resolved: str = ""
    network: NetworkRecord | None = None


def resolve_layers(spec: LayerSpec, depth: int) -> tuple[int, ...]:
    """Returns the block indices (ascending, from 0) that a layer specification names in a network of `depth` blocks.

    Raises:
        ValueError: an unknown name, no index, an index out of range or named twice, or more blocks than there are.
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

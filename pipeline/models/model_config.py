"""What this room takes: plain frozen values, importable without torch."""

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

    blocks: how many, from the first, have it. hidden: width of a head's MLP; None: the channels of a head.
    positional_conv: a depthwise 3 x 3 convolution after every block of the network.
    """

    blocks: int = 0
    hidden: int | None = None
    positional_conv: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """A network by its timm name.

    name: timm model name. kwargs: keyword arguments that override the named network's. init: "xavier" or "timm".
    drop_path: stochastic depth rate of the last block, rising linearly from 0 in the first. last_block: "standard" or
    "no_skip" (see `last_block`). spatial_prior: also taken as a mapping, which is what a checkpoint's sidecar holds.

    What came after the first release has a default, so that the sidecars of earlier checkpoints can be read.
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
"""What is known of the network that weights are of: {"timm": name}, or of a checkpoint's sidecar `model`,
`num_classes`, `image_size` and `channels`.
"""


@dataclass(frozen=True)
class RecordedWeights:
    """`Weights` as journal and results have them, by specification: no path, which differs between machines."""

    sha256: str
    resolved: str
    network: NetworkRecord | None


@dataclass(frozen=True)
class Weights:
    """The weights that a specification (a timm name, a path, models:/name@alias) was resolved to.

    spec: as it was given. path: of the file. sha256: of the file, in hexadecimal. resolved: what the specification was
    found to mean, in words; empty for a file, which means itself. network: None for a bare file.
    """

    spec: str
    path: str
    sha256: str
    resolved: str = ""
    network: NetworkRecord | None = None


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

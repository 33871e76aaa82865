"""Networks as they will be trained, tried out without their weights: shapes alone say whether a setting can run.

torch's meta device gives tensors a shape and no memory, so that a network of any size is built, and seen through a
training step's forward pass, in milliseconds.
"""

import itertools
import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.config import Params
from pipeline.data.sources import Preview
from pipeline.errors import UserError, cut, shown
from pipeline.models.build import build_model
from pipeline.models.settings import resolve_layers
from pipeline.models.tap import SimilarityTap
from pipeline.tune.space import SearchSpace

LAYERS = "regularizer.spatial_entropy.layers"
NETWORK = ("model.name", "model.kwargs")

MOST_BLOCKS = 1000
"""Blocks are objects, on the meta device too: a million of them would take minutes. timm's deepest ViT has 48."""

BYTES_A_WEIGHT = 16
"""In training: a weight, its gradient and AdamW's two moments, 4 bytes each."""


@dataclass(frozen=True)
class Network:
    """weights: how many there are. depth: blocks. grid: (H, W) of patches."""

    weights: int
    depth: int
    grid: tuple[int, int]


def try_networks(params: Params, space: SearchSpace, source: Preview, device: str) -> Network:
    """The network of params.yaml, after every one that a control or the search can ask for has been tried.

    Raises:
        UserError: one of them cannot be trained, or lacks blocks that are to be regularised; says who asks for it.
    """

    def tried(setting: Params, where: str) -> Network:
        return try_network(setting, where, len(source.classes), source.channels, device)

    base = tried(params, "params.yaml")
    _blocks("params.yaml", params.regularizer.spatial_entropy.layers, base.depth)
    for name, values in space.controls.items():
        where = f"{space.file}: controls.{name}"
        setting = params.with_values(values, where=where)
        network = base if setting.model == params.model else tried(setting, where)
        _blocks(where, setting.regularizer.spatial_entropy.layers, network.depth)
    searched = [path for path in NETWORK if path in space.dimensions]
    for choice in itertools.product(*(space.dimensions[path]["choices"] for path in searched)):
        setting = params.with_values(dict(zip(searched, choice, strict=True)), where=space.file)
        network = base if setting.model == params.model else tried(setting, space.file)
        _check_choices(setting, space, network.depth)
    return base


def _check_choices(setting: Params, space: SearchSpace, depth: int) -> None:
    """Every choice of layers must exist in a network of this depth, and no two may be the same blocks."""
    choices = [setting.regularizer.spatial_entropy.layers]
    if LAYERS in space.dimensions:
        choices = space.dimensions[LAYERS]["choices"]
    seen: dict[tuple[int, ...], Any] = {}
    for spec in choices:
        blocks = _blocks(space.file, spec, depth)
        if blocks in seen:
            raise UserError(
                f"{space.file}: {LAYERS}: {seen[blocks]!r} and {spec!r} are the same blocks {list(blocks)} in a "
                f"network of {depth}; leave one out."
            )
        seen[blocks] = spec


def _blocks(where: str, spec: Any, depth: int) -> tuple[int, ...]:
    try:
        return resolve_layers(spec if isinstance(spec, str) else tuple(spec), depth)
    except ValueError as error:
        raise UserError(f"{where}: {LAYERS}: {cut(str(error), 300)}.") from None


def try_network(params: Params, where: str, num_classes: int, channels: int, device: str) -> Network:
    """The network of a setting, if it can be trained with the tap in place.

    Raises:
        UserError: it cannot be built, run, tapped or kept in memory; begins with `where`, which says who asked for it.
    """
    side, depth = params.prepare.image_size, params.model.kwargs.get("depth")
    if isinstance(depth, int) and depth > MOST_BLOCKS:
        raise UserError(f"{where}: model.kwargs: given depth {depth}; allowed: at most {MOST_BLOCKS} blocks")
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # of a network without weights, say; what matters is whether it runs
        try:
            model = build_model(
                params.model.config(), num_classes=num_classes, image_size=(side, side), channels=channels
            )
        except ValueError as error:
            raise UserError(f"{where}: model.{error}") from None
        try:
            SimilarityTap(model, "last").remove()
        except ValueError as error:
            key = "kwargs" if "class_token" in params.model.kwargs else "name"
            reason = f"{error}. SAR regularises the CLS query's attention."
            raise UserError(f"{where}: model.{key}: {reason}") from None
        except TypeError as error:  # heads of a negative number of channels, whose root is imaginary
            raise _not_run(params, where, error) from None
        patch = model.patch_embed.patch_size[0]
        if side % patch:
            raise UserError(
                f"{where}: model.kwargs: patch_size {patch} does not divide prepare.image_size {side}; the last "
                f"{side % patch} rows and columns of every image would be cut off"
            )
        network = Network(sum(each.numel() for each in model.parameters()), len(model.blocks), (side // patch,) * 2)
        _check_memory(network, where, device)
        try:
            tokens: list[int] = []
            model.blocks[-1].register_forward_hook(lambda block, inputs, output: tokens.append(output.shape[1]))
            model.train()(torch.empty(2, channels, side, side))
        except Exception as error:  # torch's and timm's own, of any kind: all mean that these keywords will not do
            raise _not_run(params, where, error) from None
    patches = network.grid[0] * network.grid[1]
    if tokens != [model.num_prefix_tokens + patches]:
        raise UserError(f"{where}: model.kwargs: the last block sees fewer tokens than the {patches} patches")
    return network


def _not_run(params: Params, where: str, error: Exception) -> UserError:
    given, reason = shown(params.model.kwargs, 300), cut(str(error).strip().partition("\n")[0], 300)
    return UserError(f"{where}: model.kwargs: {params.model.name} can be built with {given}, but not run: {reason}")


def _check_memory(network: Network, where: str, device: str) -> None:
    if device.startswith("cuda"):
        there = torch.cuda.get_device_properties(torch.device(device)).total_memory
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = network.weights * BYTES_A_WEIGHT
    if needed > there:
        raise UserError(
            f"{where}: model.name and model.kwargs: {network.weights:,} weights take {needed / 2**30:,.0f} GiB to "
            f"train, but there are {there / 2**30:,.0f} here ({device}); take a smaller network"
        )

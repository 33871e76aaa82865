"""Networks rebuilt as they were when their weights were trained, from the record stored with the weights or
by timm name.
"""

import difflib
import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .architecture import describe_network
from .build import build_model
from .model_config import ModelConfig, NetworkRecord, SpatialPriorConfig, Weights
from .pretrained import INPUT
from .weights import abbreviate, describe_difference, first_line


def load_source(
    weights: Weights, tensors: Mapping[str, Tensor], config: ModelConfig, image_size: tuple[int, int]
) -> Any:
    """Returns the network that weights belong to, rebuilt from its record, with these weights loaded.

    Its fresh weights are drawn from torch's global random stream before they are replaced.

    Args:
        weights: the resolved weights with the record of their network.
        tensors: the weights, by key.
        config: the network that bare weights are tried with: first with a standard last block and no prior,
            then as it is.
        image_size: (H, W) in pixels, for bare weights.

    Raises:
        ValueError: the network cannot be built, or the weights belong to another network.
    """
    if weights.network is None:
        return _of_bare(tensors, config, image_size)
    try:
        network = _described(weights.network)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the network of these weights cannot be rebuilt from their record: {error}") from None
    _load_exactly(network, tensors, "their record")
    return network


def fetch_timm(name: str) -> dict[str, Tensor]:
    """Returns the weights of a timm model, from timm's cache or by timm's own download.

    torch's random stream is not changed.

    Args:
        name: timm model name, perhaps with a tag.

    Raises:
        ValueError: no such name, a name without weights, or weights that cannot be downloaded now.
    """
    import timm

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_pretrained(), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ValueError(f"is neither a file or folder here, nor a model of timm{hint}")
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs every further attempt
            return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # timm, the hub's client or the connection may raise anything
        said = first_line(error)
        if said.startswith(("Invalid pretrained tag", "No pretrained weights")):
            there = timm.list_pretrained(name.partition(".")[0] + ".*")
            raise ValueError(
                f"timm has no such weights; it has {abbreviate(there) if there else 'none of this model'}"
            ) from None
        raise ValueError(
            f"timm could not get these weights ({said}). Without a connection name a file in its place: a .safetensors "
            "or .pth file of the same network, fetched elsewhere, or a checkpoint's folder"
        ) from None


def _described(network: NetworkRecord) -> Any:
    if "timm" in network:
        import timm

        built: Any = timm.create_model(network["timm"], pretrained=False)
        describe_network(built)
        return built
    height, width = network["image_size"]
    return build_model(
        ModelConfig(**network["model"]),
        num_classes=network["num_classes"],
        image_size=(height, width),
        channels=network["channels"],
    )


def _of_bare(tensors: Mapping[str, Tensor], config: ModelConfig, image_size: tuple[int, int]) -> Any:
    """Returns the network of weights that have no record, with these weights loaded.

    Args:
        tensors: the weights, by key; the number of classes and channels is read from their shapes.
        config: the network that they are tried with: first with a standard last block and no prior, then as it is.
        image_size: (H, W) in pixels.

    Raises:
        ValueError: the weights fit neither network.
    """
    plain = replace(config, last_block="standard", spatial_prior=SpatialPriorConfig())
    kernel = tensors.get(INPUT)
    head = next((tensors[key] for key in ("head.weight", "head.fc.weight") if key in tensors), None)
    channels, classes = (3 if kernel is None or kernel.ndim != 4 else kernel.shape[1]), 0 if head is None else len(head)
    said = ""
    for taken_for in (plain, config) if plain != config else (plain,):
        network = build_model(taken_for, num_classes=classes, image_size=image_size, channels=channels)
        try:
            _load_exactly(network, tensors, "model.name")
        except ValueError as error:
            said = said or str(error)
        else:
            return network
    raise ValueError(
        f"a bare file of weights does not say which network it belongs to; {config.name} with model.kwargs was tried, "
        f"but {said}. Name a checkpoint's folder, a timm name or a registered model (models:/name@alias) instead: "
        "these say it"
    )


def _load_exactly(network: nn.Module, tensors: Mapping[str, Tensor], described_by: str) -> None:
    """Loads weights that must fit a network exactly.

    Args:
        network: The network.
        tensors: The weights by key.
        described_by: What the network was built from, for the message.

    Raises:
        ValueError: the weights do not fit.
    """
    said, _, _ = describe_difference(network.state_dict(), tensors)
    if said:
        raise ValueError(f"the weights do not fit the network that {described_by} describes: {said}")
    network.load_state_dict(dict(tensors))

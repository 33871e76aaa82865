"""Networks as they were when their weights were made: by what these say of themselves, or by a name of timm's."""

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
from .weights import abbreviate


def load_source(
    weights: Weights, tensors: Mapping[str, Tensor], config: ModelConfig, image_size: tuple[int, int]
) -> Any:
    """The network that weights are of, as it was: by what they say of themselves.

    config, image_size: the network that bare weights are taken for, with a standard last block and no prior, or with
    those of `config`. Its fresh weights are drawn from torch's global stream before they are replaced.

    Raises:
        ValueError: it cannot be built, or the weights are not its own.
    """
    if weights.network is None:
        return _of_bare(tensors, config, image_size)
    try:
        network = _described(weights.network)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its network cannot be built from what it says of itself: {error}") from None
    _load_exactly(network, tensors)
    return network


def fetch_timm(name: str) -> dict[str, Tensor]:
    """The weights of a name of timm's, out of its cache or by its own download. torch's random stream stays.

    Raises:
        ValueError: no such name, a name without weights, or weights that cannot be had now.
    """
    import timm

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_pretrained(), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ValueError(f"is neither a file or folder here, nor a model of timm{hint}")
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells every further attempt
            return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # of timm, of the hub's client, of the connection: of any kind
        said = str(error).strip().partition("\n")[0][:200] or type(error).__name__
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
    plain = replace(config, last_block="standard", spatial_prior=SpatialPriorConfig())
    kernel = tensors.get(INPUT)
    head = next((tensors[key] for key in ("head.weight", "head.fc.weight") if key in tensors), None)
    channels, classes = (3 if kernel is None or kernel.ndim != 4 else kernel.shape[1]), 0 if head is None else len(head)
    said = ""
    for taken_for in (plain, config) if plain != config else (plain,):
        network = build_model(taken_for, num_classes=classes, image_size=image_size, channels=channels)
        try:
            _load_exactly(network, tensors)
        except ValueError as error:
            said = said or str(error)
        else:
            return network
    raise ValueError(
        f"a bare file of weights does not say what network it is of; taken for {config.name} with model.kwargs, "
        f"{said}. Name a checkpoint's folder, a timm name or a registered model (models:/name@alias), which do"
    )


def _load_exactly(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    own = network.state_dict()
    wrong = {
        "missing": [key for key in own if key not in tensors],
        "unexpected": [key for key in tensors if key not in own],
        "of another shape": [key for key in own if key in tensors and own[key].shape != tensors[key].shape],
    }
    if any(wrong.values()):
        listed = "; ".join(f"{what} {abbreviate(keys)}" for what, keys in wrong.items() if keys)
        raise ValueError(f"the weights are of another network: {listed}")
    network.load_state_dict(dict(tensors))

"""Pretrained weights for a network that is to be trained further.

The network is first built as its parameters say, with every random draw of fresh weights, and receives the
pretrained weights afterwards. Weights that stay fresh are therefore the same with and without pretraining.
timm's own functions resize position embeddings, patch kernels and relative position biases, rename keys of
other releases, and change the number of input channels.

Some weights stay fresh: a classifier for another number of classes, a spatial prior, and its convolutions.
Some weights stay unused: norm2 and ls1 of the last block, if the network's last block has no skip. Any other
key that is missing, unexpected or of another shape is an error.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .architecture import describe_network, list_classifiers
from .last_block import skip_parameter_names, unused_without_skip
from .spatial_prior import is_of_prior
from .weights import describe_difference, first_line, format_shape

INPUT = "patch_embed.proj.weight"


@dataclass(frozen=True)
class AdaptedWeights:
    """Pretrained weights in the form that one network takes.

    Attributes:
        tensors: tensors of the network's state, by key.
        notes: sentences on what was adapted and what stays fresh.
    """

    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...]

    def load(self, model: nn.Module) -> None:
        """Loads the weights into the network that they were adapted to, in its precision and on its device."""
        model.load_state_dict(dict(self.tensors), strict=False)


def adapt_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> AdaptedWeights:
    """Adapts weights to a network that is to be trained further.

    Args:
        model: the network, which may be on the meta device and is not changed.
        tensors: the weights, by key.

    Raises:
        ValueError: weights of another network. The message lists the keys that are missing, unexpected or of
            another shape, and what to do.
    """
    own = model.state_dict()
    adapted, notes = _adapted(model, tensors)
    fresh = {key for key in own if key not in adapted and is_of_prior(key)}
    heads = _heads(model)
    head = [key for name in heads for key in own if key.startswith(name + ".")]
    if any(key not in adapted or adapted[key].shape != own[key].shape for key in head):
        notes.insert(0, _fresh_head(own, adapted, head))
        adapted = {key: value for key, value in adapted.items() if not key.startswith(tuple(f"{n}." for n in heads))}
        fresh |= set(head)
    unused = unused_without_skip(model)
    adapted = {key: value for key, value in adapted.items() if not (unused and key.startswith(unused))}
    said, missing, unexpected = describe_difference(own, adapted, fresh)
    if said:
        raise ValueError(f"the weights are of another network: {said}. {_advice(model, missing, unexpected)}")
    return AdaptedWeights(adapted, tuple(notes))


def _adapted(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the weights after timm's own adaptations, and notes on these adaptations."""
    grid = _grid_of(model, tensors)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about a call that timm makes
            adapted = dict(_filter_of(model)(dict(tensors), model))
    except Exception as error:  # timm checks little, so weights that do not fit may raise anything
        raise ValueError(f"timm cannot fit these weights to the network: {first_line(error)}") from None
    notes = []
    kept = {key for key in tensors if key in adapted}
    if "pos_embed" in kept and adapted["pos_embed"].shape != tensors["pos_embed"].shape:
        here = describe_network(model).grid
        notes.append(f"position embeddings resized from {format_shape(grid)} to {format_shape(here)}")
    if INPUT in kept and adapted[INPUT].shape != tensors[INPUT].shape:
        before, now = tensors[INPUT].shape[2:], adapted[INPUT].shape[2:]
        notes.append(f"patch kernels resized from {format_shape(before)} to {format_shape(now)} pixels")
    biases = [key for key in kept if key.endswith("relative_position_bias_table")]
    if any(adapted[key].shape != tensors[key].shape for key in biases):
        notes.append("relative position biases resized")
    kernel, own = adapted.get(INPUT), dict(model.named_parameters()).get(INPUT)
    if kernel is not None and own is not None and kernel.ndim == 4 and kernel.shape[1] != own.shape[1]:
        adapted[INPUT] = _with_channels(kernel, own.shape[1])
        notes.append(f"input channels adapted from {kernel.shape[1]} to {own.shape[1]}")
    return adapted, notes


def _filter_of(model: nn.Module) -> Callable[[dict[str, Tensor], Any], Mapping[str, Tensor]]:
    """Returns timm's function that converts weights for networks of this kind."""
    from timm.models import pvt_v2, swin_transformer, vision_transformer

    kind = describe_network(model).kind
    if kind == "vit":
        return lambda state, network: vision_transformer.checkpoint_filter_fn(state, network, adapt_layer_scale=True)
    chosen: Callable[..., Mapping[str, Tensor]] = (swin_transformer if kind == "swin" else pvt_v2).checkpoint_filter_fn
    return chosen


def _grid_of(model: Any, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Returns the patch grid of the position embeddings among a ViT's weights, or (0, 0) without such embeddings.

    Raises:
        ValueError: position embeddings that must be resized but form no square grid.
    """
    places = tensors.get("pos_embed")
    own = getattr(model, "pos_embed", None)
    if places is None or own is None or places.ndim != 3:
        return 0, 0
    prefix = 0 if model.no_embed_class else int(model.num_prefix_tokens)
    count = places.shape[1] - prefix
    side = math.isqrt(max(count, 0))
    if side * side != count and places.shape[1] != own.shape[1]:
        raise ValueError(
            f"position embeddings of {places.shape[1]} tokens cannot be resized: without the prefix tokens of this "
            f"network ({prefix}) they are not a square grid; take weights of a network with the same prefix tokens "
            "(class_token, reg_tokens, no_embed_class)"
        )
    return side, side


def _with_channels(kernel: Tensor, channels: int) -> Tensor:
    from timm.models import adapt_input_conv

    base = kernel.shape[1]
    try:
        adapted: Tensor = adapt_input_conv(channels, kernel, **({} if base == 3 else {"base_chans": base}))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"input channels cannot be adapted from {base} to {channels}: {error}") from None
    return adapted


def _heads(model: nn.Module) -> list[str]:
    """Returns the names of a network's classifiers."""
    parts = list_classifiers(model)
    return [name for name, module in model.named_modules() if any(module is part for part in parts)]


def _fresh_head(own: Mapping[str, Tensor], adapted: Mapping[str, Tensor], head: list[str]) -> str:
    """Returns a note that the classifier stays fresh.

    Args:
        own: state of the network, by key.
        adapted: pretrained weights, by key.
        head: keys of the network's classifiers.
    """
    weight = next(key for key in head if key.endswith("weight"))
    theirs = f"{len(adapted[weight])}" if weight in adapted else "none"
    return f"classifier not pretrained ({len(own[weight])} classes, the weights had {theirs})"


def _advice(model: nn.Module, missing: list[str], unexpected: list[str]) -> str:
    """Returns a sentence on what to change so that the weights fit.

    Args:
        model: the network.
        missing: keys of the network that the weights lack.
        unexpected: keys of the weights that the network lacks.
    """
    if missing and not unexpected and all(key.startswith(skip_parameter_names(model)) for key in missing):
        return "They are of a network whose last block has no skip: set model.last_block: no_skip"
    if unexpected and not missing and all(is_of_prior(key) for key in unexpected):
        return "They are of a network with a spatial prior: set model.spatial_prior as in that network"
    return "Set model.name and model.kwargs to the network that they are of, or take weights of this one"

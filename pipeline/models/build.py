"""Networks by timm name, with the number of classes, the image size and the initial weights that the task needs.

This module needs only torch and timm, and no other room, because the folder travels with every registered model.
"""

import difflib
import json
import re
from typing import Any

import torch
from torch import Tensor, nn

from .architecture import SUPPORTED, Architecture, UnknownKind, describe_network
from .last_block import remove_skip
from .model_config import INITS, LAST_BLOCKS, ModelConfig, SpatialPriorConfig
from .spatial_prior import PositionalConv, PriorAttention, SpatialPrior

__all__ = ["ModelConfig", "build_model"]

RESERVED = {"img_size", "num_classes", "in_chans", "drop_path_rate", "pretrained", "checkpoint_path"}
RESERVED |= {"device", "dtype", "model_name"}
# Keywords that turn the network into something other than a classifier, or that control how timm builds it.
RESERVED |= {"features_only", "out_indices", "feature_cls", "kwargs_filter", "pretrained_cfg", "pretrained_cfg_overlay"}
RESERVED |= {"pretrained_strict", "cache_dir", "scriptable", "exportable", "no_jit"}


def build_model(config: ModelConfig, *, num_classes: int, image_size: tuple[int, int], channels: int) -> Any:
    """Returns a network with fresh weights, drawn from torch's global random stream.

    `architecture` lists the supported kinds of network.

    Args:
        config: the network's name and options.
        num_classes: number of outputs of the classifier.
        image_size: (H, W) in pixels.
        channels: channels of the input images.

    Raises:
        ValueError: an unknown name or keyword, sizes that do not fit, a network of another kind, or one that
            cannot have the requested last block or spatial prior. The message begins with the field of
            `config` that is at fault.
    """
    import timm  # not at the top: importing timm takes seconds, and some callers build no network

    for field, given, known in (("init", config.init, INITS), ("last_block", config.last_block, LAST_BLOCKS)):
        if given not in known:
            raise ValueError(f"{field}: unknown {field} {given!r}; known: {', '.join(known)}")
    if not timm.is_model(config.name):
        close = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ValueError(f"name: timm has no model {_brief(repr(config.name))}{hint}")
    reserved = RESERVED & set(config.kwargs)
    if reserved:
        raise ValueError(
            f"kwargs: {', '.join(sorted(reserved))} cannot be given as keywords: other parameters set them, or "
            "they are not the network's"
        )
    _check_patch_size(config.kwargs.get("patch_size", 1))
    model = _create(config, image_size, num_classes=num_classes, in_chans=channels, drop_path_rate=config.drop_path)
    try:
        architecture = describe_network(model)
    except UnknownKind:
        raise ValueError(f"name: {config.name} is a {type(model).__name__}; supported are {SUPPORTED}") from None
    rows, columns = architecture.grid
    if rows * columns < 1 or len(architecture.stage) < 1:
        raise ValueError(
            f"kwargs: {config.name}: a {image_size[0]} x {image_size[1]} image gives a {rows} x {columns} grid of "
            f"patches and {architecture.blocks} blocks; there must be at least one of each"
        )
    if config.init == "xavier":
        if not isinstance(getattr(model.patch_embed, "proj", None), nn.Conv2d):
            raise ValueError(f"init: {config.name} has no convolution that makes patches; take timm, not xavier")
        _init_xavier(model)
    # This comes after all random draws of the plain network, so that its weights are the same with these parts and
    # without them.
    field = "last_block"
    try:
        if config.last_block == "no_skip":
            remove_skip(model)
        field = "spatial_prior"
        _add_spatial_prior(model, config.spatial_prior, architecture)
    except ValueError as error:
        raise ValueError(f"{field}: {config.name}: {error}") from None
    return model


def _check_patch_size(given: Any) -> None:
    """Rejects a patch size that is neither a positive whole number nor a list of two.

    timm accepts some other values too, and then fails with a message that does not mention patches.
    """
    sides = list(given) if isinstance(given, list | tuple) else [given] * 2
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        shown = _brief(json.dumps(given, default=str))
        raise ValueError(
            f"kwargs: given patch_size {shown}; allowed: a whole number above 0, or a list of two, [height, width]"
        )


def _create(config: ModelConfig, image_size: tuple[int, int], **fixed: Any) -> Any:
    """Returns timm's network of this name at this image size.

    Args:
        config: the network's name and keyword arguments.
        image_size: (H, W) in pixels.
        fixed: keyword arguments of `timm.create_model` that do not come from `config.kwargs`.
    """
    import timm
    from timm.models import is_model_in_modules

    sizeless = is_model_in_modules(config.name, ("pvt_v2",))  # PVTv2 takes images of any size
    given: dict[str, Any] = {**({} if sizeless else {"img_size": image_size}), **config.kwargs}
    try:
        model: Any = timm.create_model(config.name, pretrained=False, **fixed, **given)
    except Exception as error:  # timm and torch check little, so a wrong value may raise anything
        reason, at = _reason(error), "kwargs"
        if reason.startswith("Invalid pretrained tag"):
            at = "name"
        if "'img_size'" in reason:
            at, reason = "name", f"{reason}; supported are {SUPPORTED}"
        raise ValueError(
            f"{at}: {config.name} cannot be built with {_brief(str(dict(config.kwargs)))}: {reason}"
        ) from error
    if sizeless:
        model.image_size = image_size  # PVTv2 does not store it, and `describe_network` needs it
    return model


def _add_spatial_prior(model: Any, config: SpatialPriorConfig, architecture: Architecture) -> None:
    """Adds the prior to the first blocks of a Vision Transformer, and the convolutions if they are requested.

    With `positional_conv` and 0 blocks, the network has the convolutions alone. This is the control of a
    network with both.

    Args:
        model: network of timm, changed in place.
        config: number of blocks, width of the MLPs, and whether to add the convolutions.
        architecture: architecture of `model`.

    Raises:
        ValueError: more blocks than there are, no hidden unit, or a network that cannot have the prior.
    """
    if config.blocks == 0 and not config.positional_conv:
        return
    from timm.models.vision_transformer import Attention  # type: ignore[attr-defined]

    if architecture.kind != "vit":
        raise ValueError(f"the prior is for Vision Transformers, and this is a {type(model).__name__}; take blocks: 0")
    if not 0 <= config.blocks <= architecture.blocks:
        raise ValueError(
            f"blocks: given {config.blocks}, but this network has {architecture.blocks} blocks; take 0 to "
            f"{architecture.blocks}"
        )
    if config.hidden is not None and config.hidden < 1:
        raise ValueError(f"the prior needs at least one hidden unit, not {config.hidden}")
    if model.dynamic_img_size or not isinstance(model.patch_drop, nn.Identity):
        raise ValueError("the prior needs every patch of a fixed grid: no dynamic_img_size, no patch_drop_rate")
    for number, block in enumerate(model.blocks[: config.blocks]):
        plain: Any = getattr(block, "attn", None)
        if type(plain) is not Attention:
            raise ValueError(
                f"the prior is put into timm's standard attention, and block {number}, a {type(block).__name__}, has "
                + ("none" if plain is None else f"a {type(plain).__name__}")
            )
        prior = SpatialPrior(plain.num_heads, config.hidden or plain.head_dim, architecture.grid)
        block.attn = PriorAttention(plain, prior, architecture.prefix)
    if config.positional_conv:
        for block in model.blocks:
            block.positional_conv = PositionalConv(model.embed_dim, architecture.grid, architecture.prefix)
            block.register_forward_hook(_convolve)


def _convolve(block: Any, inputs: Any, output: Tensor) -> Tensor:
    """Adds the positional convolution to the output of a block; a forward hook.

    Args:
        block: block with a `positional_conv`.
        inputs: unused.
        output: tokens, (B, T, D).
    """
    convolved: Tensor = block.positional_conv(output)
    return convolved


def _reason(error: Exception) -> str:
    """Returns one line that says what went wrong; torch's own messages continue with signatures and traces."""
    said = _brief(str(error).strip().partition("\n")[0], 200)
    if keyword := re.search(r"(?:unexpected keyword argument|multiple values for (?:keyword )?argument) '(.*)'", said):
        return f"it knows no keyword {keyword[1]!r}"
    if isinstance(error, IndexError):
        return f"a list has too few values ({said})"
    if isinstance(error, LookupError):
        return f"it knows no {said}"
    return said or "timm does not take one of these values"


def _brief(text: str, longest: int = 300) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _init_xavier(model: Any) -> None:
    """Initialises linear layers Xavier-uniformly with bias 0, and the patch embedding with deviation 0.02 and bias 0.

    timm's own initialisation does not learn small one-channel images in a few epochs; this one does.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    projection: nn.Conv2d = model.patch_embed.proj
    nn.init.normal_(projection.weight, std=0.02)
    if isinstance(projection.bias, torch.Tensor):
        nn.init.zeros_(projection.bias)

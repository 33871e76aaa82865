"""Networks by timm name, with the number of classes, the image size and the initial weights that the task needs.

Needs torch and timm only, and no other room: this folder travels with every registered model.
"""

import difflib
import re
from typing import TYPE_CHECKING

import torch
from torch import nn

from .settings import INITS, ModelConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

__all__ = ["ModelConfig", "build_model"]

RESERVED = {"img_size", "num_classes", "in_chans", "drop_path_rate", "pretrained", "device", "dtype", "model_name"}


def build_model(
    config: ModelConfig, *, num_classes: int, image_size: tuple[int, int], channels: int
) -> "VisionTransformer":
    """A Vision Transformer with fresh weights, drawn from torch's global random stream.

    image_size: (H, W) in pixels; channels: of the input images.

    Raises:
        ValueError: an unknown name or keyword, sizes that do not fit, or a network that is not a plain ViT. Begins with
            the field of `config` that is at fault.
    """
    import timm  # takes seconds to import, so only who builds a network pays for it
    from timm.models.vision_transformer import VisionTransformer

    if config.init not in INITS:
        raise ValueError(f"init: unknown init {config.init!r}; known: {', '.join(INITS)}")
    if not timm.is_model(config.name):
        close = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ValueError(f"name: timm has no model {_brief(repr(config.name))}{hint}")
    reserved = RESERVED & set(config.kwargs)
    if reserved:
        raise ValueError(
            f"kwargs: {', '.join(sorted(reserved))} cannot be given as keywords: other parameters set them"
        )
    try:
        model = timm.create_model(
            config.name,
            pretrained=False,
            num_classes=num_classes,
            in_chans=channels,
            img_size=image_size,
            drop_path_rate=config.drop_path,
            **config.kwargs,
        )
    except Exception as error:  # timm and torch check little themselves: what a wrong value raises is of any kind
        reason = _reason(error)
        at = "name" if reason.startswith("Invalid pretrained tag") or "'img_size'" in reason else "kwargs"
        raise ValueError(
            f"{at}: {config.name} cannot be built with {_brief(str(dict(config.kwargs)))}: {reason}"
        ) from error
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"name: {config.name} is a {type(model).__name__}, not a plain Vision Transformer")
    rows, columns = model.patch_embed.grid_size
    if rows * columns < 1 or len(model.blocks) < 1:
        raise ValueError(
            f"kwargs: {config.name}: a {image_size[0]} x {image_size[1]} image gives a {rows} x {columns} grid of "
            f"patches and {len(model.blocks)} blocks; there must be at least one of each"
        )
    if config.init == "xavier":
        _init_xavier(model)
    return model


def _reason(error: Exception) -> str:
    """What went wrong, in a line; torch goes on with signatures and traces."""
    said = _brief(str(error).strip().partition("\n")[0], 200)
    if keyword := re.search(r"(?:unexpected keyword argument|multiple values for (?:keyword )?argument) '(.*)'", said):
        return f"it knows no keyword {keyword[1]!r}"
    if isinstance(error, LookupError):
        return f"it knows no {said}"
    return said or "timm does not take one of these values"


def _brief(text: str, longest: int = 300) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _init_xavier(model: "VisionTransformer") -> None:
    """Xavier-uniform linear layers with bias 0, and a patch embedding of deviation 0.02 with bias 0.

    timm's own init does not learn small one-channel images in a few epochs; this one does.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    projection = model.patch_embed.proj
    assert isinstance(projection, nn.Conv2d)
    nn.init.normal_(projection.weight, std=0.02)
    if isinstance(projection.bias, torch.Tensor):
        nn.init.zeros_(projection.bias)

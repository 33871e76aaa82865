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


def build_model(
    config: ModelConfig, *, num_classes: int, image_size: tuple[int, int], channels: int
) -> "VisionTransformer":
    """A Vision Transformer with fresh weights, drawn from torch's global random stream.

    image_size: (H, W) in pixels; channels: of the input images.

    Raises:
        ValueError: an unknown name or keyword, sizes that do not fit, or a network that is not a plain ViT.
    """
    import timm  # takes seconds to import, so only who builds a network pays for it
    from timm.models.vision_transformer import VisionTransformer

    if config.init not in INITS:
        raise ValueError(f"unknown init {config.init!r}; known: {', '.join(INITS)}")
    if not timm.is_model(config.name):
        close = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ValueError(f"timm has no model {config.name!r}{hint}")
    reserved = {"img_size", "num_classes", "in_chans", "drop_path_rate", "pretrained"} & set(config.kwargs)
    if reserved:
        raise ValueError(f"{', '.join(sorted(reserved))} cannot be given as keywords: other parameters set them")
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
    except (TypeError, ValueError, LookupError, AssertionError, RuntimeError, ArithmeticError) as error:
        keyword = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        reason = f"it knows no keyword {keyword[1]!r}" if keyword else str(error) or type(error).__name__
        raise ValueError(f"{config.name} cannot be built with {dict(config.kwargs)}: {reason}") from error
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"{config.name} is a {type(model).__name__}, not a plain Vision Transformer")
    rows, columns = model.patch_embed.grid_size
    if rows * columns < 1 or len(model.blocks) < 1:
        raise ValueError(
            f"{config.name}: a {image_size[0]} x {image_size[1]} image gives a {rows} x {columns} grid of patches and "
            f"{len(model.blocks)} blocks; there must be at least one of each"
        )
    if config.init == "xavier":
        _init_xavier(model)
    return model


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

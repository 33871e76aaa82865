"""Small networks of every kind for tests, and timm's own attention logits, read where it does not fuse them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig

SMALL = {"patch_size": 2, "embed_dim": 16, "depth": 3, "num_heads": 2}
SWIN = {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 3}
"""At 24 x 24 pixels: grids of 6 x 6 in windows of 3 x 3, then 3 x 3 in one window."""
PVT = {
    "depths": [1, 1, 2],
    "embed_dims": [8, 8, 16],
    "num_heads": [1, 1, 2],
    "sr_ratios": [4, 2, 1],
    "mlp_ratios": [2, 2, 2],
}
"""At 40 x 24 pixels: grids of 10 x 6, 5 x 3 and 3 x 2, of which the last one's keys are not pooled."""


def network(
    name: str = "vit_tiny_patch16_224",
    kwargs: dict[str, Any] | None = None,
    *,
    image_size: tuple[int, int] = (12, 12),
    drop_path: float = 0.0,
    noise: float = 0.1,
    **settings: Any,
) -> Any:
    """A network in evaluation mode, all of whose parameters are shaken: fresh biases and norms would hide mistakes."""
    torch.manual_seed(0)
    config = ModelConfig(name, SMALL if kwargs is None else kwargs, "xavier", drop_path, **settings)
    model = build_model(config, num_classes=3, image_size=image_size, channels=1).eval()
    for parameter in model.parameters():
        parameter.data.add_(noise * torch.randn_like(parameter))
    return model


def pictures(height: int = 12, width: int = 12, *, count: int = 4) -> Tensor:
    return torch.randn(count, 1, height, width, generator=torch.Generator().manual_seed(1))


def blocks_of(model: Any) -> list[Any]:
    """All blocks, in the order in which they run."""
    if hasattr(model, "blocks"):
        return list(model.blocks)
    return [block for stage in (model.layers if hasattr(model, "layers") else model.stages) for block in stage.blocks]


@contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """timm's attention without a fused kernel."""
    parts: list[Any] = [part for part in model.modules() if hasattr(part, "fused_attn")]
    before = [part.fused_attn for part in parts]
    for part in parts:
        part.fused_attn = False
    yield
    for part, fused in zip(parts, before, strict=True):
        part.fused_attn = fused


def softmaxed(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What each block's attention takes the softmax of, (B, A, T, T), as timm works it out by itself."""
    taken: list[Tensor] = []
    plain = Tensor.softmax
    with pytest.MonkeyPatch.context() as patch, unfused(model):
        patch.setattr(Tensor, "softmax", lambda logits, *given, **named: (taken.append(logits), plain(logits, *given, **named))[1])  # fmt: skip
        model(images)
    return taken


def hooks(model: nn.Module) -> int:
    """How many hooks its modules have."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def logits_by_hand(model: VisionTransformer, images: Tensor, layer: int) -> Tensor:
    """The CLS query's scaled products with all patch keys, (B, A, N), from what enters the attention of a block."""
    entered: list[Tensor] = []
    attention = model.blocks[layer].attn
    handle = attention.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    with torch.no_grad():
        model(images)
    handle.remove()
    tokens = entered[0]
    batch, count, width = tokens.shape
    heads = attention.num_heads
    products = tokens @ attention.qkv.weight.T + attention.qkv.bias
    query, key, _ = (
        part.reshape(batch, count, heads, width // heads).transpose(1, 2) for part in products.split(width, dim=-1)
    )
    query, key = attention.q_norm(query), attention.k_norm(key)
    attended = query @ key.transpose(-2, -1) / (width // heads) ** 0.5
    return attended[:, :, 0, model.num_prefix_tokens :].detach()

"""Architecture of timm's networks: blocks, tokens, patch grids, and the modules where taps attach their hooks.

timm may rename its modules and attributes. All code that reads a network by these names stands in this file.
Exceptions are `last_block` and `spatial_prior`, which rebuild blocks. Three kinds of network are supported:

    vit   VisionTransformer and its subclasses (ViT, DeiT with or without distillation, DINOv2, CLIP and SigLIP towers):
          one stage; its tokens are prefix tokens (CLS, distillation, registers), then the patches row by row
    swin  SwinTransformer: stages of windowed attention
    pvt   PyramidVisionTransformerV2: stages whose keys are pooled, except in the last stage

Shapes: B images, A heads, N = H x W patches, T tokens, D channels (of one head where there are heads).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .model_config import LayerSpec, resolve_layers
from .rows import split_projected
from .spatial_prior import PriorAttention

SUPPORTED = "Vision Transformers (ViT, DeiT, DINOv2, ...), Swin and PVTv2"


class UnknownKind(ValueError):
    """A network of a kind that this package does not support."""


@dataclass(frozen=True)
class Architecture:
    """The properties of a network that the rest of the pipeline needs.

    Attributes:
        kind: "vit", "swin" or "pvt".
        blocks: number of blocks, counted through all stages.
        grid: (H, W) of the patch tokens that the classifier receives.
        patch: (height, width) in pixels; the image's sides must be multiples of it.
        prefix: number of tokens before the patches.
        has_cls: whether the first prefix token is a CLS token.
        stage: indices of the blocks whose tokens form `grid`: all blocks, or those of the last stage.
        width: channels of a token that the classifier receives.
        inputs: (channels, height, width) of the images.
    """

    kind: str
    blocks: int
    grid: tuple[int, int]
    patch: tuple[int, int]
    prefix: int
    has_cls: bool
    stage: range
    width: int
    inputs: tuple[int, int, int]

    @property
    def query(self) -> str:
        """The default query of the similarity maps: "cls", or "mean" for a network without a CLS token."""
        return "cls" if self.has_cls else "mean"

    def resolve(self, spec: LayerSpec) -> tuple[int, ...]:
        """Returns the block indices that a layer specification names, as `resolve_layers` does.

        Raises:
            ValueError: an error of `resolve_layers`, or a block before the last stage.
        """
        layers = resolve_layers(spec, self.blocks)
        if early := [layer for layer in layers if layer not in self.stage]:
            last, (height, width) = f"{self.stage.start} to {self.stage.stop - 1}", self.grid
            raise ValueError(
                f"layers names block {early[0]}, whose tokens are not the final {height} x {width} grid; in this "
                f"network only blocks {last}, the last stage, have that grid, so name some of these"
            )
        return layers


def describe_network(model: nn.Module) -> Architecture:
    """Returns the architecture of a timm network, at the image size that it was built for.

    Args:
        model: network of timm; it may be on the meta device.

    Raises:
        UnknownKind: a network of another kind, which has no blocks that a tap could read.
    """
    network: Any = model
    kind, embedding, width = _kind(model), network.patch_embed, int(network.num_features)
    prefix, has_cls = 0, False
    if kind == "vit":
        stage = range(len(network.blocks))
        grid, patch, sides = embedding.grid_size, embedding.feat_ratio(as_scalar=False), embedding.img_size
        prefix, has_cls = int(network.num_prefix_tokens), bool(network.has_class_token)
    else:
        stages = network.layers if kind == "swin" else network.stages
        depths = [len(each.blocks) for each in stages]
        stage = range(sum(depths[:-1]), sum(depths))
        if kind == "swin":
            # Swin pads sides that it cannot halve or cut into windows, so only the patch size is required.
            grid, patch, sides = stages[-1].output_resolution, embedding.patch_size, embedding.img_size
        else:
            # PVTv2 takes images of any size and stores none. `build_model` sets `image_size`; a network that timm built
            # has the size that its weights were trained with.
            sides = getattr(model, "image_size", None) or network.pretrained_cfg["input_size"][-2:]
            grid, patch = _pair(sides), (1, 1)
            for halving in (4, *[2] * (len(depths) - 1)):  # its convolutions pad, so an incomplete patch counts as one
                grid = -(-grid[0] // halving), -(-grid[1] // halving)
    inputs = (_input_channels(model), *_pair(sides))
    return Architecture(kind, stage.stop, _pair(grid), _pair(patch), prefix, has_cls, stage, width, inputs)


def _pair(sizes: Any) -> tuple[int, int]:
    height, width = sizes
    return int(height), int(width)


def _input_channels(model: nn.Module) -> int:
    """Returns the number of channels of the images: the input channels of the first convolution in the patch
    embedding.

    A hybrid network has a convolutional backbone there, and then the first convolution is the backbone's.
    """
    embedding: Any = model.patch_embed
    return int(next(each for each in embedding.modules() if isinstance(each, nn.Conv2d)).in_channels)


def _kind(model: nn.Module) -> str:
    from timm.models.pvt_v2 import PyramidVisionTransformerV2  # not at the top: importing timm takes seconds
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    kinds = {"vit": VisionTransformer, "swin": SwinTransformer, "pvt": PyramidVisionTransformerV2}
    for kind, known in kinds.items():
        if isinstance(model, known):
            return kind
    raise UnknownKind(
        f"{type(model).__name__} has no blocks of patch tokens that can be read; supported are {SUPPORTED}"
    )


def list_blocks(model: nn.Module) -> list[Any]:
    """Returns the blocks of a network, through all stages.

    Raises:
        UnknownKind: as in `describe_network`.
    """
    network: Any = model
    if _kind(model) == "vit":
        return list(network.blocks)
    return [block for stage in getattr(network, "layers", None) or network.stages for block in stage.blocks]


def list_parts_before(model: nn.Module, block: int) -> list[nn.Module | nn.Parameter]:
    """Returns the modules and parameters that a network uses before a block.

    These are the patch embedding, position embeddings, prefix tokens, earlier blocks and the layers between
    stages. If `block` is the number of blocks, the result is everything before the final norm.

    Args:
        model: network of timm.
        block: index of the block, counted from 0 through all stages.

    Raises:
        UnknownKind: as in `describe_network`.
    """
    network: Any = model
    parts = [network.patch_embed]
    if _kind(model) == "vit":
        parts += [getattr(network, name, None) for name in ("cls_token", "dist_token", "reg_token", "pos_embed")]
        parts += [network.pos_drop, network.patch_drop, network.norm_pre, *network.blocks[:block]]
    else:
        between, left = None, block
        for stage in getattr(network, "layers", None) or network.stages:
            parts += [between, stage.downsample, *stage.blocks[:left]]
            left -= len(stage.blocks)
            if left < 0:
                break
            between = getattr(stage, "norm", None)  # only PVTv2's stages have one; the last is the final norm
    return [part for part in parts if part is not None]


def list_classifiers(model: nn.Module) -> list[nn.Module]:
    """Returns the classifiers of a network: one, or two in a network with a distillation token.

    Args:
        model: network of timm.
    """
    network: Any = model
    found = network.get_classifier()
    return list(found) if isinstance(found, tuple) else [found]


class QKCallback(Protocol):
    """Receiver of a block's queries and keys, each (B, A, T, D).

    A method may return a tensor of the same values, with which the attention continues. It returns None to
    leave the attention's own tensor in place. `projected` is called before both others, with the tensor (B,
    T, 3 A D) of which queries, keys and values are views.
    """

    def projected(self, projected: Tensor) -> Tensor | None: ...

    def query(self, query: Tensor) -> Tensor | None: ...

    def key(self, key: Tensor) -> Tensor | None: ...


def hook_similarity(
    model: nn.Module, block: int, callback: QKCallback, *, projected: bool = False
) -> list[RemovableHandle]:
    """Attaches hooks that pass a block's queries, and then its keys, to a callback in every forward pass,
    after their norms.

    The callback receives views. The hooks compute nothing themselves, so that gradient checkpointing finds
    the operations that it expects. The tensor that the callback returns is used if `passes_through(model)`,
    and ignored otherwise.

    Args:
        model: network of timm.
        block: index of the block, counted from 0 through all stages.
        callback: receiver of queries and keys.
        projected: whether `callback.projected` is also called. It is called only in blocks where nothing lies
            between the projection and the attention.

    Returns:
        Handles that remove the hooks.

    Raises:
        ValueError: the keys of this block's attention are not the tokens of the final grid.
    """
    attention = _attention(model, block)
    kind, where = _kind(model), f"{type(model).__name__}, block {block}"
    heads = attention.num_heads
    if kind == "swin":
        _require_one_window(model, block, "similarity maps")

        def split(module: nn.Module, inputs: Any, output: Tensor) -> None:
            query, key, _ = split_projected(output, 3, heads)
            callback.query(query)
            callback.key(key)

        return [attention.qkv.register_forward_hook(split)]
    if kind == "pvt":
        if attention.sr is not None:  # linear attention has this layer too
            raise ValueError(
                f"{where}: its keys are pooled, so a similarity map does not have a value for each patch; take a PVTv2 "
                "whose last stage does not pool keys (sr_ratios ends in 1, and the network is not a linear one), or a "
                "method that reads heads or tokens"
            )

        def tell_query(module: nn.Module, inputs: Any, output: Tensor) -> None:
            callback.query(split_projected(output, 1, heads)[0])

        def tell_key(module: nn.Module, inputs: Any, output: Tensor) -> None:
            callback.key(split_projected(output, 2, heads)[0])

        return [attention.q.register_forward_hook(tell_query), attention.kv.register_forward_hook(tell_key)]
    # timm calls q_norm and then k_norm in every forward pass; both are identities unless qk_norm is on.
    handles = []
    if projected and _gives_projected(model, block):
        handles.append(attention.qkv.register_forward_hook(lambda module, inputs, output: callback.projected(output)))
    return [
        *handles,
        attention.q_norm.register_forward_hook(lambda module, inputs, output: callback.query(output)),
        attention.k_norm.register_forward_hook(lambda module, inputs, output: callback.key(output)),
    ]


def _gives_projected(model: nn.Module, block: int) -> bool:
    """Returns whether a block's attention uses views of the projected tensor as its queries and keys, unchanged."""
    from timm.models.vision_transformer import Attention  # type: ignore[attr-defined]

    if _kind(model) != "vit":
        return False
    attention = _attention(model, block)
    # A subclass of timm's attention may change queries and keys before it uses them.
    if type(attention) not in (Attention, PriorAttention):
        return False
    return (type(attention.q_norm), type(attention.k_norm)) == (nn.Identity, nn.Identity)


def passes_through(model: nn.Module) -> bool:
    """Returns whether the attentions of a network continue with the tensors that hooks on queries and keys return."""
    return _kind(model) == "vit"


def num_heads(model: nn.Module, block: int) -> int:
    """Returns the number of heads of a block's attention.

    Args:
        model: network of timm.
        block: index of the block, counted from 0 through all stages.

    Raises:
        ValueError: the block's attention is of a kind that has no tap.
    """
    return int(_attention(model, block).num_heads)


def attention_scale(model: nn.Module, block: int) -> float:
    """Returns the factor of the logits in a block's attention: 1 / sqrt(D)."""
    return float(_attention(model, block).scale)


def hook_heads(model: nn.Module, block: int, keep: Callable[[Tensor], None]) -> list[RemovableHandle]:
    """Attaches a hook that passes the head outputs of a block, (B, A, T, D), to `keep` in every forward pass.

    The outputs are read before anything joins the heads: before the projection, and before the norm and the
    gate that some blocks have ahead of it.

    Args:
        model: network of timm.
        block: index of the block, counted from 0 through all stages.
        keep: receiver of the outputs.

    Raises:
        ValueError: the block does not have one such output for each token of the final grid.
    """
    attention = _attention(model, block)
    if _kind(model) == "swin":
        _require_one_window(model, block, "head outputs")
    heads = attention.num_heads

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        keep(split_projected(inputs[0], 1, heads)[0])

    after = attention.norm if _kind(model) == "vit" else attention.proj  # PVTv2's `norm` is applied to its keys
    return [after.register_forward_pre_hook(hook)]


def hook_tokens(model: nn.Module, keep: Callable[[Tensor], None]) -> list[RemovableHandle]:
    """Attaches a hook that passes the patch tokens after the final norm, (B, N, D), to `keep` in every forward pass."""
    kind, prefix = _kind(model), int(getattr(model, "num_prefix_tokens", 0))

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if kind == "vit":
            keep(output[:, prefix:])
        else:  # Swin's tokens are (B, H, W, D), PVTv2's (B, D, H, W)
            keep(output.flatten(1, 2) if kind == "swin" else output.flatten(2).transpose(1, 2))

    return [last_part(model).register_forward_hook(hook)]


def pooled_features(model: nn.Module, images: Tensor) -> Tensor:
    """Returns the CLS token and the mean of the patch tokens after the final norm, concatenated: (B, 2 D).

    For a network without a CLS token the result is the mean alone, (B, D). Where timm applies the norm to the
    pooled vector in place of the tokens, this function does the same.

    Args:
        model: network of timm.
        images: (B, C, H, W), in pixels.
    """
    network: Any = model
    tokens: Tensor = network.forward_features(images)
    kind = _kind(model)
    if kind != "vit":  # Swin's tokens are (B, H, W, D), PVTv2's (B, D, H, W)
        return tokens.mean((1, 2) if kind == "swin" else (2, 3))
    mean = network.fc_norm(tokens[:, int(network.num_prefix_tokens) :].mean(1))
    return torch.cat([network.fc_norm(tokens[:, 0]), mean], dim=1) if network.has_class_token else mean


def last_part(model: nn.Module) -> nn.Module:
    """Returns the module that outputs the patch tokens of the final grid: the final norm, or in PVTv2 the
    last stage, which contains that norm.

    Args:
        model: network of timm.
    """
    network: Any = model
    found: nn.Module = network.stages[-1] if _kind(model) == "pvt" else network.norm
    return found


def hook_block(model: nn.Module, block: int, keep: Callable[[Tensor], None]) -> list[RemovableHandle]:
    """Attaches a hook that passes the output of a block to `keep` in every forward pass.

    The hook computes nothing itself, so that gradient checkpointing finds the operations that it expects.

    Args:
        model: network of timm.
        block: index of the block, counted from 0 through all stages.
        keep: receiver of the output: (B, T, D), prefix tokens first; for Swin (B, H, W, D).
    """
    return [list_blocks(model)[block].register_forward_hook(lambda module, inputs, output: keep(output))]


def hook_grid(model: nn.Module, keep: Callable[[tuple[int, int]], None]) -> list[RemovableHandle]:
    """Attaches a hook that passes the final grid (H, W) of every forward pass to `keep`.

    Networks whose grid does not depend on the images get no hook.
    """
    network: Any = model
    kind = _kind(model)
    if kind == "vit" and network.dynamic_img_size:
        return [
            network.patch_embed.register_forward_hook(lambda module, inputs, output: keep(tuple(output.shape[1:3])))
        ]
    if kind == "pvt":  # its blocks receive the grid as their second argument
        return [network.stages[-1].blocks[0].register_forward_pre_hook(lambda module, inputs: keep(tuple(inputs[1])))]
    return []


def _attention(model: nn.Module, block: int) -> Any:
    from timm.models.vision_transformer import Attention  # type: ignore[attr-defined]

    part = list_blocks(model)[block]
    attention: Any = getattr(part, "attn", None)
    if _kind(model) == "vit" and not isinstance(attention, Attention | PriorAttention):
        found = f"block {block} is a {type(part).__name__}"
        if attention is not None:
            found = f"the attention of block {block} is a {type(attention).__name__}"
        raise ValueError(
            f"{type(model).__name__}: {found}, which cannot be read: only blocks with timm's standard attention can"
        )
    return attention


def _require_one_window(model: nn.Module, block: int, method: str) -> None:
    """Rejects a block of Swin whose tokens are split into several windows, or whose one window is shifted or padded.

    Args:
        model: a Swin network.
        block: index of the block, counted from 0 through all stages.
        method: name of the quantity that needs one window, for the message.

    Raises:
        ValueError: the block has several windows, or a shifted or padded one.
    """
    part = list_blocks(model)[block]
    height, width = part.input_resolution
    if tuple(part.window_size) != (height, width) or any(part.shift_size) or part.dynamic_mask:
        raise ValueError(
            f"{type(model).__name__}, block {block}: there are no {method}, because its grid of {height} x {width} is "
            f"cut into windows of {part.window_size[0]} x {part.window_size[1]}. One window must cover the grid of the "
            f"last stage: take images of another size or window_size {max(height, width)}, and set neither "
            "dynamic_img_size nor always_partition"
        )

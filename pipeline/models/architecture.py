"""Architecture of timm's networks, as far as the pipeline reads it: blocks, tokens, grids, and where the taps sit.

timm's modules and attributes may be renamed; what depends on their names to look into a network stands in this file
(`last_block` and `spatial_prior`, which rebuild blocks, know theirs). Three kinds of network are known:

    vit   VisionTransformer and its heirs (ViT, DeiT with or without distillation, DINOv2, CLIP and SigLIP towers):
          one stage, whose tokens are prefix tokens (CLS, distillation, registers) and then the patches, row by row
    swin  SwinTransformer: stages of windowed attention
    pvt   PyramidVisionTransformerV2: stages whose keys are pooled, those of the last one excepted

Shapes: B images, A heads, N = H x W patches, T tokens, D channels (of a head where there are heads).
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
    """A network of a kind that is not known here."""


@dataclass(frozen=True)
class Architecture:
    """What the rest of the pipeline needs to know of a network.

    kind: "vit", "swin" or "pvt". blocks: how many, counted through all stages. grid: (H, W) of the patch tokens that
    the head sees. patch: (height, width) that the image's must be multiples of. prefix: tokens before the patches.
    has_cls: whether the first of those is a CLS token. stage: the blocks whose tokens are that grid: all, or those of
    the last stage. width: channels of a token that the head sees. inputs: (channels, height, width) of the images.
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
        """The query of the network's similarity maps, where none is asked for: "cls", or "mean" without that token."""
        return "cls" if self.has_cls else "mean"

    def resolve(self, spec: LayerSpec) -> tuple[int, ...]:
        """The blocks that a layer specification means, as `resolve_layers`.

        Raises:
            ValueError: as there, or a block before the last stage.
        """
        layers = resolve_layers(spec, self.blocks)
        if early := [layer for layer in layers if layer not in self.stage]:
            last, (height, width) = f"{self.stage.start} to {self.stage.stop - 1}", self.grid
            raise ValueError(
                f"layers names block {early[0]}, whose tokens are not the final {height} x {width} grid; in this "
                f"network only the last stage's are, blocks {last}"
            )
        return layers


def describe_network(model: nn.Module) -> Architecture:
    """The architecture of a network of timm, at the image size that it was built for.

    Raises:
        UnknownKind: a network of another kind, which has no blocks that a tap could read.
    """
    network: Any = model
    kind, embedding, width = _kind(model), network.patch_embed, int(network.num_features)
    if kind == "vit":
        blocks, channels = len(network.blocks), _input_channels(model)
        return Architecture(
            kind,
            blocks,
            (int(embedding.grid_size[0]), int(embedding.grid_size[1])),
            _pair(embedding.feat_ratio(as_scalar=False)),
            int(network.num_prefix_tokens),
            bool(network.has_class_token),
            range(blocks),
            width,
            (channels, int(embedding.img_size[0]), int(embedding.img_size[1])),
        )
    stages = network.layers if kind == "swin" else network.stages
    depths = [len(stage.blocks) for stage in stages]
    last = range(sum(depths[:-1]), sum(depths))
    if kind == "swin":
        rows, columns = stages[-1].output_resolution
        inputs = (_input_channels(model), int(embedding.img_size[0]), int(embedding.img_size[1]))
        # Its stages pad what they cannot halve, or cut into windows.
        return Architecture(
            kind, sum(depths), (rows, columns), _pair(embedding.patch_size), 0, False, last, width, inputs
        )
    # PVTv2 takes images of any size and keeps none: `build_model` notes it; timm's own networks are of their weights'.
    rows, columns = getattr(model, "image_size", None) or network.pretrained_cfg["input_size"][-2:]
    inputs = (_input_channels(model), int(rows), int(columns))
    for halving in (4, *[2] * (len(depths) - 1)):  # its convolutions pad, so what is left over counts as a whole one
        rows, columns = -(-rows // halving), -(-columns // halving)
    return Architecture(kind, sum(depths), (rows, columns), (1, 1), 0, False, last, width, inputs)


def _pair(sizes: Any) -> tuple[int, int]:
    height, width = sizes
    return int(height), int(width)


def _input_channels(model: nn.Module) -> int:
    """Of the images: what the first convolution of the patch embedding takes, which a hybrid has a backbone before."""
    embedding: Any = model.patch_embed
    return int(next(each for each in embedding.modules() if isinstance(each, nn.Conv2d)).in_channels)


def _kind(model: nn.Module) -> str:
    from timm.models.pvt_v2 import PyramidVisionTransformerV2  # here: importing timm takes seconds
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    kinds = {"vit": VisionTransformer, "swin": SwinTransformer, "pvt": PyramidVisionTransformerV2}
    for kind, known in kinds.items():
        if isinstance(model, known):
            return kind
    raise UnknownKind(
        f"{type(model).__name__} has no blocks of patch tokens that can be read; what has are {SUPPORTED}"
    )


def list_blocks(model: nn.Module) -> list[Any]:
    """The blocks of a network, through all stages.

    Raises:
        ValueError: as `describe_network`.
    """
    network: Any = model
    if _kind(model) == "vit":
        return list(network.blocks)
    return [block for stage in getattr(network, "layers", None) or network.stages for block in stage.blocks]


def list_parts_before(model: nn.Module, block: int) -> list[nn.Module | nn.Parameter]:
    """What a network computes with before a block, counted from 0 through all stages: patch embedding, position
    embeddings, prefix tokens, earlier blocks, and what joins stages. As many as there are: all before the final norm.

    Raises:
        ValueError: as `describe_network`.
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
            between = getattr(stage, "norm", None)  # PVTv2's, of which the last is the final one
    return [part for part in parts if part is not None]


def list_classifiers(model: nn.Module) -> list[nn.Module]:
    """A network's classifiers: one, or with distillation two."""
    network: Any = model
    found = network.get_classifier()
    return list(found) if isinstance(found, tuple) else [found]


class QKCallback(Protocol):
    """Who is given queries and keys, (B, A, T, D). May give back the same values, for the attention to go on with.

    `projected` is asked before both, with what queries, keys and values are views of, (B, T, 3 A D).
    """

    def projected(self, projected: Tensor) -> Tensor | None: ...

    def query(self, query: Tensor) -> Tensor | None: ...

    def key(self, key: Tensor) -> Tensor | None: ...


def hook_similarity(
    model: nn.Module, block: int, callback: QKCallback, *, projected: bool = False
) -> list[RemovableHandle]:
    """Have a hook called with a block's queries, and then its keys, in every forward pass, after their norms.

    It is given views and nothing is computed here, so that gradient checkpointing finds the operations that it expects.
    What it gives back is taken where `passes_through` says so, and lost elsewhere. projected: whether it is also asked
    with what was projected, where nothing comes between that and the attention.

    Raises:
        ValueError: the keys of this block's attention are not the final grid's tokens.
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
        if attention.sr is not None:  # linear attention has one too
            raise ValueError(
                f"{where}: its keys are pooled, so similarity maps have no patch for each; take a PVTv2 whose last "
                "stage is not pooled (not a linear one, sr_ratios ending in 1), or a method that reads heads or tokens"
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
    """Whether a block's attention takes queries and keys as views of what was projected, with nothing between."""
    from timm.models.vision_transformer import Attention  # type: ignore[attr-defined]

    if _kind(model) != "vit":
        return False
    attention = _attention(model, block)
    # What derives from timm's attention may do anything between.
    if type(attention) not in (Attention, PriorAttention):
        return False
    return (type(attention.q_norm), type(attention.k_norm)) == (nn.Identity, nn.Identity)


def passes_through(model: nn.Module) -> bool:
    """Whether a network's attentions go on with what a hook on their queries and keys returns."""
    return _kind(model) == "vit"


def num_heads(model: nn.Module, block: int) -> int:
    """How many heads a block's attention has.

    Raises:
        ValueError: attention that has no tap.
    """
    return int(_attention(model, block).num_heads)


def attention_scale(model: nn.Module, block: int) -> float:
    """What a block's attention multiplies its logits with: 1 / sqrt(D)."""
    return float(_attention(model, block).scale)


def hook_heads(model: nn.Module, block: int, keep: Callable[[Tensor], None]) -> list[RemovableHandle]:
    """Have `keep` given what the heads of a block put out, (B, A, T, D), in every forward pass.

    That is before anything joins the heads: the projection, and the norm and the gate that some have before it.

    Raises:
        ValueError: there is no one such output for each of the final grid's tokens.
    """
    attention = _attention(model, block)
    if _kind(model) == "swin":
        _require_one_window(model, block, "head outputs")
    heads = attention.num_heads

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        keep(split_projected(inputs[0], 1, heads)[0])

    after = attention.norm if _kind(model) == "vit" else attention.proj  # PVTv2's `norm` is of its keys
    return [after.register_forward_pre_hook(hook)]


def hook_tokens(model: nn.Module, keep: Callable[[Tensor], None]) -> list[RemovableHandle]:
    """Have `keep` given the patch tokens after the final norm in every forward pass, (B, N, D)."""
    kind, prefix = _kind(model), int(getattr(model, "num_prefix_tokens", 0))

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if kind == "vit":
            keep(output[:, prefix:])
        else:  # Swin's are (B, H, W, D), PVTv2's (B, D, H, W)
            keep(output.flatten(1, 2) if kind == "swin" else output.flatten(2).transpose(1, 2))

    return [last_part(model).register_forward_hook(hook)]


def pooled_features(model: nn.Module, images: Tensor) -> Tensor:
    """The CLS token and the mean of the patch tokens after the final norm, joined: (B, 2 D). Of a network without a CLS
    token the mean alone, (B, D). Where timm norms what is pooled, in place of tokens, so is it here. images: (B, C, H,
    W).
    """
    network: Any = model
    tokens: Tensor = network.forward_features(images)
    kind = _kind(model)
    if kind != "vit":  # Swin's are (B, H, W, D), PVTv2's (B, D, H, W)
        return tokens.mean((1, 2) if kind == "swin" else (2, 3))
    mean = network.fc_norm(tokens[:, int(network.num_prefix_tokens) :].mean(1))
    return torch.cat([network.fc_norm(tokens[:, 0]), mean], dim=1) if network.has_class_token else mean


def last_part(model: nn.Module) -> nn.Module:
    """What puts out the patch tokens of the final grid: the final norm, or the last stage, which has it."""
    network: Any = model
    found: nn.Module = network.stages[-1] if _kind(model) == "pvt" else network.norm
    return found


def hook_block(model: nn.Module, block: int, keep: Callable[[Tensor], None]) -> list[RemovableHandle]:
    """Have `keep` given what a block puts out in every forward pass, (B, T, D), prefix first; of Swin (B, H, W, D).

    Nothing is computed here, so that gradient checkpointing finds the operations that it expects.
    """
    return [list_blocks(model)[block].register_forward_hook(lambda module, inputs, output: keep(output))]


def hook_grid(model: nn.Module, keep: Callable[[tuple[int, int]], None]) -> list[RemovableHandle]:
    """Have `keep` given the final grid (H, W) of every forward pass, in networks where it depends on the images."""
    network: Any = model
    kind = _kind(model)
    if kind == "vit" and network.dynamic_img_size:
        return [
            network.patch_embed.register_forward_hook(lambda module, inputs, output: keep(tuple(output.shape[1:3])))
        ]
    if kind == "pvt":  # whose blocks are told the grid beside the tokens
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
            f"{type(model).__name__}: {found}, which has no tap; blocks with timm's standard attention have one"
        )
    return attention


def _require_one_window(model: nn.Module, block: int, method: str) -> None:
    """Refuse a block of Swin whose tokens meet in several windows, or in one that is shifted or padded."""
    part = list_blocks(model)[block]
    height, width = part.input_resolution
    if tuple(part.window_size) != (height, width) or any(part.shift_size) or part.dynamic_mask:
        raise ValueError(
            f"{type(model).__name__}, block {block}: no {method} of a grid that is cut into windows (this one of "
            f"{height} x {width} into windows of {part.window_size[0]} x {part.window_size[1]}); they need a last "
            f"stage that one window covers, such as images of another size or window_size {max(height, width)}, and "
            "neither dynamic_img_size nor always_partition"
        )

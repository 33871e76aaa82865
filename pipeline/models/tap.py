"""The tap: reads similarity maps out of a Vision Transformer while its attention stays fused.

For one image, block and head the similarity map is the row of scaled dot products of the CLS query with every patch
key, before softmax, as an H x W grid: S_j = q_CLS . k_j / sqrt(d_head). Only that row is computed, beside the fused
kernel; queries and keys are taken after their norms, where a network has such (qk_norm).

Shapes: B images, L tapped layers, A heads, H x W patches, D channels a head.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from .settings import LayerSpec, resolve_layers

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


class SimilarityTap:
    """Collects the similarity maps of the chosen blocks in every forward pass, until it is removed.

    Made before any compiling; leaving a `with` block, or `remove()`, takes the hooks out again. The network's output
    is untouched to the bit, and gradients flow from the maps into the network.

    Raises:
        ValueError: a network that is not a plain ViT with a CLS token, or layers that it does not have.
    """

    def __init__(self, model: "VisionTransformer | nn.Module", layers: LayerSpec) -> None:
        blocks = getattr(model, "blocks", None)
        if blocks is None or not hasattr(model, "patch_embed"):
            raise ValueError(f"{type(model).__name__} has no blocks of patch tokens; the tap reads plain ViTs")
        if not getattr(model, "has_class_token", getattr(model, "cls_token", None) is not None):
            raise ValueError(f"{type(model).__name__} has no CLS token, whose query the similarity maps are made of")
        self.layers = resolve_layers(layers, len(blocks))
        patches: Any = model.patch_embed
        self._grid: tuple[int, int] = tuple(patches.grid_size)
        self._prefix = int(getattr(model, "num_prefix_tokens", 1))
        self._rows: dict[int, Tensor] = {}
        self._queries: dict[int, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        for layer in self.layers:
            attention: Any = getattr(blocks[layer], "attn", None)
            if not all(hasattr(attention, part) for part in ("q_norm", "k_norm", "scale")):
                self.remove()
                raise ValueError(f"the attention of block {layer} is a {type(attention).__name__}, which has no tap")
            # timm calls q_norm and then k_norm in every forward pass; both are identities unless qk_norm is on.
            self._handles += [
                attention.q_norm.register_forward_hook(self._keep_query(layer)),
                attention.k_norm.register_forward_hook(self._keep_row(layer, float(attention.scale))),
            ]

    def maps(self) -> Tensor:
        """The maps of the last forward pass, (B, L, A, H, W), layers in the order of `self.layers`.

        Raises:
            RuntimeError: no forward pass since the tap was made or cleared.
            ValueError: the tokens of that pass do not fill the grid of the patch embedding.
        """
        if len(self._rows) < len(self.layers):
            raise RuntimeError("no forward pass has filled the tap; run the network first")
        rows = torch.stack([self._rows[layer] for layer in self.layers], dim=1)
        height, width = self._grid
        if rows.shape[-1] != height * width:
            raise ValueError(f"{rows.shape[-1]} patch tokens do not fill the {height} x {width} grid of patches")
        return rows.reshape(*rows.shape[:-1], height, width)

    def clear(self) -> None:
        """Forget the last forward pass, and with it the activations that its maps hold."""
        self._rows.clear()
        self._queries.clear()

    def remove(self) -> None:
        """Take the hooks out of the network. What was collected stays readable."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _keep_query(self, layer: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], query: Tensor) -> None:
            self._queries[layer] = query[:, :, 0]

        return hook

    def _keep_row(self, layer: int, scale: float) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], key: Tensor) -> None:
            query, patches = self._queries.pop(layer), key[:, :, self._prefix :]
            # Under autocast queries and keys come in half precision, in which the maps' small differences would drown.
            exact = torch.promote_types(query.dtype, torch.float32)
            with torch.autocast(query.device.type, enabled=False):
                self._rows[layer] = torch.einsum("bad,band->ban", query.to(exact) * scale, patches.to(exact))

        return hook

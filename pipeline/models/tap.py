"""Taps, which read similarity maps, head outputs and tokens out of a network while its attention stays fused.

For one image, block and head the similarity map is a row of scaled dot products of queries and keys, before
softmax. It is an H x W grid over the patches j:

    S_j = q . k_j / sqrt(d_head)

Here q is the CLS query or the mean of the patches' queries. (The product is linear, so the latter gives the
mean of the patches' rows.) Queries and keys are taken after their norms, in networks with such norms
(qk_norm). Terms and factors that some attentions apply to the product are left out, since they are the same
for every image: Swin's relative position bias and the prior of SP-ViT (`spatial_prior`).

Taps are made before the network is compiled. They leave the network's output unchanged to the bit. Gradients
flow from their results into the network. They follow forward passes of the whole network (`model(images)`,
`run_to_block`), not calls of its parts. Gradient checkpointing runs blocks again during the backward pass:
this is no forward pass of the network, and does not change a tap.

Shapes: B images, L tapped layers, A heads, T tokens, H x W patches, D channels (of one head where there are heads).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .architecture import (
    attention_scale,
    describe_network,
    hook_block,
    hook_grid,
    hook_heads,
    hook_similarity,
    hook_tokens,
    list_blocks,
    num_heads,
    passes_through,
)
from .model_config import LayerSpec
from .rows import RowSpec, attention_row, key_passthrough, pooled_query, query_passthrough

QUERIES = ("cls", "mean")

RowFunction = Callable[[Tensor, RowSpec], tuple[Tensor, Tensor] | None]
"""Faster way to compute a block's rows from its attention's projection.

Its arguments are queries, keys and values side by side, (B, T, 3 A D), and the specification of the rows. It returns
the tensor with which the attention continues, and the products (B, A, S). It returns None for an input that it does
not support.
"""


class _Tap:
    """Base of all taps. A tap follows forward passes until it is removed, and returns the results of the latest one."""

    def __init__(self, model: nn.Module) -> None:
        self._architecture = describe_network(model)
        self.grid = self._architecture.grid
        self._results: dict[int, Any] = {}
        self._wanted = 1
        self.running = False
        self._with_gradient = False
        self._handles: list[RemovableHandle] = []

    def _attach(self, model: nn.Module) -> None:
        """Attaches the hooks that follow the network's forward passes.

        It is called last in a tap's constructor, so that a refused tap leaves the network unchanged.
        """
        self._handles += [
            *hook_grid(model, self._note_grid),
            model.register_forward_pre_hook(self._begin),
            model.register_forward_hook(self._end, always_call=True),
        ]

    def _begin(self, *_: object) -> None:
        self.clear()
        self.running, self._with_gradient = True, torch.is_grad_enabled()

    def _end(self, *_: object) -> None:
        """Marks the end of a forward pass; a forward hook that also runs after an error."""
        self.running = False

    def _note_grid(self, grid: tuple[int, int]) -> None:
        if self.running:
            self.grid = grid

    def keep(self, layer: int, found: Any) -> None:
        """Stores the result of a layer, if a forward pass of the whole network is running.

        Raises:
            RuntimeError: the layer runs without gradients inside a pass with gradients.
        """
        if not self.running:
            return
        if self._with_gradient and not torch.is_grad_enabled():
            raise RuntimeError(
                f"block {layer} runs without gradients inside a pass with them, as reentrant gradient checkpointing "
                "does; a tap would get no gradients: use timm's default, use_reentrant=False"
            )
        self._results[layer] = found

    def _found(self) -> list[Any]:
        """Returns the results of the last forward pass, in the order of the layers.

        Raises:
            RuntimeError: no forward pass since the tap was made or cleared.
        """
        if len(self._results) < self._wanted:
            raise RuntimeError("no forward pass has filled the tap; run the network first")
        return [self._results[layer] for layer in sorted(self._results)]

    def _on_grid(self, count: int) -> tuple[int, int]:
        """Returns the patch grid (H, W) of the last forward pass.

        Raises:
            ValueError: `count` patch tokens do not fill this grid.
        """
        height, width = self.grid
        if count != height * width:
            raise ValueError(f"{count} patch tokens do not fill the {height} x {width} grid of patches")
        return height, width

    def clear(self) -> None:
        """Drops the results of the last forward pass, and the activations that they refer to."""
        self._results.clear()

    def remove(self) -> None:
        """Removes the hooks from the network. The results so far can still be read."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.running = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the hooks."""
        self.remove()


class SimilarityTap(_Tap):
    """A tap that collects the similarity maps of the chosen blocks.

    Set the attribute `expected` to False while the maps are rarely needed: they can still be read, but are
    not computed during the pass.

    Args:
        model: network of timm.
        layers: blocks to read.
        query: "cls", or "mean" for the mean of the patches' queries.
        with_cls: whether the CLS query's product with the CLS key, which is in no map, is read too.
        rows: faster way to compute the products, for the inputs that it supports; None: plain operations.

    Raises:
        ValueError: a network or a block whose attention cannot be read, layers that it does not have, an unknown
            query, or the CLS query of a network without a CLS token. The message says what would work.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: LayerSpec,
        query: str = "cls",
        *,
        with_cls: bool = False,
        rows: RowFunction | None = None,
    ) -> None:
        super().__init__(model)
        if query not in QUERIES:
            raise ValueError(f"unknown query {query!r}; known: {', '.join(QUERIES)}")
        if with_cls and query != "cls":
            raise ValueError(f"the CLS token's product with itself goes with query 'cls', not {query!r}")
        if query == "cls" and not self._architecture.has_cls:
            raise ValueError(
                f"{type(model).__name__} has no CLS token, whose query the similarity maps would be made of; query "
                "'mean' takes the patches' queries"
            )
        self.layers = self._architecture.resolve(layers)
        self.query = query
        self.expected = True
        self.rows = rows
        self._with_cls = with_cls
        self._wanted = len(self.layers)
        # The keys of tokens before `first` are not used. `mean_from` is the `first` of `rows.query_passthrough`.
        self.first = 0 if with_cls else self._architecture.prefix
        self.mean_from = None if query == "cls" else self._architecture.prefix
        passes = passes_through(model)
        try:
            for layer in self.layers:
                spec = RowSpec(num_heads(model, layer), self.mean_from, self.first, attention_scale(model, layer))
                reader = _Reader(self, layer, spec, passes)
                self._handles += hook_similarity(model, layer, reader, projected=rows is not None)
        except ValueError:
            self.remove()
            raise
        self._attach(model)

    def maps(self) -> Tensor:
        """Returns the maps of the last forward pass, (B, L, A, H, W), layers in the order of `self.layers`.

        They are in float32, or in float64 if the network runs in float64. Under autocast queries and keys are
        in half precision, which is too coarse for the small differences within a map.

        Raises:
            RuntimeError: no forward pass since the tap was made or cleared.
            ValueError: the tokens of that pass do not fill the grid of the patch embedding.
        """
        rows, left_out = self._rows(), self._architecture.prefix - self.first
        if left_out:
            rows = [row[..., left_out:] for row in rows]
        images, heads, patches = rows[0].shape
        # A single block needs no stack; on small networks the number of calls decides the time.
        maps = rows[0] if len(rows) == 1 else torch.stack(rows, dim=1)
        return maps.reshape(images, len(rows), heads, *self._on_grid(patches))

    def cls(self) -> Tensor:
        """Returns the CLS query's products with the CLS key of the last forward pass, (B, L, A), in the
        precision of the maps.

        Raises:
            RuntimeError: no forward pass since the tap was made or cleared, or a tap made without `with_cls`.
        """
        if not self._with_cls:
            raise RuntimeError("the tap was made without with_cls")
        return torch.stack([row[..., 0] for row in self._rows()], dim=1)

    def _rows(self) -> list[Tensor]:
        """Returns the products of each tapped block, (B, A, S), computing those that were deferred."""
        return [row if isinstance(row, Tensor) else self.row(*row) for row in self._found()]

    def row(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """Returns the products of one block by plain operations, (B, A, S), of the tokens from `first` on.

        Args:
            query: queries, (B, A, T, D).
            key: keys, (B, A, T, D).
            scale: factor of the products.
        """
        return attention_row(key, pooled_query(query, self.mean_from) * scale, self.first)


class _Reader:
    """Reader of one block for a similarity tap.

    With gradients, rows are computed during the pass if possible. Otherwise queries and keys are stored until the maps
    are read, outside the blocks. Gradient checkpointing runs blocks again, and might miss the products if they were
    computed inside one. Under a compiler, plain operations are used, which it fuses by itself. Without gradients, the
    row is computed at once, because the queries and keys it is computed from take much memory.

    Args:
        tap: the tap that receives the rows.
        layer: index of the block.
        spec: specification of the rows.
        passes: whether the attention continues with the tensors that this reader returns.
    """

    def __init__(self, tap: SimilarityTap, layer: int, spec: RowSpec, passes: bool) -> None:
        self._tap, self._layer, self._spec, self._passes = tap, layer, spec, passes
        self._waiting: list[Tensor] = []
        self._is_read = False  # whether `rows` has computed this pass's row from the projection

    def projected(self, projected: Tensor) -> Tensor | None:
        tap, self._is_read = self._tap, False
        wanted = self._on_the_way() if torch.is_grad_enabled() else tap.running and not torch.compiler.is_compiling()
        found = tap.rows(projected, self._spec) if wanted and tap.rows is not None else None
        if found is None:
            return None
        self._is_read = True
        tap.keep(self._layer, found[1])
        return found[0]

    def query(self, query: Tensor) -> Tensor | None:
        if self._is_read:
            return None
        if not self._on_the_way():
            self._waiting[:] = [query]
            return None
        query, pooled = query_passthrough(query, self._spec.mean_from, self._spec.scale)
        self._waiting[:] = [pooled]
        return query

    def key(self, key: Tensor) -> Tensor | None:
        if self._is_read:
            return None
        pooled = self._waiting.pop()
        if self._on_the_way():
            key, row = key_passthrough(key, pooled, self._spec.first)
            self._tap.keep(self._layer, row)
            return key
        pair = pooled, key, self._spec.scale
        self._tap.keep(self._layer, pair if torch.is_grad_enabled() else self._tap.row(*pair))
        return None

    def _on_the_way(self) -> bool:
        """Returns whether the row is computed, with its gradients, while queries and keys pass to the attention."""
        if not self._passes or torch.compiler.is_compiling():
            return False
        # When checkpointing runs a block again, the pass is over and its row has been stored.
        return self._tap.running and self._tap.expected and torch.is_grad_enabled()


class _LayerTap(_Tap):
    """Base of the taps that store one tensor a block, which a hook hands over.

    Args:
        model: network of timm.
        layers: blocks to read.
        hook: attaches the hooks of a block.
    """

    def __init__(self, model: nn.Module, layers: LayerSpec, hook: Callable[..., list[RemovableHandle]]) -> None:
        super().__init__(model)
        self.layers = self._architecture.resolve(layers)
        self._wanted = len(self.layers)
        try:
            for layer in self.layers:
                self._handles += hook(model, layer, partial(self.keep, layer))
        except ValueError:
            self.remove()
            raise
        self._attach(model)


class HeadTap(_LayerTap):
    """A tap that collects the output of each head of the chosen blocks for every token: its attention-weighted values.

    Args:
        model: network of timm.
        layers: blocks to read.

    Raises:
        ValueError: a network or a block whose heads cannot be read, or layers that it does not have.
    """

    def __init__(self, model: nn.Module, layers: LayerSpec) -> None:
        super().__init__(model, layers, hook_heads)

    def outputs(self) -> Tensor:
        """Returns the outputs of the last forward pass, (B, L, A, T, D), prefix tokens (CLS, ...) first,
        before the projection.

        They are in the precision that the network ran in.

        Raises:
            RuntimeError: no forward pass since the tap was made or cleared.
        """
        return torch.stack(self._found(), dim=1)


class TokenTap(_Tap):
    """A tap that collects the patch tokens of the final grid as the network's classifier receives them.

    They are read after the final norm. Where a network applies a norm only to the mean of its tokens (timm's
    fc_norm), they are read before it.

    Args:
        model: network of timm.

    Raises:
        ValueError: a network of an unknown kind.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._handles += hook_tokens(model, partial(self.keep, self._architecture.blocks))
        self._attach(model)

    def tokens(self) -> Tensor:
        """Returns the patch tokens of the last forward pass, (B, H, W, D), in the precision that the network ran in.

        Raises:
            RuntimeError: no forward pass since the tap was made or cleared.
            ValueError: the tokens of that pass do not fill the grid of the patch embedding.
        """
        (tokens,) = self._found()
        given: Tensor = tokens.reshape(len(tokens), *self._on_grid(tokens.shape[1]), -1)
        return given


class BlockTap(_LayerTap):
    """A tap that collects the patch tokens that the chosen blocks output.

    Args:
        model: network of timm.
        layers: blocks to read.

    Raises:
        ValueError: a network of an unknown kind, or layers that it does not have.
    """

    def __init__(self, model: nn.Module, layers: LayerSpec) -> None:
        super().__init__(model, layers, hook_block)

    def tokens(self) -> Tensor:
        """Returns the patch tokens of the last forward pass, (B, L, H, W, D), in the precision that the
        network ran in.

        Raises:
            RuntimeError: no forward pass since the tap was made or cleared.
            ValueError: the tokens of that pass do not fill the grid of the patch embedding.
        """
        prefix = self._architecture.prefix
        patches = [each.flatten(1, -2)[:, prefix:] for each in self._found()]
        return torch.stack([each.unflatten(1, self._on_grid(each.shape[1])) for each in patches], dim=1)


class _Reached(Exception):
    """Raised to end a forward pass at a block; carries the block's output."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens


def run_to_block(model: nn.Module, images: Tensor, block: int) -> Tensor:
    """Runs a network up to and including a block, and no further; the taps in these blocks are filled.

    Callers that need no gradients turn them off themselves.

    Args:
        model: network of timm.
        images: (B, C, height, width).
        block: index of the block, counted from 0 through all stages.

    Returns:
        The output of the block: (B, T, D); for Swin (B, H, W, D).

    Raises:
        ValueError: a network of an unknown kind, or no such block.
    """
    blocks = list_blocks(model)
    if not 0 <= block < len(blocks):
        raise ValueError(f"there is no block {block}; the network's blocks are 0 to {len(blocks) - 1}")

    def stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
        raise _Reached(output)

    handle = blocks[block].register_forward_hook(stop)
    try:
        model(images)
    except _Reached as reached:
        return reached.tokens
    finally:
        handle.remove()
    raise AssertionError(f"block {block} was not run")

"""The taps: read maps, head outputs and tokens out of a network while its attention stays fused.

For one image, block and head the similarity map is a row of scaled dot products of queries and keys, before softmax, as
an H x W grid over the patches j: S_j = q . k_j / sqrt(d_head), where q is the CLS query or the mean of the patches'
queries (their mean row, since the product is linear). Queries and keys are taken after their norms, where a network has
such (qk_norm). What some attention adds to or multiplies the product with is left out, since it is the same for every
image: Swin's relative position bias and the prior of SP-ViT (`spatial_prior`).

Taps are made before any compiling. They leave the network's output untouched to the bit, gradients flow from what they
give into the network, and they notice forward passes of the network as a whole (`model(images)`, `run_to_block`), not
calls of its parts. Gradient checkpointing runs blocks again during the backward pass: that is no forward pass of the
network, and leaves a tap as it is.

Shapes: B images, L tapped layers, A heads, T tokens, H x W patches, D channels (of a head where there are heads).
"""

from collections.abc import Callable
from functools import partial
from types import TracebackType
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
"""Works a block's rows out from what its attention projects tokens to.

It is given queries, keys and values side by side, (B, T, 3 A D), and how the rows are read. Returns what the attention
goes on with, and the products (B, A, S); None for what it does not take.
"""


class _Tap:
    """What all taps share: they follow forward passes until they are removed, and give what the latest one left."""

    def __init__(self, model: nn.Module) -> None:
        self._architecture = describe_network(model)
        self.grid = self._architecture.grid
        self._results: dict[int, Any] = {}
        self._wanted = 1
        self.running = False
        self._with_gradient = False
        self._handles: list[RemovableHandle] = []

    def _attach(self, model: nn.Module) -> None:
        """Begin to follow the network. Comes last in making a tap, so that a refusal leaves the network as it was."""
        self._handles += [
            *hook_grid(model, self._note_grid),
            model.register_forward_pre_hook(self._begin),
            model.register_forward_hook(self._end, always_call=True),
        ]

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        self.clear()
        self.running, self._with_gradient = True, torch.is_grad_enabled()

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.running = False

    def _note_grid(self, grid: tuple[int, int]) -> None:
        if self.running:
            self.grid = grid

    def keep(self, layer: int, found: Any) -> None:
        if not self.running:
            return
        if self._with_gradient and not torch.is_grad_enabled():
            raise RuntimeError(
                f"block {layer} runs without gradients inside a pass with them, as reentrant gradient checkpointing "
                "does; a tap would cut its gradients off: use timm's default, use_reentrant=False"
            )
        self._results[layer] = found

    def _found(self) -> list[Any]:
        if len(self._results) < self._wanted:
            raise RuntimeError("no forward pass has filled the tap; run the network first")
        return [self._results[layer] for layer in sorted(self._results)]

    def _on_grid(self, count: int) -> tuple[int, int]:
        height, width = self.grid
        if count != height * width:
            raise ValueError(f"{count} patch tokens do not fill the {height} x {width} grid of patches")
        return height, width

    def clear(self) -> None:
        """Forget the last forward pass, and with it the activations that it left here."""
        self._results.clear()

    def remove(self) -> None:
        """Take the hooks out of the network. What was collected stays readable."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.running = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


class SimilarityTap(_Tap):
    """Collects the similarity maps of the chosen blocks. query: "cls", or "mean" for the mean of the patches' queries.

    with_cls: also what a map leaves out, the CLS query's product with the CLS key. Set `expected` to False while maps
    will hardly be asked for: they still can be, but nothing is worked out ahead. rows: a faster way to work out the
    products, for what it takes.

    Raises:
        ValueError: a network or a block whose attention cannot be read, layers that it does not have, an unknown query,
            or the CLS query of a network without that token. Says what would work.
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
        # Tokens before `first` are in no map; `mean_from`: as `first` of `rows.query_passthrough`.
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
        """The maps of the last forward pass, (B, L, A, H, W), layers in the order of `self.layers`.

        In float32, or float64 where the network runs in that: under autocast queries and keys come in half precision,
        in which the maps' small differences would drown.

        Raises:
            RuntimeError: no forward pass since the tap was made or cleared.
            ValueError: the tokens of that pass do not fill the grid of the patch embedding.
        """
        rows, left_out = self._rows(), self._architecture.prefix - self.first
        if left_out:
            rows = [row[..., left_out:] for row in rows]
        images, heads, patches = rows[0].shape
        # One block's are a view: on small networks it is calls that cost.
        maps = rows[0] if len(rows) == 1 else torch.stack(rows, dim=1)
        return maps.reshape(images, len(rows), heads, *self._on_grid(patches))

    def cls(self) -> Tensor:
        """The CLS query's products with the CLS key of the last forward pass, (B, L, A), precise as the maps are.

        Raises:
            RuntimeError: no forward pass since then, or a tap that was not asked for them.
        """
        if not self._with_cls:
            raise RuntimeError("the tap was made without with_cls")
        return torch.stack([row[..., 0] for row in self._rows()], dim=1)

    def _rows(self) -> list[Tensor]:
        return [row if isinstance(row, Tensor) else self.row(*row) for row in self._found()]

    def row(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """The products of one block by plain operations, (B, A, S), of the tokens from `first` on."""
        return attention_row(key, pooled_query(query, self.mean_from) * scale, self.first)


class _Reader:
    """Reads one block for a similarity tap. passes: the attention goes on with what it is given back here.

    With gradients, rows are worked out on the way where they can be. Where not, queries and keys wait until the maps
    are asked for, outside the blocks: gradient checkpointing, which runs blocks again, might miss the products there.
    Compilers get plain operations, which they join by themselves. Without gradients, the row is worked out at once:
    what it is made of is much.
    """

    def __init__(self, tap: SimilarityTap, layer: int, spec: RowSpec, passes: bool) -> None:
        self._tap, self._layer, self._spec, self._passes = tap, layer, spec, passes
        self._waiting: list[Tensor] = []
        self._is_read = False  # in this pass, from what was projected

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
        if not self._passes or torch.compiler.is_compiling():
            return False
        # Blocks that checkpointing runs again, when the pass is over, have their rows already.
        return self._tap.running and self._tap.expected and torch.is_grad_enabled()


class HeadTap(_Tap):
    """Collects what each head of the chosen blocks gives for every token: its attention-weighted values.

    Raises:
        ValueError: a network or a block whose heads cannot be read, or layers that it does not have.
    """

    def __init__(self, model: nn.Module, layers: LayerSpec) -> None:
        super().__init__(model)
        self.layers = self._architecture.resolve(layers)
        self._wanted = len(self.layers)
        try:
            for layer in self.layers:
                self._handles += hook_heads(model, layer, partial(self.keep, layer))
        except ValueError:
            self.remove()
            raise
        self._attach(model)

    def outputs(self) -> Tensor:
        """The outputs of the last forward pass, (B, L, A, T, D), prefix tokens (CLS, ...) first, before the projection.

        In the precision that the network ran in.

        Raises:
            RuntimeError: no forward pass since the tap was made or cleared.
        """
        return torch.stack(self._found(), dim=1)


class TokenTap(_Tap):
    """Collects the patch tokens of the final grid as the network's head gets them.

    That is after the final norm; where a network norms only the mean of its tokens (timm's fc_norm), before that.

    Raises:
        ValueError: a network of an unknown kind.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._handles += hook_tokens(model, partial(self.keep, self._architecture.blocks))
        self._attach(model)

    def tokens(self) -> Tensor:
        """The patch tokens of the last forward pass, (B, H, W, D), in the precision that the network ran in.

        Raises:
            RuntimeError: no forward pass since the tap was made or cleared.
            ValueError: the tokens of that pass do not fill the grid of the patch embedding.
        """
        (tokens,) = self._found()
        given: Tensor = tokens.reshape(len(tokens), *self._on_grid(tokens.shape[1]), -1)
        return given


class BlockTap(_Tap):
    """Collects the patch tokens that the chosen blocks put out.

    Raises:
        ValueError: a network of an unknown kind, or layers that it does not have.
    """

    def __init__(self, model: nn.Module, layers: LayerSpec) -> None:
        super().__init__(model)
        self.layers = self._architecture.resolve(layers)
        self._wanted = len(self.layers)
        for layer in self.layers:
            self._handles += hook_block(model, layer, partial(self.keep, layer))
        self._attach(model)

    def tokens(self) -> Tensor:
        """The patch tokens of the last forward pass, (B, L, H, W, D), in the precision that the network ran in.

        Raises:
            RuntimeError: no forward pass since the tap was made or cleared.
            ValueError: the tokens of that pass do not fill the grid of the patch embedding.
        """
        prefix = self._architecture.prefix
        patches = [each.flatten(1, -2)[:, prefix:] for each in self._found()]
        return torch.stack([each.unflatten(1, self._on_grid(each.shape[1])) for each in patches], dim=1)


class _Reached(Exception):
    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens


def run_to_block(model: nn.Module, images: Tensor, block: int) -> Tensor:
    """Run a network up to and including a block (counted from 0), and no further; its taps there are filled.

    images: (B, C, height, width). Returns what the block puts out, (B, T, D); of Swin (B, H, W, D). Gradients are the
    caller's to turn off.

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

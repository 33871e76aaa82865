"""Rows of query-key products beside an attention that stays fused, whose gradients join what the attention leaves.

Read by plain slices, a row costs the backward pass a zero-filled tensor as large as the queries, another as large as
the keys, and two sums of the whole. Here queries and keys pass through on their way to the attention, so on the way
back their gradients come by, and the row's are added where they belong: a pass over the keys' gradient, and over one
row of the queries'.

What is needed for that is held outside autograd's record, of which gradient checkpointing demands that it be the same
when blocks are run again. A second derivative takes the plain way.

Shapes: B images, A heads, T tokens, D channels of a head; S = T less the tokens that a row leaves out.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .precision import without_autocast


@dataclass(frozen=True)
class RowSpec:
    """How a block's rows are read. heads: of its attention. mean_from: the query is the mean of those from this token
    on; None: the first token's. first: the first token of the keys. scale: of the products.
    """

    heads: int
    mean_from: int | None
    first: int
    scale: float

    def with_query(self, tokens: int) -> tuple[int, int]:
        """The tokens whose queries are pooled, from and up to, of so many."""
        return (0, 1) if self.mean_from is None else (self.mean_from, tokens)


def query_passthrough(query: Tensor, first: int | None, scale: float) -> tuple[Tensor, Tensor]:
    """The queries (B, A, T, D) to go on with, and the pooled one, (B, A, D), in float32 or, of such, float64.

    first: the pooled one is the mean of the queries from this token on; None: the first token's query. scale: what it
    is multiplied by.
    """
    passed, pooled = _Query.apply(query, first, scale)  # type: ignore[no-untyped-call]
    return passed, pooled


def split_projected(projected: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(B, T, parts * A * D) as timm lays it out, as `parts` views of (B, A, T, D)."""
    images, tokens, width = projected.shape
    shape = (images, tokens, parts, heads, width // (parts * heads))
    return projected.reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)


def key_passthrough(key: Tensor, query: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The keys (B, A, T, D) to go on with, and the products of `query` (B, A, D) with those from token `first` on.

    The products are (B, A, S), in `query`'s precision.
    """
    passed, row = _Key.apply(key, query, first)  # type: ignore[no-untyped-call]
    return passed, row


def pooled_query(query: Tensor, first: int | None) -> Tensor:
    """What `query_passthrough` gives as the pooled one, before it is scaled, by plain operations."""
    exact = query.dtype if query.dtype == torch.float64 else torch.float32
    return query[:, :, 0].to(exact) if first is None else query[:, :, first:].to(exact).mean(dim=2)


def attention_row(key: Tensor, query: Tensor, first: int) -> Tensor:
    """What `key_passthrough` gives as the products, by plain operations."""
    keys = key[:, :, first:].to(query.dtype)
    with without_autocast(key.device):
        # On a CPU, products as matrices would copy the keys into another order first: three times slower.
        if key.device.type == "cpu":
            return (keys * query[:, :, None]).sum(-1)
        return torch.einsum("bad,band->ban", query, keys)


@cache
def has_triton() -> bool:
    """Whether triton is there, which comes with CUDA's torch."""
    return find_spec("triton") is not None


class _Query(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, first: int | None, scale: float) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.first, ctx.scale, ctx.shape, ctx.dtype = first, scale, query.shape, query.dtype
        return query, pooled_query(query, first) * scale

    @staticmethod
    def backward(ctx: Any, above: Tensor | None, query: Tensor | None) -> tuple[Tensor | None, None, None]:
        if query is None:
            return above, None, None
        share = query * (ctx.scale if ctx.first is None else ctx.scale / (ctx.shape[2] - ctx.first))
        start, stop = (0, 1) if ctx.first is None else (ctx.first, ctx.shape[2])
        share = share[:, :, None].expand(-1, -1, stop - start, -1)
        return _joined(above, share, start, ctx), None, None


class _Key(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, key: Tensor, query: Tensor, first: int) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.key, ctx.pooled, ctx.first, ctx.shape, ctx.dtype = key, query, first, key.shape, key.dtype
        if _fits_triton(key):
            from .rows_triton import triton_row

            return key, triton_row(key, query, first)
        return key, attention_row(key, query, first)

    @staticmethod
    def backward(ctx: Any, above: Tensor | None, row: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        if row is None:
            return above, None, None
        if _fits_triton(ctx.key) and all(ctx.needs_input_grad[:2]) and above is not None and _is_own(above):
            from .rows_triton import triton_row_gradients

            return above, triton_row_gradients(above, ctx.key, ctx.pooled, row, ctx.first), None
        into_key, into_asking = above, None
        with without_autocast(row.device):
            if ctx.needs_input_grad[1]:
                keys = ctx.key[:, :, ctx.first :].to(row.dtype)
                if row.device.type == "cpu":
                    into_asking = (row[..., None] * keys).sum(2)
                else:
                    into_asking = torch.matmul(row[:, :, None], keys)[:, :, 0]
            if ctx.needs_input_grad[0]:
                if above is not None and _is_own(above):
                    into_key = above
                    into_key[:, :, ctx.first :].addcmul_(row[..., None], ctx.pooled[:, :, None])
                else:
                    into_key = _joined(above, row[..., None] * ctx.pooled[:, :, None], ctx.first, ctx)
        return into_key, into_asking, None


def _fits_triton(key: Tensor) -> bool:
    """Whether the GPU's kernels take these keys: half precision, of which plain operations make a float32 copy."""
    if not (key.is_cuda and key.dtype in (torch.float16, torch.bfloat16) and has_triton()):
        return False
    from .rows_triton import WIDEST

    return key.shape[-1] <= WIDEST


def _joined(above: Tensor | None, share: Tensor, start: int, ctx: Any) -> Tensor:
    """A gradient (B, A, T, D) with a share of some tokens from `start` on added to it, in place where that may be."""
    stop = start + share.shape[2]
    if above is not None and _is_own(above):
        above[:, :, start:stop].add_(share)
        return above
    padded = torch.nn.functional.pad(share, (0, 0, start, ctx.shape[2] - stop)).to(ctx.dtype)
    return padded if above is None else above + padded


def _is_own(gradient: Tensor) -> bool:
    """Whether a gradient from an attention may be written to: no second derivative, no two elements one in memory.

    An attention's backward pass makes its gradients anew and hands each to whom it is of, alone.
    """
    return not torch.is_grad_enabled() and (0 not in gradient.stride() or gradient.is_contiguous())

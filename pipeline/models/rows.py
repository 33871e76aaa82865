"""Rows of query-key products, computed beside an attention that stays fused, with gradients through that attention.

A row that is read by plain slices is expensive in the backward pass. It needs a zero-filled tensor as large as the
queries, another as large as the keys, and two sums over the whole. Here queries and keys pass through this module on
their way to the attention. In the backward pass their gradients pass through it too, and the row's gradient is added
to them. This takes one pass over the keys' gradient, and one over a single row of the queries' gradient.

The tensors that this needs are stored outside autograd's record. Gradient checkpointing demands that this
record be the same when blocks are run again. A second derivative is computed by plain operations.

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
    """Specification of the rows that are read from a block.

    Attributes:
        heads: number of heads of the block's attention.
        mean_from: the query is the mean of the queries from this token on; None: the query of the first token.
        first: first token whose key is used.
        scale: factor of the products.
    """

    heads: int
    mean_from: int | None
    first: int
    scale: float

    def with_query(self, tokens: int) -> tuple[int, int]:
        """Returns the range (start, stop) of the tokens whose queries are pooled, in a block of `tokens` tokens."""
        return (0, 1) if self.mean_from is None else (self.mean_from, tokens)


def query_passthrough(query: Tensor, first: int | None, scale: float) -> tuple[Tensor, Tensor]:
    """Returns the queries unchanged, for the attention to continue with, and the scaled pooled query.

    Args:
        query: queries, (B, A, T, D).
        first: the pooled query is the mean of the queries from this token on; None: the query of the first token.
        scale: factor of the pooled query.

    Returns:
        The queries (B, A, T, D), and the pooled query (B, A, D) in float32, or in float64 if the queries are
        in float64.
    """
    passed, pooled = _Query.apply(query, first, scale)  # type: ignore[no-untyped-call]
    return passed, pooled


def split_projected(projected: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """Returns `parts` views, each (B, A, T, D), of a tensor in which timm stores them side by side.

    Args:
        projected: (B, T, parts * A * D).
        parts: number of views, e.g. 3 for queries, keys and values.
        heads: number of heads, A.
    """
    images, tokens, width = projected.shape
    shape = (images, tokens, parts, heads, width // (parts * heads))
    return projected.reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)


def key_passthrough(key: Tensor, query: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Returns the keys unchanged, for the attention to continue with, and the products of a query with them.

    Args:
        key: keys, (B, A, T, D).
        query: one query per image and head, (B, A, D).
        first: first token whose key is used.

    Returns:
        The keys (B, A, T, D), and the products (B, A, S) in the precision of `query`.
    """
    passed, row = _Key.apply(key, query, first)  # type: ignore[no-untyped-call]
    return passed, row


def pooled_query(query: Tensor, first: int | None) -> Tensor:
    """Returns the pooled query of `query_passthrough` before it is scaled, by plain operations: (B, A, D).

    Args:
        query: queries, (B, A, T, D).
        first: the result is the mean of the queries from this token on; None: the query of the first token.
    """
    exact = query.dtype if query.dtype == torch.float64 else torch.float32
    return query[:, :, 0].to(exact) if first is None else query[:, :, first:].to(exact).mean(dim=2)


def attention_row(key: Tensor, query: Tensor, first: int) -> Tensor:
    """Returns the products of `key_passthrough`, by plain operations: (B, A, S).

    Args:
        key: keys, (B, A, T, D).
        query: one query per image and head, (B, A, D); its precision is that of the result.
        first: first token whose key is used.
    """
    keys = key[:, :, first:].to(query.dtype)
    with without_autocast(key.device):
        # On a CPU, a matrix product would copy the keys into another order first and take three times as long.
        if key.device.type == "cpu":
            return (keys * query[:, :, None]).sum(-1)
        return torch.einsum("bad,band->ban", query, keys)


@cache
def has_triton() -> bool:
    """Returns whether triton is installed; it comes with torch for CUDA."""
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
    """Returns whether the GPU kernels are used for these keys.

    They are used for half precision, in which plain operations would make a copy of the keys in float32.
    """
    if not (key.is_cuda and key.dtype in (torch.float16, torch.bfloat16) and has_triton()):
        return False
    from .rows_triton import WIDEST

    return key.shape[-1] <= WIDEST


def _joined(above: Tensor | None, share: Tensor, start: int, ctx: Any) -> Tensor:
    """Returns a gradient with a share of some tokens added to it, in place if the gradient may be written to.

    Args:
        above: gradient (B, A, T, D); None: zero.
        share: share of the tokens from `start` on, (B, A, tokens, D).
        start: first token that has a share.
        ctx: autograd context with the `shape` and `dtype` of the result.
    """
    stop = start + share.shape[2]
    if above is not None and _is_own(above):
        above[:, :, start:stop].add_(share)
        return above
    padded = torch.nn.functional.pad(share, (0, 0, start, ctx.shape[2] - stop)).to(ctx.dtype)
    return padded if above is None else above + padded


def _is_own(gradient: Tensor) -> bool:
    """Returns whether a gradient that comes from an attention may be written to.

    It may not be in a second derivative, or if two of its elements share memory. Otherwise it may: the
    backward pass of an attention creates its gradients anew, and passes each to one receiver alone.
    """
    return not torch.is_grad_enabled() and (0 not in gradient.stride() or gradient.is_contiguous())

"""Rows of query-key products beside an attention that stays fused, whose gradients join what the attention leaves.

Read by plain slices, a row costs the backward pass a zero-filled tensor as large as the queries, another as large as
the keys, and two sums of the whole. Here queries and keys pass through on their way to the attention, so on the way
back their gradients come by, and the row's are added where they belong: a pass over the keys' gradient, and over one
row of the queries'.

What is needed for that is held outside autograd's record, of which gradient checkpointing demands that it be the same
when blocks are run again. A second derivative takes the plain way.

On a CPU all of that is two calls, of kernels that read what the attention projects its tokens to (`rows_cpu`).

Shapes: B images, A heads, T tokens, D channels of a head; S = T less the tokens that a row leaves out.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .precision import without_autocast

FEWEST_KEYS = 2_000
"""Batches of fewer keys, of all heads, are left to torch on a CPU: importing numba costs a process half a second."""


def pass_query(query: Tensor, first: int | None, scale: float) -> tuple[Tensor, Tensor]:
    """The queries (B, A, T, D) to go on with, and the asking one, (B, A, D), in float32 or, of such, float64.

    first: the asking one is the mean of the queries from this token on; None: the first token's query. scale: what it
    is multiplied by.
    """
    passed, asking = _Query.apply(query, first, scale)  # type: ignore[no-untyped-call]
    return passed, asking


def pass_projected(
    projected: Tensor, heads: int, mean_from: int | None, first: int, scale: float
) -> tuple[Tensor, Tensor]:
    """What `pass_query` and `pass_key` do, in one, for what `fits_projected`.

    projected: (B, T, 3 A D), queries, keys and values side by side, without norms to come. Returns it to go on with,
    and the products (B, A, S), in its precision. mean_from: `first` of `pass_query`; first: of `pass_key`.
    """
    passed, row = _Projected.apply(projected, heads, mean_from, first, scale)  # type: ignore[no-untyped-call]
    return passed, row


def fits_projected(projected: Tensor, heads: int) -> bool:
    """Whether the compiled path of CPUs takes these, and is worth its import."""
    if projected.device.type != "cpu" or projected.shape[0] * projected.shape[1] * heads < FEWEST_KEYS:
        return False
    return projected.dtype in (torch.float32, torch.float64) and projected.is_contiguous()


def split_projected(projected: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(B, T, parts * A * D) as timm lays it out, as `parts` views of (B, A, T, D)."""
    images, tokens, width = projected.shape
    shape = (images, tokens, parts, heads, width // (parts * heads))
    return projected.reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)


def pass_key(key: Tensor, asking: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The keys (B, A, T, D) to go on with, and the products of `asking` (B, A, D) with those from token `first` on.

    The products are (B, A, S), in `asking`'s precision.
    """
    passed, row = _Key.apply(key, asking, first)  # type: ignore[no-untyped-call]
    return passed, row


def asking_query(query: Tensor, first: int | None) -> Tensor:
    """What `pass_query` gives as the asking one, before it is scaled, by plain operations."""
    exact = query.dtype if query.dtype == torch.float64 else torch.float32
    return query[:, :, 0].to(exact) if first is None else query[:, :, first:].to(exact).mean(dim=2)


def row_of(key: Tensor, asking: Tensor, first: int) -> Tensor:
    """What `pass_key` gives as the products, by plain operations."""
    keys = key[:, :, first:].to(asking.dtype)
    with without_autocast(key.device):
        # On a CPU, products as matrices would copy the keys into another order first: three times slower.
        if key.device.type == "cpu":
            return (keys * asking[:, :, None]).sum(-1)
        return torch.einsum("bad,band->ban", asking, keys)


@cache
def has_triton() -> bool:
    """Whether triton is there, which comes with CUDA's torch."""
    return find_spec("triton") is not None


class _Query(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, first: int | None, scale: float) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.first, ctx.scale, ctx.shape, ctx.dtype = first, scale, query.shape, query.dtype
        return query, asking_query(query, first) * scale

    @staticmethod
    def backward(ctx: Any, above: Tensor | None, asking: Tensor | None) -> tuple[Tensor | None, None, None]:
        if asking is None:
            return above, None, None
        share = asking * (ctx.scale if ctx.first is None else ctx.scale / (ctx.shape[2] - ctx.first))
        start, stop = (0, 1) if ctx.first is None else (ctx.first, ctx.shape[2])
        share = share[:, :, None].expand(-1, -1, stop - start, -1)
        return _joined(above, share, start, ctx), None, None


class _Key(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, key: Tensor, asking: Tensor, first: int) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.key, ctx.asking, ctx.first, ctx.shape, ctx.dtype = key, asking, first, key.shape, key.dtype
        if _fits_triton(key):
            from .rows_triton import triton_row

            return key, triton_row(key, asking, first)
        return key, row_of(key, asking, first)

    @staticmethod
    def backward(ctx: Any, above: Tensor | None, row: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        if row is None:
            return above, None, None
        if _fits_triton(ctx.key) and all(ctx.needs_input_grad[:2]) and above is not None and _is_own(above):
            from .rows_triton import triton_row_gradients

            return above, triton_row_gradients(above, ctx.key, ctx.asking, row, ctx.first), None
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
                    into_key[:, :, ctx.first :].addcmul_(row[..., None], ctx.asking[:, :, None])
                else:
                    into_key = _joined(above, row[..., None] * ctx.asking[:, :, None], ctx.first, ctx)
        return into_key, into_asking, None


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, heads: int, mean_from: int | None, first: int, scale: float
    ) -> tuple[Tensor, Tensor]:
        from .rows_cpu import read_rows  # here: importing numba takes most of a second

        ctx.set_materialize_grads(False)
        ctx.projected, ctx.mean_from = projected, mean_from
        asked = (0, 1) if mean_from is None else (mean_from, projected.shape[1])
        ctx.reading = heads, asked, first, scale
        return projected, read_rows(projected, *ctx.reading)

    @staticmethod
    def backward(ctx: Any, above: Tensor | None, row: Tensor | None) -> tuple[Tensor | None, None, None, None, None]:
        if row is None:
            return above, None, None, None, None
        if torch.is_grad_enabled():
            share = _by_plain_operations(ctx, row)
            return share if above is None else above + share, None, None, None, None
        if above is None:
            above = torch.zeros_like(ctx.projected)
        elif not above.is_contiguous():
            above = above.contiguous()
        from .rows_cpu import add_gradients

        add_gradients(above, ctx.projected, row, *ctx.reading[1:])
        return above, None, None, None, None


def _by_plain_operations(ctx: Any, row: Tensor) -> Tensor:
    """What rows (B, A, S) add to the gradient by what was projected, itself differentiable."""
    heads, (start, stop), first, scale = ctx.reading
    query, key, _ = split_projected(ctx.projected, 3, heads)
    tokens = key.shape[2]
    asking = asking_query(query, ctx.mean_from) * scale
    into_asking = (row[..., None] * key[:, :, first:]).sum(2, keepdim=True) * (scale / (stop - start))
    into_query = functional.pad(into_asking.expand(-1, -1, stop - start, -1), (0, 0, start, tokens - stop))
    into_key = functional.pad(row[..., None] * asking[:, :, None], (0, 0, first, 0))
    stacked = torch.stack((into_query, into_key, torch.zeros_like(key)))
    return stacked.permute(1, 3, 0, 2, 4).reshape(ctx.projected.shape)


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
    padded = functional.pad(share, (0, 0, start, ctx.shape[2] - stop)).to(ctx.dtype)
    return padded if above is None else above + padded


def _is_own(gradient: Tensor) -> bool:
    """Whether a gradient from an attention may be written to: no second derivative, no two elements one in memory.

    An attention's backward pass makes its gradients anew and hands each to whom it is of, alone.
    """
    return not torch.is_grad_enabled() and (0 not in gradient.stride() or gradient.is_contiguous())

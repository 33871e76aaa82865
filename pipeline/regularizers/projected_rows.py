"""Rows of query-key products on a CPU in two calls, one forward and one backward: calls are what costs.

What `pipeline.models.rows` does with queries and keys on their way to an attention is done here with what both are
views of, by kernels (`rows_cpu`). It is outside of the networks' own code, which travels with registered models and
has no numba.

Shapes: B images, A heads, T tokens, D channels of a head; S = T less the tokens that a row leaves out.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.models.rows import asking_query, split_projected

FEWEST_KEYS = 2_000
"""Batches of fewer keys, of all heads, are left to torch: importing numba costs a process half a second."""


def pass_projected(
    projected: Tensor, heads: int, mean_from: int | None, first: int, scale: float
) -> tuple[Tensor, Tensor] | None:
    """What to go on with, (B, T, 3 A D), and the products (B, A, S); None for what is left to torch.

    projected: queries, keys and values side by side, (B, T, 3 A D), without norms to come. mean_from: the query is the
    mean of those from this token on; None: the first token's. first: the first token of the keys. scale: of the
    products, which are in the precision of `projected`.
    """
    if not _fits(projected, heads):
        return None
    passed, row = _Projected.apply(projected, heads, mean_from, first, scale)  # type: ignore[no-untyped-call]
    return passed, row


def _fits(projected: Tensor, heads: int) -> bool:
    if projected.device.type != "cpu" or projected.shape[0] * projected.shape[1] * heads < FEWEST_KEYS:
        return False
    return projected.dtype in (torch.float32, torch.float64) and projected.is_contiguous()


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, heads: int, mean_from: int | None, first: int, scale: float
    ) -> tuple[Tensor, Tensor]:
        from pipeline.regularizers.rows_cpu import read_rows  # here: importing numba takes most of a second

        ctx.set_materialize_grads(False)
        # Outside autograd's record, as in `pipeline.models.rows`, for the same reason.
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
        # An attention's backward pass makes this gradient anew and hands it to nobody else, so it may be written to.
        if above is None:
            above = torch.zeros_like(ctx.projected)
        elif not above.is_contiguous():
            above = above.contiguous()
        from pipeline.regularizers.rows_cpu import add_gradients

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

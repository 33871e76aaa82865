"""Rows of query-key products on a CPU in two calls, one forward and one backward: calls are what costs.

What `pipeline.models.rows` does with queries and keys on their way to an attention is done here with what both are
views of, by kernels (`kernels`). It is outside of the networks' own code, which travels with registered models and
has no numba.

Shapes: B images, A heads, T tokens, D channels of a head; S = T less the tokens that a row leaves out.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.models.rows import RowSpec, pooled_query, split_projected

FEWEST_KEYS = 2_000
"""Batches of fewer keys, of all heads, are left to torch: importing numba costs a process half a second."""

Reals = NDArray[np.floating]


def pass_projected(projected: Tensor, spec: RowSpec) -> tuple[Tensor, Tensor] | None:
    """What to go on with, (B, T, 3 A D), and the products (B, A, S); None for what is left to torch.

    projected: queries, keys and values side by side, (B, T, 3 A D), without norms to come. The products are in its
    precision.
    """
    if not _fits_kernels(projected, spec):
        return None
    passed, row = _Projected.apply(projected, spec)  # type: ignore[no-untyped-call]
    return passed, row


def _fits_kernels(projected: Tensor, spec: RowSpec) -> bool:
    """Whether the kernels take what was projected, (B, T, 3 A D), and it is worth their import."""
    if not projected.is_cpu or projected.dtype not in (torch.float32, torch.float64) or not projected.is_contiguous():
        return False
    images, tokens, _ = projected.shape
    return images * tokens * spec.heads >= FEWEST_KEYS


@cache
def kernels() -> Any:
    """The module of that name, once it is needed: importing numba takes most of a second."""
    from pipeline.regularizers.kernels import entropy_numba as module

    return module


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, spec: RowSpec) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        # Outside autograd's record, as in `pipeline.models.rows`, for the same reason.
        ctx.projected, ctx.spec = projected, spec
        return projected, torch.from_numpy(kernels().read_rows(_array(projected), spec))

    @staticmethod
    def backward(ctx: Any, above: Tensor | None, row: Tensor | None) -> tuple[Tensor | None, None]:
        if row is None:
            return above, None
        if torch.is_grad_enabled():
            share = _by_plain_operations(ctx.projected, row, ctx.spec)
            return share if above is None else above + share, None
        # Asking is much cheaper than having torch make contiguous what is.
        rows = _array(row if row.is_contiguous() else row.contiguous())
        projected = _array(ctx.projected)
        # An attention's backward pass makes its gradient anew and hands it to nobody else, so it may be written to.
        if above is None:
            above = torch.from_numpy(np.zeros_like(projected))
        elif not above.is_contiguous():
            above = above.contiguous()
        kernels().add_gradient(_array(above), projected, rows, ctx.spec)
        return above, None


def _array(tensor: Tensor) -> Reals:
    """A tensor's memory, or a copy of what does not lie in it as numpy could see it; without its graph."""
    array: Reals = tensor.numpy(force=True)
    return array


def _by_plain_operations(projected: Tensor, row: Tensor, spec: RowSpec) -> Tensor:
    """What rows (B, A, S) add to the gradient by what was projected, itself differentiable."""
    query, key, _ = split_projected(projected, 3, spec.heads)
    tokens, first = key.shape[2], spec.first
    start, stop = spec.with_query(tokens)
    pooled = pooled_query(query, spec.mean_from) * spec.scale
    into_query = (row[..., None] * key[:, :, first:]).sum(2, keepdim=True) * (spec.scale / (stop - start))
    into_query = functional.pad(into_query.expand(-1, -1, stop - start, -1), (0, 0, start, tokens - stop))
    into_key = functional.pad(row[..., None] * pooled[:, :, None], (0, 0, first, 0))
    stacked = torch.stack((into_query, into_key, torch.zeros_like(key)))
    return stacked.permute(1, 3, 0, 2, 4).reshape(projected.shape)

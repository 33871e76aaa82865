"""Rows of query-key products on a CPU, or what is made of them, in two calls, one forward and one backward: calls are
what costs.

What `pipeline.models.rows` does with queries and keys on their way to an attention is done here with what both are
views of, by kernels (`kernels`). It is outside of the networks' own code, which travels with registered models and
has no numba.

Shapes: B images, A heads, T tokens, D channels of a head; S = T less the tokens that a row leaves out.
"""

from collections.abc import Callable
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


def pass_projected(projected: Tensor, spec: RowSpec, grid: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
    """What to go on with, (B, T, 3 A D), and the products (B, A, S); None for what is left to torch.

    projected: queries, keys and values side by side, (B, T, 3 A D), without norms to come. The products are in its
    precision, whatever the grid.
    """
    if not fits_kernels(projected, spec):
        return None
    passed, row = _Projected.apply(projected, spec)  # type: ignore[no-untyped-call]
    return passed, row


def pass_reduced(projected: Tensor, reduce: Callable[[Reals], tuple[Reals, Any]]) -> tuple[Tensor, Tensor, Reals]:
    """What to go on with, (B, T, 3 A D), a scalar made of the products, which has a gradient, and what comes with it.

    projected: as `fits_kernels` takes it. reduce: is given its array, and returns another one, of any shape (n,), whose
    first value is the scalar, and the way back from that, a `kernels.Back`. The products are in no graph of their own,
    which saves the calls of one; so there is no second derivative, and asking for it is a RuntimeError.
    """
    passed, value, found = _Reduced.apply(projected, reduce)  # type: ignore[no-untyped-call]
    return passed, value, found


def fits_kernels(projected: Tensor, spec: RowSpec) -> bool:
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


def scalar_of(found: Reals, place: int) -> Tensor:
    """One value of an array (n,), picked before torch has it: on small networks it is torch's calls that cost."""
    return torch.from_numpy(found[place, ...])


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, spec: RowSpec) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        # Outside autograd's record, as in `pipeline.models.rows`, for the same reason.
        ctx.projected, ctx.reading = projected, spec
        return projected, torch.from_numpy(kernels().read_rows(_array(projected), spec))

    @staticmethod
    def backward(ctx: Any, above: Tensor | None, row: Tensor | None) -> tuple[Tensor | None, None]:
        if row is None:
            return above, None
        if torch.is_grad_enabled():
            share = _by_plain_operations(ctx.projected, row, ctx.reading)
            return share if above is None else above + share, None
        # Asking is much cheaper than having torch make contiguous what is.
        rows = _array(row if row.is_contiguous() else row.contiguous())
        return _joined(
            above, ctx.projected.shape, kernels().rows_backward(_array(ctx.projected), rows, ctx.reading)
        ), None


class _Reduced(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, reduce: Callable[[Reals], tuple[Reals, Any]]
    ) -> tuple[Tensor, Tensor, Reals]:
        ctx.set_materialize_grads(False)
        ctx.shape = projected.shape
        found, ctx.back = reduce(_array(projected))
        return projected, scalar_of(found, 0), found

    @staticmethod
    def backward(ctx: Any, above: Tensor | None, upstream: Tensor | None, _: None) -> tuple[Tensor | None, None]:
        if upstream is None:
            return above, None
        if torch.is_grad_enabled():
            raise RuntimeError("what is made of similarity maps on their way has no second derivative")
        return _joined(above, ctx.shape, ctx.back, float(_array(upstream))), None


def _joined(above: Tensor | None, shape: torch.Size, back: Any, times: float = 1.0) -> Tensor:
    """A gradient by what was projected, (B, T, 3 A D), with what a `kernels.Back` leads to added so many times."""
    # An attention's backward pass makes this gradient anew and hands it to nobody else, so it may be written to.
    if above is None:
        above = torch.from_numpy(np.zeros(shape, back.gradient.dtype))
    elif not above.is_contiguous():
        above = above.contiguous()
    back.add_to(_array(above), times)
    return above


def _array(tensor: Tensor) -> Reals:
    """A tensor's memory, or a copy of what does not lie in it as numpy could see it; without its graph."""
    array: Reals = tensor.numpy(force=True)
    return array


def _by_plain_operations(projected: Tensor, row: Tensor, spec: RowSpec) -> Tensor:
    """What rows (B, A, S) add to the gradient by what was projected, itself differentiable."""
    query, key, _ = split_projected(projected, 3, spec.heads)
    tokens, first = key.shape[2], spec.first
    start, stop = spec.with_query(tokens)
    asking = pooled_query(query, spec.mean_from) * spec.scale
    into_asking = (row[..., None] * key[:, :, first:]).sum(2, keepdim=True) * (spec.scale / (stop - start))
    into_query = functional.pad(into_asking.expand(-1, -1, stop - start, -1), (0, 0, start, tokens - stop))
    into_key = functional.pad(row[..., None] * asking[:, :, None], (0, 0, first, 0))
    stacked = torch.stack((into_query, into_key, torch.zeros_like(key)))
    return stacked.permute(1, 3, 0, 2, 4).reshape(projected.shape)

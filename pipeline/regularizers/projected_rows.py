"""Rows of query-key products on a CPU: one call forward and one backward, since calls decide the time.

`pipeline.models.rows` computes the rows from queries and keys, which are views of the fused QKV projection.
The kernels used here (`kernels`) read the projection itself. They are separate from the networks' own code,
because that code is shipped with registered models and must not depend on numba.

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
"""Fewest keys of a batch, over all heads, for which the kernels are used.

Smaller batches are left to torch, since importing numba costs a process half a second.
"""

Reals = NDArray[np.floating]


def pass_projected(projected: Tensor, spec: RowSpec) -> tuple[Tensor, Tensor] | None:
    """Computes rows of query-key products from an attention's fused QKV projection.

    Args:
        projected: Queries, keys and values side by side, (B, T, 3 A D), of an attention without query and key
            norms.
        spec: How the rows are read.

    Returns:
        The projection for the attention to use, (B, T, 3 A D), and the products (B, A, S), both in the dtype
        of `projected`. None if torch is to compute them.
    """
    if not _fits_kernels(projected, spec):
        return None
    passed, row = _Projected.apply(projected, spec)  # type: ignore[no-untyped-call]
    return passed, row


def _fits_kernels(projected: Tensor, spec: RowSpec) -> bool:
    """Returns whether the kernels support this projection, (B, T, 3 A D), and pay for their import."""
    if not projected.is_cpu or projected.dtype not in (torch.float32, torch.float64) or not projected.is_contiguous():
        return False
    images, tokens, _ = projected.shape
    return images * tokens * spec.heads >= FEWEST_KEYS


@cache
def kernels() -> Any:
    """Returns the module `entropy_numba`, imported at the first call, since numba takes most of a second."""
    from pipeline.regularizers.kernels import entropy_numba as module

    return module


class _Projected(torch.autograd.Function):
    """Passes the projection through and computes rows from it.

    The backward pass adds the rows' gradient to that of the projection.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, spec: RowSpec) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        # Not by `save_for_backward`: gradient checkpointing requires that a rerun saves the same tensors.
        ctx.projected, ctx.spec = projected, spec
        return projected, torch.from_numpy(kernels().read_rows(_array(projected), spec))

    @staticmethod
    def backward(ctx: Any, above: Tensor | None, row: Tensor | None) -> tuple[Tensor | None, None]:
        if row is None:
            return above, None
        if torch.is_grad_enabled():
            share = _by_plain_operations(ctx.projected, row, ctx.spec)
            return share if above is None else above + share, None
        # Calling contiguous() on a contiguous tensor costs much more than asking whether it is one.
        rows = _array(row if row.is_contiguous() else row.contiguous())
        projected = _array(ctx.projected)
        # An attention's backward pass creates this gradient for this function alone, so it may be changed in place.
        if above is None:
            above = torch.from_numpy(np.zeros_like(projected))
        elif not above.is_contiguous():
            above = above.contiguous()
        kernels().add_gradient(_array(above), projected, rows, ctx.spec)
        return above, None


def _array(tensor: Tensor) -> Reals:
    """Returns the tensor's memory, or a copy where numpy cannot view it, detached from the graph."""
    array: Reals = tensor.numpy(force=True)
    return array


def _by_plain_operations(projected: Tensor, row: Tensor, spec: RowSpec) -> Tensor:
    """Computes the rows' contribution to the gradient by the projection, by differentiable operations.

    Args:
        projected: Queries, keys and values side by side, (B, T, 3 A D).
        row: Gradient by the rows, (B, A, S).
        spec: How the rows are read.

    Returns:
        (B, T, 3 A D).
    """
    query, key, _ = split_projected(projected, 3, spec.heads)
    tokens, first = key.shape[2], spec.first
    start, stop = spec.with_query(tokens)
    pooled = pooled_query(query, spec.mean_from) * spec.scale
    into_query = (row[..., None] * key[:, :, first:]).sum(2, keepdim=True) * (spec.scale / (stop - start))
    into_query = functional.pad(into_query.expand(-1, -1, stop - start, -1), (0, 0, start, tokens - stop))
    into_key = functional.pad(row[..., None] * pooled[:, :, None], (0, 0, first, 0))
    stacked = torch.stack((into_query, into_key, torch.zeros_like(key)))
    return stacked.permute(1, 3, 0, 2, 4).reshape(projected.shape)

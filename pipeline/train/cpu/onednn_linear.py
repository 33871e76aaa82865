"""Linear layers computed by oneDNN on a CPU, forward and backward, while a network trains.

torch passes float32 products to MKL, which takes a slower path on processors that are not Intel's. oneDNN,
which is part of torch too, generates its kernels for the processor at hand. The precision is the same; the
order of summation differs. docs/performance.md has the gain.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipeline.models.stacked_network import StackedLinear


@contextmanager
def use_onednn_linear(model: nn.Module) -> Iterator[None]:
    """Computes the network's linear layers on a CPU by oneDNN inside the `with` block.

    Nothing changes on other devices, or if torch was built without oneDNN. Layers of other classes, also of
    subclasses, are not changed. Neither are inputs that are not float32 (under autocast, torch uses oneDNN by itself).

    Args:
        model: the network, changed in place and restored afterwards.
    """
    faster: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: _Linear, StackedLinear: _StackedLinear}
    layers: list[Any] = [each for each in model.modules() if type(each) in faster]
    layers = [each for each in layers if each.weight.device.type == "cpu"] if has_onednn() else []
    usual = [type(layer) for layer in layers]
    for layer in layers:
        # The class is replaced, not a method of the object, so that a copy of the network uses its own weights.
        layer.__class__ = faster[type(layer)]
    try:
        yield
    finally:
        for layer, kind in zip(layers, usual, strict=True):
            layer.__class__ = kind


def has_onednn() -> bool:
    """Returns whether torch has oneDNN, and the oneDNN operator that is used here."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call, unused-ignore]
    return there and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _fits(inputs: Tensor) -> bool:
    """Returns whether oneDNN's operator supports an input."""
    other = inputs.dtype != torch.float32 or not inputs.numel() or torch.is_autocast_enabled("cpu")
    # torch.compile supports oneDNN's operator only with constant weights.
    return not (other or torch.compiler.is_compiling())


class _Linear(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        if not _fits(inputs):
            return F.linear(inputs, self.weight, self.bias)
        found: Tensor = _Product.apply(inputs, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return found


class _StackedLinear(StackedLinear):
    def products(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _fits(rows):
            return super().products(rows, weight, bias)
        biases = [None] * len(weight) if bias is None else bias.unbind()
        # oneDNN has no operator for several products at once; on a CPU, calls are not what takes the time.
        each = zip(rows.unbind(), weight.unbind(), biases, strict=True)
        return torch.stack([_Product.apply(*given) for given in each])  # type: ignore[no-untyped-call]


class _Product(torch.autograd.Function):
    """The product x W^T + b for x (..., I), W (O, I), b (O,) or None."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # The classifier's input is a slice (the class token's); for slices oneDNN's gradient takes 0.8 ms, not 0.1.
        inputs = inputs.contiguous()
        ctx.save_for_backward(inputs, weight)
        return _times_transposed(inputs, weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        wants_inputs, wants_weight, wants_bias = ctx.needs_input_grad
        above = above.contiguous()
        rows, columns = above.flatten(0, -2), inputs.flatten(0, -2)
        into_weight = None
        if wants_weight and weight.shape[1] <= weight.shape[0]:
            # Of the two products, the one with fewer rows is faster. Optimizers need the usual layout.
            into_weight = _times_transposed(columns.t(), rows.t()).t().contiguous()
        elif wants_weight:
            into_weight = _times_transposed(rows.t(), columns.t())
        return (
            _times_transposed(above, weight.t().contiguous()) if wants_inputs else None,
            into_weight,
            rows.sum(0) if wants_bias else None,
        )


def _times_transposed(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns left right^T + bias, (..., N).

    Args:
        left: (..., K).
        right: (N, K).
        bias: (N,); None: zero.
    """
    found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return found

"""Linear layers on a CPU by oneDNN, forward and backward, while a network trains.

torch gives float32 products to MKL, which takes its slower path on processors that are not Intel's; oneDNN, which comes
with torch too, writes its kernels for what the processor has. Same precision, other order of summation.
docs/performance.md says what it gives.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@contextmanager
def use_onednn_linear(model: nn.Module) -> Iterator[None]:
    """Inside, the network's linear layers on a CPU compute by oneDNN; afterwards by torch's own way again.

    Where torch was built without oneDNN, and on any other device, nothing changes. Layers of other classes, even
    derived ones, are left alone, and so is what is not float32 (autocast's products go to oneDNN by themselves).
    """
    layers = [each for each in model.modules() if type(each) is nn.Linear and each.weight.device.type == "cpu"]
    if not has_onednn():
        layers = []
    for layer in layers:
        # The class and not a method of the object, so that a copy of the network computes with weights of its own.
        layer.__class__ = _Linear
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.Linear


def has_onednn() -> bool:
    """Whether torch has oneDNN, and the operator of it that is used here."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call, unused-ignore]
    return there and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class _Linear(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        other = inputs.dtype != torch.float32 or not inputs.numel() or torch.is_autocast_enabled("cpu")
        # torch.compile takes oneDNN's operator with constant weights alone.
        if other or torch.compiler.is_compiling():
            return F.linear(inputs, self.weight, self.bias)
        found: Tensor = _Product.apply(inputs, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return found


class _Product(torch.autograd.Function):
    """x W^T + b for x (..., I), W (O, I), b (O,) or None."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # Of a slice, as the head gets the class token's, oneDNN takes the gradient by its slowest way: .8 ms, not .1.
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
            # The product with fewer rows is the faster one of the two; optimizers want the usual layout.
            into_weight = _times_transposed(columns.t(), rows.t()).t().contiguous()
        elif wants_weight:
            into_weight = _times_transposed(rows.t(), columns.t())
        return (
            _times_transposed(above, weight.t().contiguous()) if wants_inputs else None,
            into_weight,
            rows.sum(0) if wants_bias else None,
        )


def _times_transposed(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left right^T + bias for left (..., K), right (N, K), bias (N,): (..., N)."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return found

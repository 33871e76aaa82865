"""Linear layers by oneDNN: the same products as in double precision, gradients too, and the network as it was after.

Whole numbers below 300 need nine bits, one more than half precision has, and sums of a few dozen of their products are
whole numbers that float32 holds: in whatever order a processor adds them, it gives the same bits.
"""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.train.cpu import onednn_linear
from pipeline.train.cpu.onednn_linear import has_onednn, use_onednn_linear

needs_onednn = pytest.mark.skipif(not has_onednn(), reason="torch was built without oneDNN")


def whole(*shape: int) -> Tensor:
    return torch.randint(-300, 301, shape).float()


def layer_of(inside: int, outside: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inside, outside, bias)
    for parameter in layer.parameters():
        parameter.data = whole(*parameter.shape)
    return layer


def gradients(layer: nn.Linear, inputs: Tensor, above: Tensor) -> list[Tensor]:
    given = inputs.detach().clone().requires_grad_()
    layer.zero_grad()
    out = layer(given)
    out.backward(above)
    return [out.detach(), given.grad, *(each.grad for each in layer.parameters())]


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inside", "outside"), [(7, 19), (19, 7), (8, 8), (1, 3), (3, 1)])
@pytest.mark.parametrize("shape", [(1,), (5,), (4, 6), (2, 3, 5)])
def test_products_and_gradients_are_those_of_double_precision(
    shape: tuple[int, ...], inside: int, outside: int, bias: bool
) -> None:
    torch.manual_seed(0)
    layer, inputs, above = layer_of(inside, outside, bias), whole(*shape, inside), whole(*shape, outside)
    exact = gradients(copy.deepcopy(layer).double(), inputs.double(), above.double())
    with use_onednn_linear(layer):
        assert type(layer) is not nn.Linear
        found = gradients(layer, inputs, above)
        transposed = gradients(layer, inputs.transpose(0, -2), above.transpose(0, -2).contiguous())
    for mine, wanted in zip(found, exact, strict=True):
        assert mine.is_contiguous()
        assert torch.equal(mine.double(), wanted)
    assert torch.equal(transposed[2], found[2])
    assert type(layer) is nn.Linear


@needs_onednn
def test_nothing_is_computed_for_what_needs_no_gradient() -> None:
    layer = nn.Linear(4, 3)
    layer.weight.requires_grad_(False)
    with use_onednn_linear(layer):
        layer(torch.randn(2, 4)).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None


class Derived(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) + 1


@needs_onednn
def test_other_precisions_and_other_classes_are_computed_as_ever() -> None:
    inputs, layer, derived = torch.randn(5, 4), nn.Linear(4, 3), Derived(4, 3)
    with use_onednn_linear(nn.Sequential(layer, derived)):
        with torch.autocast("cpu", torch.bfloat16):
            half = layer(inputs)
        own = derived(inputs)
        double = copy.deepcopy(layer).double()(inputs.double())
        assert layer(torch.empty(0, 4)).shape == (0, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(half, layer(inputs))
    assert torch.equal(own, derived(inputs))
    assert torch.equal(double, copy.deepcopy(layer).double()(inputs.double()))


@needs_onednn
def test_copy_made_inside_has_weights_of_its_own() -> None:
    layer = nn.Linear(4, 3)
    with use_onednn_linear(layer):
        other = copy.deepcopy(layer)
        with torch.no_grad():
            other.weight.zero_()
        assert layer(torch.ones(1, 4)).abs().sum() > 0
        assert torch.equal(other(torch.ones(1, 4)), other.bias.detach()[None])


def test_without_onednn_everything_is_as_ever(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    layer = nn.Linear(4, 3)
    with use_onednn_linear(layer):
        assert type(layer) is nn.Linear


@needs_onednn
def test_class_is_put_back_after_an_error() -> None:
    layer = nn.Linear(4, 3)
    with pytest.raises(RuntimeError), use_onednn_linear(layer):
        layer(torch.ones(1, 5))
    assert type(layer) is nn.Linear


@needs_onednn
def test_first_token_of_each_image_is_computed_from_a_copy_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN takes a slice of tokens, as a head is given, by its reference loop: many times slower."""
    asked: list[bool] = []
    product = onednn_linear._times_transposed

    def noted(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
        asked.extend(each.is_contiguous() or each.t().is_contiguous() for each in (left, right) if each.ndim == 2)
        return product(left, right, bias)

    monkeypatch.setattr(onednn_linear, "_times_transposed", noted)
    layer, tokens, above = layer_of(8, 3), whole(4, 5, 8).requires_grad_(), whole(4, 3)

    def computed() -> list[Tensor]:
        out = layer(tokens[:, 0])
        return [out, *torch.autograd.grad((out * above).sum(), (tokens, layer.weight, layer.bias))]

    expected = computed()
    with use_onednn_linear(layer):
        found = computed()
    assert asked
    assert all(asked)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)

"""Rows read on the way to an attention, against the same products and gradients by plain slices."""

from collections import Counter
from typing import Any

import pytest
import torch
from support.reference_rows import by_slices
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.models.rows import key_passthrough, query_passthrough

SHAPE = (3, 2, 6, 4)
QUERIES = [None, 1, 2]
"""First token of the mean; None: the first token's own."""


def pair(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    query, key = (torch.randn(SHAPE, generator=draws, dtype=torch.float64).to(dtype) for _ in range(2))
    return query.requires_grad_(), key.requires_grad_()


def read(query: Tensor, key: Tensor, mean_from: int | None, first: int) -> tuple[Tensor, Tensor, Tensor]:
    query, asking = query_passthrough(query, mean_from, 0.5)
    key, row = key_passthrough(key, asking, first)
    return query, key, row


def attended(query: Tensor, key: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, torch.ones_like(key)[..., :3].cumsum(2)).pow(3).sum()


@pytest.mark.parametrize("mean_from", QUERIES)
@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("used", ["both", "rows alone", "attention alone"])
def test_values_and_gradients_are_those_of_plain_slices(mean_from: int | None, first: int, used: str) -> None:
    inputs = pair()
    query, key, row = read(*inputs, mean_from, first)
    assert torch.equal(query, inputs[0])
    assert torch.equal(key, inputs[1])
    expected = by_slices(*inputs, mean_from, first)
    torch.testing.assert_close(row, expected)
    with_rows, with_attention = used != "attention alone", used != "rows alone"
    found = with_rows * row.pow(3).sum() + (attended(query, key) if with_attention else 0)
    wanted = with_rows * expected.pow(3).sum() + (attended(*inputs) if with_attention else 0)
    for one, other in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(wanted, inputs), strict=True):
        torch.testing.assert_close(one, other)


def test_rows_that_nothing_is_made_of_leave_the_attentions_gradients_alone() -> None:
    inputs = pair()
    query, key, _ = read(*inputs, None, 1)
    found = torch.autograd.grad(attended(query, key), inputs)
    for one, other in zip(found, torch.autograd.grad(attended(*inputs), inputs), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("mean_from", QUERIES)
def test_gradients_that_share_memory_are_not_written_to(mean_from: int | None) -> None:
    inputs = pair()
    query, key, row = read(*inputs, mean_from, 1)
    # The sums' gradients are one number, seen as a whole tensor.
    found = torch.autograd.grad(row.square().sum() + query.sum() + key.sum(), inputs)
    expected = by_slices(*inputs, mean_from, 1).square().sum() + inputs[0].sum() + inputs[1].sum()
    for one, other in zip(found, torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(one, other)


def test_two_readers_of_one_block_add_up() -> None:
    inputs = pair()
    query, key, one = read(*inputs, None, 1)
    query, key, other = read(query, key, 1, 0)
    found = torch.autograd.grad(attended(query, key) + one.pow(3).sum() + other.square().sum(), inputs)
    rows = by_slices(*inputs, None, 1).pow(3).sum() + by_slices(*inputs, 1, 0).square().sum()
    for left, right in zip(found, torch.autograd.grad(attended(*inputs) + rows, inputs), strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("mean_from", QUERIES)
def test_derivatives_of_first_and_second_order_are_those_of_differences(mean_from: int | None) -> None:
    def whole(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        query, key, row = read(query, key, mean_from, 1)
        return row.pow(3), (query @ key.transpose(-2, -1)).square()

    assert torch.autograd.gradcheck(whole, pair())
    assert torch.autograd.gradgradcheck(whole, pair())


@pytest.mark.parametrize("frozen", [0, 1])
def test_frozen_queries_or_keys_get_no_gradient(frozen: int) -> None:
    inputs = pair()
    inputs[frozen].requires_grad_(False)
    query, key, row = read(*inputs, None, 1)
    (row.pow(3).sum() + attended(query, key)).backward()  # type: ignore[no-untyped-call]
    found = inputs[1 - frozen].grad
    assert inputs[frozen].grad is None
    assert found is not None
    (expected,) = torch.autograd.grad(by_slices(*inputs, None, 1).pow(3).sum() + attended(*inputs), inputs[1 - frozen])
    torch.testing.assert_close(found, expected)


def test_half_precision_has_rows_in_float32_under_autocast_too() -> None:
    inputs = pair(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        query, key, row = read(*inputs, 1, 1)
        loss = row.pow(3).sum() + attended(query, key).float()
    assert row.dtype == torch.float32
    assert query.dtype == torch.bfloat16
    expected = by_slices(*inputs, 1, 1)
    torch.testing.assert_close(row.double(), expected, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(loss, inputs)
    for one, other in zip(found, torch.autograd.grad(expected.pow(3).sum() + attended(*inputs), inputs), strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.05)


class _Sizes(TorchDispatchMode):
    """Counts new tensors as large as the queries, by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.made: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = operation(*args, **(kwargs or {}))
        whole = isinstance(given, Tensor) and given.numel() == 3 * 2 * 6 * 4
        if whole and given._base is None and not any(given is each for each in args):
            self.made[str(operation.overloadpacket)] += 1
        return given


def test_backward_pass_makes_no_tensor_of_the_queries_size_for_a_row() -> None:
    inputs = pair()
    query, key, row = read(*inputs, None, 1)
    above = torch.ones(SHAPE, dtype=torch.float64), torch.ones(SHAPE, dtype=torch.float64), torch.ones_like(row)
    with _Sizes() as sizes:
        torch.autograd.grad((query, key, row), inputs, above)
    assert sum(sizes.made.values()) == 0, sizes.made

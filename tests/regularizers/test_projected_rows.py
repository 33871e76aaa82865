"""Rows read by kernels from what was projected, against the same products and gradients by plain slices."""

import pytest
import torch
from support.reference_rows import by_slices
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.rows import RowSpec, split_projected
from pipeline.regularizers.projected_rows import pass_projected

SHAPE = (3, 2, 6, 4)
QUERIES = [None, 1, 2]
"""First token of the mean; None: the first token's own."""


@pytest.fixture(autouse=True)
def however_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.regularizers.projected_rows.FEWEST_KEYS", 0)


def side_by_side(dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = SHAPE) -> Tensor:
    images, heads, tokens, channels = shape
    draws = torch.Generator().manual_seed(1)
    projected = torch.randn(images, tokens, 3 * heads * channels, generator=draws, dtype=torch.float64)
    return projected.to(dtype).requires_grad_()


def read(projected: Tensor, heads: int, mean_from: int | None, first: int, scale: float) -> tuple[Tensor, Tensor]:
    found = pass_projected(projected, RowSpec(heads, mean_from, first, scale))
    assert found is not None
    return found


def attended_by(projected: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*split_projected(projected, 3, SHAPE[1])).pow(3).sum()


@pytest.mark.parametrize("mean_from", QUERIES)
@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("used", ["both", "rows alone", "attention alone"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_rows_of_what_was_projected_are_those_of_plain_slices(
    mean_from: int | None, first: int, used: str, dtype: torch.dtype
) -> None:
    projected = side_by_side(dtype)
    passed, row = read(projected, SHAPE[1], mean_from, first, 0.5)
    assert torch.equal(passed, projected)
    assert row.dtype == dtype
    query, key, _ = split_projected(projected, 3, SHAPE[1])
    expected = by_slices(query, key, mean_from, first)
    torch.testing.assert_close(row.double(), expected, rtol=1e-5, atol=1e-6)
    with_rows, with_attention = used != "attention alone", used != "rows alone"
    found = with_rows * row.pow(3).sum() + (attended_by(passed) if with_attention else 0)
    wanted = with_rows * expected.pow(3).sum() + (attended_by(projected) if with_attention else 0)
    (one,), (other,) = torch.autograd.grad(found, projected), torch.autograd.grad(wanted, projected)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, 1e-30])
def test_compiled_rows_of_extreme_numbers_are_those_of_plain_slices(value: float) -> None:
    projected = side_by_side(torch.float32).detach()
    projected[1, 3, 5], projected[2, 0, 2], projected[0, 4, 9] = value, value, -value
    _, row = read(projected, SHAPE[1], None, 1, 0.5)
    query, key, _ = split_projected(projected, 3, SHAPE[1])
    torch.testing.assert_close(row, by_slices(query, key, None, 1).float(), rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("mean_from", QUERIES)
def test_compiled_rows_derivatives_of_first_and_second_order_are_those_of_differences(mean_from: int | None) -> None:
    def whole(projected: Tensor) -> tuple[Tensor, Tensor]:
        projected, row = read(projected, SHAPE[1], mean_from, 1, 0.5)
        query, key, _ = split_projected(projected, 3, SHAPE[1])
        return row.pow(3), (query @ key.transpose(-2, -1)).square()

    assert torch.autograd.gradcheck(whole, side_by_side())
    assert torch.autograd.gradgradcheck(whole, side_by_side())


def test_compiled_rows_leave_gradients_that_share_memory_alone_and_two_readers_add_up() -> None:
    projected = side_by_side()
    passed, one = read(projected, SHAPE[1], None, 1, 0.5)
    passed, other = read(passed, SHAPE[1], 1, 0, 0.5)
    # The sum's gradient is one number, seen as a whole tensor.
    (found,) = torch.autograd.grad(one.pow(3).sum() + other.square().sum() + passed.sum(), projected)
    query, key, _ = split_projected(projected, 3, SHAPE[1])
    rows = by_slices(query, key, None, 1).pow(3).sum() + by_slices(query, key, 1, 0).square().sum()
    (expected,) = torch.autograd.grad(rows + projected.sum(), projected)
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("three_threads")
def test_compiled_rows_are_the_same_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.regularizers.kernels import entropy_numba

    def whole() -> tuple[Tensor, Tensor]:
        projected = side_by_side(torch.float32, (13, 2, 6, 4))
        passed, row = read(projected, 2, None, 1, 0.5)
        (gradient,) = torch.autograd.grad(row.pow(3).sum() + passed.square().sum(), projected)
        return row, gradient

    alone = whole()
    monkeypatch.setattr(entropy_numba, "FEWEST_VALUES", 1)
    shared = whole()
    assert all(torch.equal(one, other) for one, other in zip(alone, shared, strict=True))


def test_what_the_kernels_do_not_take_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    large, reading = torch.zeros(64, 37, 24), RowSpec(2, None, 1, 0.5)
    assert pass_projected(large, reading) is not None
    assert pass_projected(large[:2], reading) is None  # not worth the import
    for other in (large.bfloat16(), large.transpose(0, 1), large.to("meta")):
        assert pass_projected(other, reading) is None

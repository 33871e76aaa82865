"""Claims about total variation, against loops over neighbours in float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.regularizers.base import Features
from pipeline.regularizers.total_variation import TotalVariation, total_variation


def slow(single: np.ndarray) -> float:
    """Neighbour by neighbour, as the equation counts them."""
    height, width = single.shape
    total = 0.0
    for y in range(height):
        for x in range(width):
            if y + 1 < height:
                total += 0.5 * (single[y + 1, x] - single[y, x]) ** 2
            if x + 1 < width:
                total += 0.5 * (single[y, x + 1] - single[y, x]) ** 2
    return total


def slow_gradient(single: np.ndarray) -> np.ndarray:
    """What each patch differs from its neighbours by, summed."""
    height, width = single.shape
    gradient = np.zeros_like(single)
    for y in range(height):
        for x in range(width):
            for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                if 0 <= y + down < height and 0 <= x + right < width:
                    gradient[y, x] += single[y, x] - single[y + down, x + right]
    return gradient


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 1), (3, 5), (14, 14), (32, 20)])
def test_value_and_gradient_are_those_of_the_loops(size: tuple[int, int]) -> None:
    maps = torch.from_numpy(np.random.default_rng(size[0]).normal(size=(6, *size)) * 5).requires_grad_()
    variation = total_variation(maps)
    (gradient,) = torch.autograd.grad(variation.sum(), maps)
    for single, value, slope in zip(maps.detach().numpy(), variation, gradient, strict=True):
        assert value.item() == pytest.approx(slow(single), rel=1e-12, abs=1e-12)
        np.testing.assert_allclose(slope, slow_gradient(single), atol=1e-10)


def test_gradient_passes_a_numerical_check() -> None:
    maps = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 3))).requires_grad_()
    assert torch.autograd.gradcheck(total_variation, maps)


def test_map_that_is_flat_or_a_single_patch_has_none() -> None:
    flat = torch.full((3, 5, 6), 2.5, requires_grad=True)
    variation = total_variation(flat)
    variation.sum().backward()
    assert variation.tolist() == [0.0, 0.0, 0.0]
    assert flat.grad is not None
    assert flat.grad.abs().max() == 0.0
    assert total_variation(torch.tensor([[7.0]])).item() == 0.0


def test_one_pixel_counts_half_of_its_square_for_each_neighbour() -> None:
    dot = torch.zeros(5, 5)
    dot[2, 2] = 3.0
    assert total_variation(dot).item() == 4 * 0.5 * 9
    corner = torch.zeros(5, 5)
    corner[0, 0] = 3.0
    assert total_variation(corner).item() == 2 * 0.5 * 9


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_map_that_is_not_finite_spoils_its_own_value_and_no_other(bad: float) -> None:
    maps = torch.arange(24.0).view(2, 3, 4).clone()
    maps[1, 1, 1] = bad
    first, second = total_variation(maps)
    assert first.item() == slow(maps[0].numpy())
    assert not second.isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    maps = (torch.from_numpy(np.random.default_rng(4).normal(size=(5, 9, 9))) * 300).to(dtype)  # squares beyond float16
    variation = total_variation(maps)
    assert variation.dtype == torch.float32
    assert torch.equal(variation, total_variation(maps.float()))
    assert variation.isfinite().all()


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        (torch.zeros(6), "at least one patch"),
        (torch.zeros(2, 0, 6), "at least one patch"),
        (torch.zeros(2, 3, 4, dtype=torch.int64), "floating point"),
    ],
)
def test_what_is_no_batch_of_maps_is_refused(maps: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        total_variation(maps)


def test_loss_is_the_mean_over_images_and_heads_and_layers_add_up() -> None:
    maps = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 2, 4, 5, 6)))
    by_layer = [np.mean([slow(maps[b, layer, a].numpy()) for b in range(3) for a in range(4)]) for layer in (0, 1)]
    penalty = TotalVariation(weight=1.0, layers="last_two")(Features(similarity=maps))
    assert penalty.loss.item() == pytest.approx(sum(by_layer))
    assert {name: value.item() for name, value in penalty.monitors.items()} == {
        "value": pytest.approx(sum(by_layer) / 2)
    }
    assert not penalty.monitors["value"].requires_grad


def test_module_asks_for_the_maps_of_its_layers_and_query_and_refuses_none() -> None:
    method = TotalVariation(weight=0.1, layers=(0, 2), query="mean")
    assert (method.needs.similarity, method.needs.query) == ((0, 2), "mean")
    assert not method.watch
    with pytest.raises(ValueError, match="none were collected"):
        method(Features())

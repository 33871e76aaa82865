"""Claims about spatial entropy, against a slow restatement that takes one map at a time and fills by hand."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from pipeline.regularizers.base import Features
from pipeline.regularizers.settings import SpatialEntropyConfig
from pipeline.regularizers.spatial_entropy import (
    SpatialEntropy,
    entropy_and_empty,
    label_components,
    spatial_entropy,
)

SIDES = {8: [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)], 4: [(-1, 0), (1, 0), (0, -1), (0, 1)]}


def flooded(inside: Tensor, connectivity: int) -> list[list[tuple[int, int]]]:
    """The components of one mask (H, W), each as the places that a flood reaches from its first pixel."""
    dry = {(int(row), int(column)) for row, column in inside.nonzero()}
    components = []
    while dry:
        wet = [dry.pop()]
        for row, column in wet:
            for down, right in SIDES[connectivity]:
                place = (row + down, column + right)
                if place in dry:
                    dry.remove(place)
                    wet.append(place)
        components.append(wet)
    return components


def slow_entropy(single: Tensor, threshold: float, connectivity: int) -> Tensor | None:
    """The entropy of one map (H, W) as its definition says, for autograd to differentiate; None for an empty map."""
    if not single.isfinite().all():
        return None
    mean = single.sum() / single.numel()
    deviation = (((single - mean) ** 2).sum() / single.numel()).sqrt()
    cut = mean + threshold * deviation
    if deviation < 1e-4 or not (single > cut).any():
        return None
    masses = []
    for component in flooded(single.detach() > cut.detach(), connectivity):
        rows, columns = zip(*component, strict=True)
        masses.append((single[list(rows), list(columns)] - cut).sum())
    shares = torch.stack(masses) / torch.stack(masses).sum()
    return -(shares * shares.log()).sum()


def slow(maps: Tensor, threshold: float, connectivity: int) -> tuple[Tensor, Tensor]:
    """Entropies of maps (n, H, W) in float64, 0 where a map is empty, and the gradient of each by its own map."""
    entropies, gradients = [], []
    for single in maps.double():
        leaf = single.clone().requires_grad_()
        entropy = slow_entropy(leaf, threshold, connectivity)
        if entropy is None:
            entropies.append(torch.zeros((), dtype=torch.float64))
            gradients.append(torch.zeros_like(single))
        else:
            entropies.append(entropy.detach())
            gradients.append(torch.autograd.grad(entropy, leaf)[0])
    return torch.stack(entropies), torch.stack(gradients)


def fast(maps: Tensor, threshold: float, connectivity: int) -> tuple[Tensor, Tensor]:
    """What is under test: entropies and the gradient of each by its own map."""
    leaf = maps.clone().requires_grad_()
    entropy = spatial_entropy(leaf, threshold=threshold, connectivity=connectivity)
    return entropy.detach(), torch.autograd.grad(entropy.sum(), leaf)[0]


def random_maps(seed: int) -> Iterator[tuple[Tensor, float]]:
    """264 maps in batches of one size each, noisy and smooth, with the threshold to cut them at."""
    rng = np.random.default_rng(seed)
    sizes = [(3, 5), (14, 14), (7, 7), (5, 3), *((int(h), int(w)) for h, w in rng.integers(3, 15, size=(28, 2)))]
    for index, (height, width) in enumerate([*sizes, (32, 32)]):
        noise = rng.normal(size=(8, height, width)) * rng.uniform(0.1, 10) + rng.normal() * 5
        if index % 2:
            noise = ndimage.gaussian_filter(noise, sigma=(0, 1, 1))
        yield torch.from_numpy(noise), float(rng.uniform(-0.5, 1.5))


def picture(*rows: str) -> Tensor:
    """A map that is 1 at every # and 0 elsewhere."""
    return torch.tensor([[float(mark == "#") for mark in row] for row in rows], dtype=torch.float64)


def serpentine(side: int) -> Tensor:
    """Every other row full, joined at alternating ends: one long winding component."""
    path = torch.zeros(side, side, dtype=torch.float64)
    path[::2] = 1.0
    for row in range(1, side - 1, 2):
        path[row, -1 if row % 4 == 1 else 0] = 1.0
    return path


@pytest.mark.parametrize("connectivity", [4, 8])
def test_entropy_and_gradient_are_those_of_the_restatement_in_float64(connectivity: int) -> None:
    seen = 0
    for maps, threshold in random_maps(seed=connectivity):
        expected, slope = slow(maps, threshold, connectivity)
        entropy, gradient = fast(maps, threshold, connectivity)
        torch.testing.assert_close(entropy, expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-9)
        assert entropy.dtype == gradient.dtype == torch.float64
        seen += int((expected > 0).sum())
    assert seen > 200  # most of them fall into several components, so something was compared


@pytest.mark.parametrize("connectivity", [4, 8])
def test_entropy_in_float32_agrees_where_no_pixel_is_near_the_cut(connectivity: int) -> None:
    compared = 0
    for maps, threshold in random_maps(seed=10 + connectivity):
        exact = maps / maps.std(dim=(-2, -1), correction=0, keepdim=True)
        single = exact.float()
        exact = single.double()
        mean, deviation = exact.mean(dim=(-2, -1), keepdim=True), exact.std(dim=(-2, -1), correction=0, keepdim=True)
        clear = ((exact - mean - threshold * deviation).abs() > 1e-3).all(dim=-1).all(dim=-1)
        if not clear.any():
            continue
        compared += int(clear.sum())
        expected, slope = slow(exact[clear], threshold, connectivity)
        entropy, gradient = fast(single[clear], threshold, connectivity)
        assert entropy.dtype == gradient.dtype == torch.float32
        torch.testing.assert_close(entropy.double(), expected, rtol=0, atol=2e-5)
        # Where little lies above the cut gradients are large, and the same rounding is a larger amount.
        torch.testing.assert_close(gradient.double(), slope, rtol=2e-5, atol=2e-5)
    assert compared > 150


def test_gradient_is_the_closed_form_of_the_equations() -> None:
    maps = torch.from_numpy(np.random.default_rng(3).normal(size=(6, 7, 9)))
    threshold = 0.4
    _, gradient = fast(maps, threshold, 8)
    for single, found in zip(maps, gradient, strict=True):
        mean, deviation = single.mean(), single.std(correction=0)
        excess = (single - mean - threshold * deviation).clamp(min=0)
        total, g = excess.sum(), torch.zeros_like(single)
        components = [tuple(zip(*places, strict=True)) for places in flooded(excess > 0, 8)]
        shares = [excess[rows, columns].sum() / total for rows, columns in components]
        entropy = -sum(share * share.log() for share in shares)
        for (rows, columns), share in zip(components, shares, strict=True):
            g[rows, columns] = -(share.log() + entropy) / total
        expected = g - g.mean() - threshold * g.sum() * (single - mean) / (63 * deviation)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("threshold", [-0.3, 0.0, 0.7])
def test_gradient_passes_a_numerical_check_away_from_jumps(threshold: float, connectivity: int) -> None:
    drawn = torch.from_numpy(np.random.default_rng(5).normal(size=(40, 4, 5)))
    cut = drawn.mean(dim=(-2, -1), keepdim=True) + threshold * drawn.std(dim=(-2, -1), correction=0, keepdim=True)
    away = ((drawn - cut).abs() > 0.02).all(dim=-1).all(dim=-1)
    maps = drawn[away][:3].clone().requires_grad_()
    assert len(maps) == 3
    assert torch.autograd.gradcheck(
        lambda leaf: spatial_entropy(leaf, threshold=threshold, connectivity=connectivity), maps
    )


def test_threshold_zero_is_the_published_algorithm() -> None:
    maps = torch.from_numpy(np.random.default_rng(7).normal(size=(5, 1, 3, 14, 14))).requires_grad_()
    losses = []
    for image in maps[:, 0]:
        for head in image:
            mean = head.mean()
            above = torch.relu(head - mean)
            labels, count = ndimage.label((head > mean).detach().numpy(), structure=np.ones((3, 3)))
            masks = [torch.from_numpy(labels == component).double() for component in range(1, count + 1)]
            shares = torch.stack([(above * mask).sum() for mask in masks]) / above.sum()
            losses.append(-(shares * shares.log()).sum())
    published = torch.stack(losses).mean()
    (slope,) = torch.autograd.grad(published, maps)
    penalty = SpatialEntropy(SpatialEntropyConfig(0.01, "last", 0.0, 8))(Features(similarity=maps))
    (gradient,) = torch.autograd.grad(penalty.loss, maps)
    torch.testing.assert_close(penalty.loss, published, rtol=0, atol=1e-9)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-9)


def test_blobs_that_touch_at_a_corner_are_one_component_with_8_neighbours_and_two_with_4() -> None:
    corner = picture("....", ".#..", "..#.", "....")
    assert spatial_entropy(corner, connectivity=8).item() == 0.0
    assert spatial_entropy(corner, connectivity=4).item() == pytest.approx(math.log(2), abs=1e-12)
    assert fast(corner, 0.0, 8)[1].abs().max() == 0.0


def test_entropy_of_unequal_blobs_is_that_of_their_shares() -> None:
    blobs = picture("###.....", "........", "......#.")
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert spatial_entropy(blobs).item() == pytest.approx(expected, abs=1e-12)


def test_checkerboard_is_one_component_with_8_neighbours_and_all_its_pixels_with_4() -> None:
    board = picture("#.#.", ".#.#", "#.#.", ".#.#")
    assert spatial_entropy(board, connectivity=8).item() == pytest.approx(0.0, abs=1e-12)
    assert spatial_entropy(board, connectivity=4).item() == pytest.approx(math.log(8), abs=1e-12)


def test_most_components_with_8_neighbours_are_one_in_every_four_patches() -> None:
    assert spatial_entropy(picture("#.#.#", ".....", "#.#.#", ".....", "#.#.#")).item() == pytest.approx(math.log(9))


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("side", [7, 13, 31])
def test_serpentine_is_one_component_however_long(side: int, connectivity: int) -> None:
    entropy, gradient = fast(serpentine(side), 0.0, connectivity)
    assert entropy.item() == pytest.approx(0.0, abs=1e-12)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("connectivity", [4, 8])
def test_serpentine_that_is_cut_once_has_the_entropy_of_its_two_parts(connectivity: int) -> None:
    path = serpentine(7)
    path[3, 0] = 0.0  # the joint between the second and the third of the four full rows
    assert spatial_entropy(path, connectivity=connectivity).item() == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("connectivity", [4, 8])
def test_one_component_of_any_values_has_entropy_0_and_no_gradient(connectivity: int) -> None:
    maps = torch.full((4, 6, 6), -1.0, dtype=torch.float64)
    maps[:, 2:5, 1:4] = torch.from_numpy(np.random.default_rng(0).uniform(1, 2, size=(4, 3, 3)))
    entropy, gradient = fast(maps, 0.0, connectivity)
    assert entropy.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12


def test_maps_of_a_batch_do_not_touch_each_other() -> None:
    stacked = torch.stack([picture("...", "...", "..#"), picture("..#", "...", "...")])
    assert spatial_entropy(stacked).tolist() == [0.0, 0.0]
    labels, owner = label_components(stacked > 0, 8)
    assert labels.flatten().tolist() == [0] * 8 + [1] + [0, 0, 2] + [0] * 6
    assert owner.tolist() == [0, 0, 1]


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("single", "threshold"),
    [
        pytest.param([[3.0, 3.0], [3.0, 3.0]], 0.0, id="all equal"),
        pytest.param([[3.0]], 0.0, id="one patch"),
        pytest.param([[0.0, 0.5e-4], [1e-4, 0.0]], 0.0, id="nearly constant"),
        pytest.param([[0.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 0.0]], 3.0, id="nothing above the cut"),
        pytest.param([[0.0, NAN], [1.0, 0.0]], 0.0, id="NaN"),
        pytest.param([[0.0, INF], [1.0, 0.0]], 0.0, id="inf"),
        pytest.param([[0.0, -INF], [1.0, 0.0]], 0.0, id="-inf"),
        pytest.param([[-INF, INF], [1.0, 0.0]], 0.0, id="both infinities"),
        pytest.param([[NAN, NAN], [NAN, NAN]], -0.5, id="all NaN"),
        pytest.param([[0.0, 1e200], [1.0, 0.0]], -0.5, id="beyond squaring"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_map_gives_0_without_a_gradient_and_is_flagged(
    single: list[list[float]], threshold: float, dtype: torch.dtype
) -> None:
    bad = torch.tensor(single, dtype=dtype)
    good = torch.linspace(-1, 1, bad.numel(), dtype=dtype).view_as(bad).flip(0)
    leaf = torch.stack([good, bad, good]).requires_grad_()
    entropy, empty = entropy_and_empty(leaf, threshold=threshold)
    entropy.sum().backward()
    assert entropy[1] == 0.0
    assert empty[1]
    assert leaf.grad is not None
    assert leaf.grad[1].abs().max() == 0.0
    assert leaf.grad.isfinite().all()
    assert entropy.isfinite().all()


def test_map_just_above_nearly_constant_is_not_empty() -> None:
    pattern = picture("#.#", "...", "#.#")
    pattern = pattern / pattern.std(correction=0)
    assert entropy_and_empty(0.99e-4 * pattern)[1].item() is True
    entropy, empty = entropy_and_empty(1.01e-4 * pattern)
    assert empty.item() is False
    assert entropy.item() == pytest.approx(math.log(4))


def test_one_pixel_above_the_cut_is_not_empty() -> None:
    entropy, empty = entropy_and_empty(picture("....", ".#..", "...."))
    assert (entropy.item(), empty.item()) == (0.0, False)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (2, 1, 3, 2)])
def test_leading_dimensions_are_kept(lead: tuple[int, ...]) -> None:
    maps = torch.from_numpy(np.random.default_rng(1).normal(size=(*lead, 5, 7)))
    entropy, empty = entropy_and_empty(maps, threshold=0.2, connectivity=4)
    assert entropy.shape == empty.shape == lead
    expected, _ = slow(maps.reshape(-1, 5, 7), 0.2, 4)
    torch.testing.assert_close(entropy.reshape(-1), expected, rtol=0, atol=1e-9)


def test_map_that_is_not_contiguous_gives_what_its_copy_gives() -> None:
    maps = torch.from_numpy(np.random.default_rng(2).normal(size=(7, 5, 3))).permute(2, 1, 0)
    entropy, gradient = fast(maps, 0.0, 8)
    expected, slope = fast(maps.contiguous(), 0.0, 8)
    assert torch.equal(entropy, expected)
    assert torch.equal(gradient, slope)


@pytest.mark.parametrize("lead", [(0,), (0, 4), (3, 0)])
def test_batch_without_maps_gives_no_entropies(lead: tuple[int, ...]) -> None:
    maps = torch.zeros(*lead, 6, 6, requires_grad=True)
    entropy, empty = entropy_and_empty(maps)
    assert entropy.shape == empty.shape == lead
    entropy.sum().backward()
    assert maps.grad is not None
    assert maps.grad.shape == maps.shape


@pytest.mark.parametrize(
    ("maps", "connectivity", "said"),
    [
        (torch.zeros(6), 8, "at least one patch"),
        (torch.zeros(()), 8, "at least one patch"),
        (torch.zeros(2, 0, 6), 8, "at least one patch"),
        (torch.zeros(2, 6, 0), 8, "at least one patch"),
        (torch.zeros(2, 6, 6, dtype=torch.int64), 8, "floating point"),
        (torch.zeros(2, 6, 6, dtype=torch.bool), 8, "floating point"),
        (torch.zeros(2, 6, 6, dtype=torch.complex64), 8, "floating point"),
        (torch.zeros(2, 6, 6), 6, "connectivity must be 4 or 8"),
        (torch.zeros(2, 6, 6), 0, "connectivity must be 4 or 8"),
    ],
)
def test_what_is_no_batch_of_maps_is_refused(maps: Tensor, connectivity: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        spatial_entropy(maps, connectivity=connectivity)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    maps = torch.from_numpy(np.random.default_rng(4).normal(size=(5, 6, 6))).to(dtype)
    entropy, gradient = fast(maps, 0.0, 8)
    expected, slope = fast(maps.float(), 0.0, 8)
    assert entropy.dtype == torch.float32
    assert torch.equal(entropy, expected)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, slope.to(dtype))


def test_autocast_leaves_the_entropy_in_float32() -> None:
    maps = torch.from_numpy(np.random.default_rng(4).normal(size=(5, 6, 6))).float()
    with torch.autocast("cpu", torch.bfloat16):
        entropy = spatial_entropy(maps)
    assert entropy.dtype == torch.float32
    assert torch.equal(entropy, spatial_entropy(maps))


def test_entropy_ignores_scale_and_offset_and_its_gradient_is_inverse_to_the_scale() -> None:
    maps = torch.from_numpy(np.random.default_rng(6).normal(size=(9, 6, 6)))
    entropy, gradient = fast(maps, 0.3, 8)
    scaled, slope = fast(50 * maps - 7, 0.3, 8)
    torch.testing.assert_close(scaled, entropy, rtol=0, atol=1e-9)
    torch.testing.assert_close(50 * slope, gradient, rtol=0, atol=1e-9)


def test_gradient_is_multiplied_by_what_comes_from_above() -> None:
    leaf = torch.from_numpy(np.random.default_rng(8).normal(size=(2, 3, 6, 6))).requires_grad_()
    factors = torch.tensor([[1.0, -2.0, 0.0], [0.5, 3.0, 1.0]], dtype=torch.float64)
    (weighted,) = torch.autograd.grad((spatial_entropy(leaf) * factors).sum(), leaf)
    torch.testing.assert_close(weighted, fast(leaf.detach(), 0.0, 8)[1] * factors[..., None, None])


FOUR_CORNERS = picture("#.#", "...", "#.#")
TWO_CORNERS = picture("#..", "...", "..#")
ONE_DOT = picture("...", ".#.", "...")
EMPTY = torch.zeros(3, 3, dtype=torch.float64)


def penalty_of(*layers: list[list[Tensor]], threshold: float = 0.0) -> tuple[float, dict[str, float]]:
    """Loss and monitors for maps given as layers of images of heads."""
    maps = torch.stack([torch.stack([torch.stack(image) for image in layer]) for layer in layers], dim=1)
    penalty = SpatialEntropy(SpatialEntropyConfig(0.1, "all", threshold, 8))(Features(similarity=maps))
    return float(penalty.loss), {name: float(value) for name, value in penalty.monitors.items()}


def test_loss_is_the_mean_over_images_and_heads() -> None:
    loss, monitors = penalty_of([[FOUR_CORNERS, TWO_CORNERS], [ONE_DOT, ONE_DOT]])
    assert loss == pytest.approx((math.log(4) + math.log(2)) / 4)
    assert monitors == {"value": pytest.approx(loss), "empty_share": 0.0}


def test_loss_leaves_empty_maps_out_of_the_mean() -> None:
    loss, monitors = penalty_of([[FOUR_CORNERS, EMPTY], [EMPTY, TWO_CORNERS]])
    assert loss == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert monitors == {"value": pytest.approx(loss), "empty_share": 0.5}


def test_losses_of_layers_add_up_each_with_its_own_mean() -> None:
    loss, monitors = penalty_of([[FOUR_CORNERS], [EMPTY]], [[TWO_CORNERS], [ONE_DOT]])
    assert loss == pytest.approx(math.log(4) + math.log(2) / 2)
    assert monitors == {"value": pytest.approx((math.log(4) + math.log(2)) / 3), "empty_share": 0.25}


def test_layer_of_empty_maps_adds_nothing() -> None:
    loss, monitors = penalty_of([[EMPTY]], [[TWO_CORNERS]])
    assert loss == pytest.approx(math.log(2))
    assert monitors["empty_share"] == 0.5


def test_batch_of_empty_maps_has_loss_0() -> None:
    loss, monitors = penalty_of([[EMPTY, EMPTY]])
    assert loss == 0.0
    assert monitors == {"value": 0.0, "empty_share": 1.0}


def test_module_cuts_and_joins_as_its_configuration_says() -> None:
    ramp = picture("#...", "...#") * torch.tensor([[3.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 2.0]], dtype=torch.float64)
    assert penalty_of([[ramp]], threshold=0.0)[0] > 0.0
    assert penalty_of([[ramp]], threshold=1.5)[0] == 0.0  # only the higher of the two is left
    corner = picture("....", ".#..", "..#.", "....")[None, None, None]
    four = SpatialEntropy(SpatialEntropyConfig(0.1, "last", 0.0, 4))(Features(similarity=corner))
    assert float(four.loss) == pytest.approx(math.log(2))


def test_monitors_are_detached_and_the_loss_is_not() -> None:
    leaf = FOUR_CORNERS[None, None, None].clone().requires_grad_()
    penalty = SpatialEntropy(SpatialEntropyConfig(0.1, "last", 0.0, 8))(Features(similarity=leaf))
    assert penalty.loss.requires_grad
    assert not any(value.requires_grad for value in penalty.monitors.values())


def test_module_asks_for_the_maps_of_its_layers_and_refuses_none() -> None:
    method = SpatialEntropy(SpatialEntropyConfig(0.25, (0, 2), 0.0, 8))
    assert method.needs.similarity == (0, 2)
    assert method.weight_at(9, 100) == 0.25
    with pytest.raises(ValueError, match="none were collected"):
        method(Features())

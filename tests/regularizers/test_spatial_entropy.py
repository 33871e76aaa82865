"""Claims about the entropy of maps, against a slow restatement that takes one map at a time and fills by hand."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from support.reference_entropy import clear_of_the_cut, fast, flooded, picture, random_maps, serpentine, slow
from torch import Tensor

import pipeline.regularizers.spatial_entropy as module
from pipeline.regularizers.kernels.entropy_plain import label_components
from pipeline.regularizers.spatial_entropy import entropy_and_empty, spatial_entropy


@pytest.fixture(autouse=True, params=["plain", "compiled"])
def _path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every claim of this file holds for plain PyTorch and for the compiled kernel, whatever the number of maps."""
    monkeypatch.setattr(module, "FEWEST_PIXELS", 0 if request.param == "compiled" else 10**12)


def compare(maps: Iterable[tuple[Tensor, float]], connectivity: int) -> tuple[int, int]:
    """Compare with the restatement, in both precisions; how many maps had an entropy above 0, and were clear in float32."""
    seen = clear = 0
    for batch, threshold in maps:
        expected, slope = slow(batch, threshold, connectivity)
        entropy, gradient = fast(batch, threshold, connectivity)
        torch.testing.assert_close(entropy, expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-9)
        assert entropy.dtype == gradient.dtype == torch.float64
        seen += int((expected > 0).sum())
        # The same maps as float32 has them: only where no pixel is near the cut are they the same question.
        single = batch.float()
        away = clear_of_the_cut(batch, threshold) & clear_of_the_cut(single.double(), threshold)
        if not away.any():
            continue
        clear += int(away.sum())
        expected, slope = slow(single[away].double(), threshold, connectivity)
        entropy, gradient = fast(single[away], threshold, connectivity)
        assert entropy.dtype == gradient.dtype == torch.float32
        torch.testing.assert_close(entropy.double(), expected, rtol=0, atol=2e-5)
        torch.testing.assert_close(gradient.double(), slope, rtol=0, atol=2e-5)
    return seen, clear


@pytest.mark.parametrize("connectivity", [4, 8])
def test_entropy_and_gradient_are_those_of_the_restatement(connectivity: int) -> None:
    seen, clear = compare(random_maps(seed=connectivity), connectivity)
    assert seen > 200  # most of them fall into several components, so something was compared
    assert clear > 150


@pytest.mark.slow
@pytest.mark.parametrize("connectivity", [4, 8])
def test_entropy_and_gradient_are_those_of_the_restatement_on_ten_thousand_maps(connectivity: int) -> None:
    seen, clear = compare(random_maps(seed=20 + connectivity, count=5_000, largest=32), connectivity)
    assert seen > 4_000
    assert clear > 3_000


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

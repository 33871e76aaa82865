"""SAR in one call a block, from what an attention projects, against its definition and against the way over maps."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.double_precision import DoubleBatches
from support.reference_entropy import clear_of_the_cut, nasty_maps, slow_entropy
from support.reference_rows import by_slices
from support.tiny_runs import CONFIG, images, network
from timm.layers import set_reentrant_ckpt
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.data.batches.batches import ImageBatches
from pipeline.models.rows import RowSpec, split_projected
from pipeline.models.tap import SimilarityTap
from pipeline.regularizers.base import Regularizer
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer
from pipeline.train.step import take_step

HEADS, SIDE, CHANNELS = 2, 5, 4
GRID = (SIDE, SIDE)


@pytest.fixture(autouse=True)
def however_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.regularizers.projected_rows.FEWEST_KEYS", 0)
    monkeypatch.setattr("pipeline.regularizers.spatial_entropy.FEWEST_PIXELS", 0)


def noise(dtype: torch.dtype = torch.float64, count: int = 3) -> Tensor:
    draws = torch.Generator().manual_seed(3)
    shape = (count, 1 + SIDE * SIDE, 3 * HEADS * CHANNELS)
    return torch.randn(shape, generator=draws, dtype=torch.float64).to(dtype).requires_grad_()


def asked_for(maps: Tensor) -> Tensor:
    """What is to be projected, (n / 2, 1 + H W, 3 A D), so that these maps (n, H, W) are the rows of a scale of 1/2."""
    images, pixels = len(maps) // HEADS, maps[0].numel()
    parts = torch.randn(images, 1 + pixels, 3, HEADS, CHANNELS, generator=torch.Generator().manual_seed(4))
    parts[:, 0, 0], parts[:, 1:, 1] = 0.0, 0.0
    parts[:, 0, 0, :, 0] = 2.0
    parts[:, 1:, 1, :, 0] = maps.float().reshape(images, HEADS, pixels).transpose(1, 2)
    return parts.flatten(2).requires_grad_()


def reduced(method: SpatialEntropy, projected: Tensor, mean_from: int | None = None) -> tuple[Tensor, Any]:
    found = method.fused_forward(projected, RowSpec(HEADS, mean_from, 1, 0.5), GRID)
    assert found is not None
    return found


def by_definition(
    projected: Tensor, method: SpatialEntropy, mean_from: int | None, *, clear: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """The mean of the entropies of maps that are not empty, and these entropies.

    clear: whether to insist that no pixel is so near its cut that float32, which rounds these rows by some 1e-7, could
    move it across.
    """
    query, key, _ = split_projected(projected, 3, HEADS)
    maps = by_slices(query, key, mean_from, 1).reshape(-1, *GRID)
    constant = (maps == maps[:, :1, :1]).all(-1).all(-1)
    assert not clear or (clear_of_the_cut(maps.detach(), method.threshold, 5e-5) | constant).all()
    entropies = [slow_entropy(single, method.threshold, method.connectivity) for single in maps]
    filled = [entropy for entropy in entropies if entropy is not None]
    return (torch.stack(filled).mean() if filled else projected.sum() * 0), filled


def attended_by(projected: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*split_projected(projected, 3, HEADS)).pow(3).sum()


@pytest.mark.parametrize("mean_from", [None, 1])
@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("threshold", [-0.3, 0.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entropy_of_a_block_and_its_gradient_are_those_of_the_definition(
    mean_from: int | None, connectivity: int, threshold: float, dtype: torch.dtype
) -> None:
    method = SpatialEntropy(weight=0.1, threshold=threshold, connectivity=connectivity)
    projected = noise(dtype)
    passed, layer = reduced(method, projected, mean_from)
    assert torch.equal(passed, projected)
    penalty = method.combine_layers([layer])
    exact = projected.detach().double().requires_grad_()
    expected, filled = by_definition(exact, method, mean_from)
    torch.testing.assert_close(penalty.loss.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(penalty.monitors["value"].double(), expected.detach(), rtol=1e-5, atol=1e-6)
    assert float(penalty.monitors["empty_share"]) == pytest.approx(1 - len(filled) / (len(projected) * HEADS), abs=1e-6)
    assert not any(each.requires_grad for each in penalty.monitors.values())
    # With what leads back from the attention, and from other places alone.
    for whole in (True, False):
        found = 0.7 * penalty.loss + whole * attended_by(passed)
        wanted = 0.7 * expected + whole * attended_by(exact)
        (one,) = torch.autograd.grad(found, projected, retain_graph=True)
        (other,) = torch.autograd.grad(wanted, exact, retain_graph=True)
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_nasty_maps_count_as_they_do_by_definition(threshold: float) -> None:
    maps = torch.stack(list(nasty_maps(SIDE).values()))
    maps = maps[: len(maps) // HEADS * HEADS]
    method = SpatialEntropy(weight=0.1, threshold=threshold)
    projected = asked_for(maps)
    penalty = method.combine_layers([reduced(method, projected)[1]])
    expected, filled = by_definition(projected.detach().double(), method, None, clear=False)
    assert len(filled) < len(maps)
    torch.testing.assert_close(penalty.loss.double(), expected, rtol=1e-5, atol=1e-5)
    assert float(penalty.monitors["empty_share"]) == pytest.approx(1 - len(filled) / len(maps), abs=1e-6)


def test_maps_that_are_all_empty_come_to_nothing() -> None:
    method = SpatialEntropy(weight=0.1)
    projected = asked_for(torch.ones(4, *GRID))
    penalty = method.combine_layers([reduced(method, projected)[1]])
    found = penalty.loss.detach(), penalty.monitors["value"], penalty.monitors["empty_share"]
    assert [float(each) for each in found] == [0, 0, 1]
    (gradient,) = torch.autograd.grad(penalty.loss, projected)
    assert not gradient.any()


def test_layers_add_up_and_their_monitors_are_over_all_maps() -> None:
    method = SpatialEntropy(weight=0.1, layers="all")
    half = torch.stack([torch.ones(GRID), *torch.randn(3, *GRID, generator=torch.Generator().manual_seed(1))])
    blocks = [noise(torch.float32), asked_for(half), asked_for(torch.ones(4, *GRID))]
    penalty = method.combine_layers([reduced(method, each)[1] for each in blocks])
    means = [by_definition(each.detach().double(), method, None) for each in blocks]
    entropies = torch.stack([entropy for _, filled in means for entropy in filled])
    assert len(entropies) == 6 + 3
    torch.testing.assert_close(penalty.loss.double(), sum(mean for mean, _ in means), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(penalty.monitors["value"].double(), entropies.mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("three_threads")
def test_reduced_entropy_is_the_same_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    method = SpatialEntropy(weight=0.1)

    def whole() -> list[Tensor]:
        projected = noise(torch.float32, 13)
        passed, layer = reduced(method, projected)
        (gradient,) = torch.autograd.grad(layer.loss + passed.square().sum(), projected)
        return [layer.loss, torch.from_numpy(layer.means), gradient]

    alone = whole()
    monkeypatch.setattr("pipeline.regularizers.kernels.entropy_numba.FEWEST_VALUES", 1)
    monkeypatch.setattr("pipeline.regularizers.kernels.entropy_numba.FEWEST_PIXELS", 1)
    shared = whole()
    assert all(torch.equal(one, other) for one, other in zip(alone, shared, strict=True))


def test_second_derivative_is_refused_and_that_of_what_passes_is_not() -> None:
    projected = noise()
    passed, layer = reduced(SpatialEntropy(weight=0.1), projected)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(layer.loss + passed.pow(3).sum(), projected, create_graph=True)
    (first,) = torch.autograd.grad(passed.pow(3).sum(), projected, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), projected)
    torch.testing.assert_close(second, 6 * projected.detach())


def test_what_is_no_case_for_it_is_left_to_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    method, reading = SpatialEntropy(weight=0.1), RowSpec(HEADS, None, 1, 0.5)
    projected = noise(torch.float32)
    assert method.fused_forward(projected, reading, (SIDE, SIDE + 1)) is None  # the maps then say what is wrong
    for other in (projected.bfloat16(), projected.transpose(0, 1), projected.to("meta")):
        assert method.fused_forward(other, reading, GRID) is None
    method.total_over_workers = lambda counts: counts  # the mean is then over several workers' maps
    assert method.fused_forward(projected, reading, GRID) is None
    monkeypatch.undo()
    assert SpatialEntropy(weight=0.1).fused_forward(projected, reading, GRID) is None  # too few to import numba for


@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize("query", ["cls", "mean"])
@pytest.mark.parametrize("way", ["whole", "in pieces", "recomputed", "bfloat16"])
def test_step_is_the_one_over_maps(layers: str, query: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(
        CONFIG,
        accumulate=2 if way == "in pieces" else 1,
        precision="bfloat16" if way == "bfloat16" else "float32",
    )
    half = way == "bfloat16"  # which is of float32 networks; all else is the same but for rounding, so in float64
    inputs, labels = next(images(8, kind=ImageBatches if half else DoubleBatches).in_order(8))
    asked: list[bool] = []

    def step(shorter: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
        with monkeypatch.context() as patch:
            own = SpatialEntropy.fused_forward

            def watched(self: SpatialEntropy, *given: Any) -> Any:
                found = own(self, *given)
                asked.append(found is not None)
                return found

            patch.setattr(SpatialEntropy, "fused_forward", watched if shorter else Regularizer.fused_forward)
            torch.manual_seed(0)
            model = network().to(inputs.dtype).train()
            model.set_grad_checkpointing(way == "recomputed")
            sar = {"spatial_entropy": SpatialEntropy(weight=0.5, layers=layers, query=query, schedule="constant")}
            with Objective(model, sar, planned_epochs=2) as objective:
                optimizer = make_optimizer(model, config)
                monitors = take_step(model, objective, optimizer, inputs, labels, epoch=1, config=config)
            return monitors, [each.grad for each in model.parameters() if each.grad is not None]

    (one, one_gradients), (other, other_gradients) = step(True), step(False)
    assert len(asked) == (2 if layers == "all" else 1) * config.accumulate
    assert all(each != half for each in asked)
    assert list(one) == list(other)
    # In half precision both ways are one, and give the same bits.
    within = 0.0 if half else 1e-10
    torch.testing.assert_close(one, other, rtol=within, atol=within)
    for found, expected in zip(one_gradients, other_gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=within, atol=within)


def test_tap_without_gradients_or_not_expected_to_be_asked_has_maps() -> None:
    model, (inputs, _) = network().train(), next(images(8).in_order(8))
    with SimilarityTap(model, "all", reduce=SpatialEntropy(weight=0.1).fused_forward) as tap:
        with torch.no_grad():
            model(inputs)
        assert tap.reduced() is None
        assert tap.maps().shape == (8, 2, 2, 6, 6)
        tap.expected = False
        model(inputs)
        assert tap.reduced() is None
        assert tap.maps().requires_grad
        tap.expected = True
        model(inputs)
        assert [each.loss.requires_grad for each in tap.reduced() or []] == [True, True]
        with pytest.raises(RuntimeError, match="reduced"):
            tap.maps()


def test_network_one_block_of_which_norms_its_queries_keeps_its_maps() -> None:
    model: Any = network().train()
    model.blocks[0].attn.q_norm = nn.LayerNorm(8)
    method = SpatialEntropy(weight=0.1, layers="all", schedule="constant")
    inputs, labels = next(images(8).in_order(8))
    with Objective(model, {"spatial_entropy": method}, planned_epochs=2) as objective:
        loss = objective.step(inputs, labels, 1)
    assert float(loss.monitors["spatial_entropy/value"]) > 0


def test_reentrant_checkpointing_is_refused_as_ever() -> None:
    model: Any = network().train()
    model.set_grad_checkpointing(True)
    set_reentrant_ckpt(True)
    try:
        with (
            SimilarityTap(model, "all", reduce=SpatialEntropy(weight=0.1).fused_forward),
            pytest.raises(RuntimeError, match="use_reentrant=False"),
        ):
            model(next(images(8).in_order(8))[0].requires_grad_())
    finally:
        set_reentrant_ckpt(False)

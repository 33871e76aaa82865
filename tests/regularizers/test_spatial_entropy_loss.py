"""Claims about SAR's loss: which maps it is the mean of, how layers add up, and that the published one is among them."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from support.reference_entropy import clear_of_the_cut, picture
from torch import Tensor

from pipeline.regularizers import spatial_entropy as module
from pipeline.regularizers.base import Features
from pipeline.regularizers.spatial_entropy import SpatialEntropy, spatial_entropy


@pytest.fixture(autouse=True, params=["in one call", "in plain PyTorch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every claim is made of both ways in which a CPU can work the loss out."""
    monkeypatch.setattr(module, "FEWEST_PIXELS", 0 if request.param == "in one call" else 10**12)


def published_loss(maps: Tensor) -> Tensor:
    """The authors' algorithm on the logits of one layer, (B, A, H, W): every head of every image, by its own labels."""
    losses = []
    for image in maps:
        for head in image:
            mean = head.mean()
            above = torch.relu(head - mean)
            labels, count = ndimage.label((head > mean).detach().numpy(), structure=np.ones((3, 3)))
            masks = [torch.from_numpy(labels == component).to(head.dtype) for component in range(1, count + 1)]
            shares = torch.stack([(above * mask).sum() for mask in masks]) / above.sum()
            losses.append(-(shares * shares.log()).sum())
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("size", "scale"), [((14, 14), 1.0), ((6, 6), 0.05), ((8, 11), 40.0)])
def test_threshold_zero_is_the_published_algorithm(
    size: tuple[int, int], scale: float, dtype: torch.dtype, within: float
) -> None:
    drawn = np.random.default_rng(7).normal(size=(5, 1, 3, *size)) * scale
    maps = torch.from_numpy(drawn).to(dtype).requires_grad_()
    exact = maps.detach().double().requires_grad_()
    assert clear_of_the_cut(exact.detach()[:, 0], 0.0, 1e-4 * scale).all()
    published = published_loss(exact[:, 0])
    (slope,) = torch.autograd.grad(published, exact)
    penalty = SpatialEntropy(weight=0.01)(Features(similarity=maps))
    (gradient,) = torch.autograd.grad(penalty.loss, maps)
    assert published.isfinite()
    torch.testing.assert_close(penalty.loss.double(), published, rtol=0, atol=within)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=within)


FOUR_CORNERS = picture("#.#", "...", "#.#")
TWO_CORNERS = picture("#..", "...", "..#")
ONE_DOT = picture("...", ".#.", "...")
EMPTY = torch.zeros(3, 3, dtype=torch.float64)


def penalty_of(*layers: list[list[Tensor]], threshold: float = 0.0) -> tuple[float, dict[str, float]]:
    """Loss and monitors for maps given as layers of images of heads."""
    maps = torch.stack([torch.stack([torch.stack(image) for image in layer]) for layer in layers], dim=1)
    penalty = SpatialEntropy(weight=0.1, layers="all", threshold=threshold, connectivity=8)(Features(similarity=maps))
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
    four = SpatialEntropy(weight=0.1, layers="last", threshold=0.0, connectivity=4)(Features(similarity=corner))
    assert float(four.loss) == pytest.approx(math.log(2))


def test_monitors_are_detached_and_the_loss_is_not() -> None:
    leaf = FOUR_CORNERS[None, None, None].clone().requires_grad_()
    penalty = SpatialEntropy(weight=0.1, layers="last", threshold=0.0, connectivity=8)(Features(similarity=leaf))
    assert penalty.loss.requires_grad
    assert not any(value.requires_grad for value in penalty.monitors.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_of_several_layers_with_empty_maps_is_that_of_the_means(dtype: torch.dtype) -> None:
    drawn = np.random.default_rng(3).normal(size=(4, 3, 2, 5, 7))
    drawn[1, 0, 1] = drawn[2, 0] = drawn[:, 2] = 1.5  # some of the first layer's maps, and all of the third's
    maps = torch.from_numpy(drawn).to(dtype).requires_grad_()
    penalty = SpatialEntropy(weight=0.1, layers="all", threshold=0.3)(Features(similarity=maps))
    entropies = [[[spatial_entropy(head, threshold=0.3) for head in layer] for layer in image] for image in maps]
    counts = [5, 8]
    expected = sum(sum(sum(image[layer]) for image in entropies) / count for layer, count in enumerate(counts))
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(penalty.loss, expected)
    wanted, found = (torch.autograd.grad(3 * loss, maps)[0] for loss in (expected, penalty.loss))
    torch.testing.assert_close(found, wanted)
    assert torch.equal(found[:, 2], torch.zeros_like(found[:, 2]))
    assert float(penalty.monitors["empty_share"]) == pytest.approx(11 / 24)


def test_loss_of_maps_whose_memory_is_in_another_order_is_the_same() -> None:
    drawn = torch.from_numpy(np.random.default_rng(3).normal(size=(2, 4, 3, 6, 5)))
    turned = drawn.transpose(0, 1).transpose(3, 4)
    one, other = (
        SpatialEntropy(weight=0.1, layers="all")(Features(similarity=maps)) for maps in (turned, turned.contiguous())
    )
    assert torch.equal(one.loss, other.loss)


def test_module_asks_for_the_maps_of_its_layers_and_refuses_none() -> None:
    method = SpatialEntropy(weight=0.25, layers=(0, 2), threshold=0.0, connectivity=8)
    assert method.needs.similarity == (0, 2)
    assert method.weight_at(9, 100) == 0.25
    with pytest.raises(ValueError, match="none were collected"):
        method(Features())


def test_defaults_are_the_published_ones_and_it_is_watched_where_it_is_off() -> None:
    method = SpatialEntropy(weight=0.01)
    assert (method.needs.similarity, method.needs.query) == ("last", "cls")
    assert (method.threshold, method.connectivity, method.schedule) == (0.0, 8, "warmup_cosine")
    assert SpatialEntropy(weight=0.0).active
    assert not SpatialEntropy(weight=0.0, watch=False).active

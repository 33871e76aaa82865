"""Claims about mask supervision: the divergence against loops, and what nobody has decided counts for nothing."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.regularizers.base import Features
from pipeline.regularizers.mask_supervision import MaskSupervision, mask_divergence

NAN = math.nan


def drawn(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def masks(images: int, height: int, width: int, *, seed: int = 1, undecided: float = 0.2) -> Tensor:
    """Of object, background, shares between them and undecided pixels; the last image's has no object."""
    rng = np.random.default_rng(seed)
    found = rng.choice([0.0, 1.0, 0.3], p=[0.5, 0.3, 0.2], size=(images, height, width))
    found[rng.random(found.shape) < undecided] = NAN
    found[0, : height // 2] = NAN  # whole patches of which nobody knows anything
    found[-1][found[-1] > 0] = 0.0
    return torch.from_numpy(found).float()


def slow(maps: np.ndarray, objects: np.ndarray, heads: str) -> list[list[float]]:
    """Pixel by pixel and patch by patch: (B, L)."""
    images, layers, count, rows, columns = maps.shape
    height, width = objects.shape[1:]
    answer = []
    for b in range(images):
        inside, decided = np.zeros((rows, columns)), np.zeros((rows, columns))
        for y in range(height):
            for x in range(width):
                patch = math.floor((y + 0.5) * rows / height), math.floor((x + 0.5) * columns / width)
                if not math.isnan(objects[b, y, x]):
                    decided[patch] += 1
                    inside[patch] += float(objects[b, y, x])
        if inside.sum() == 0 or (decided - inside).sum() <= 0:
            answer.append([0.0] * layers)
            continue
        places = [(i, j) for i in range(rows) for j in range(columns) if decided[i, j] > 0]
        by_layer = []
        for layer in range(layers):
            attentions = []
            for head in range(count):
                raised = {place: math.exp(maps[b, layer, head][place]) for place in places}
                attentions.append({place: value / sum(raised.values()) for place, value in raised.items()})
            if heads == "mean":
                attentions = [{place: sum(each[place] for each in attentions) / count for place in places}]
            total = 0.0
            for attention in attentions:
                for place in places:
                    share = inside[place] / inside.sum()
                    if share > 0:
                        total += share * (math.log(share) - math.log(attention[place]))
            by_layer.append(total / len(attentions))
        answer.append(by_layer)
    return answer


@pytest.mark.parametrize("heads", ["each", "mean"])
@pytest.mark.parametrize(("grid", "size"), [((3, 4), (6, 12)), ((3, 3), (7, 10)), ((2, 2), (2, 2)), ((5, 4), (3, 4))])
def test_divergence_is_that_of_the_loops(grid: tuple[int, int], size: tuple[int, int], heads: str) -> None:
    maps, objects = drawn(5, 2, 3, *grid), masks(5, *size)
    found, usable = mask_divergence(maps, objects, heads=heads)
    expected = slow(maps.numpy(), objects.numpy(), heads)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert usable.tolist() == [any(value != 0 for value in each) for each in expected]
    assert 0 < usable.sum() < 5


def test_gradient_of_a_head_is_its_attention_less_the_object() -> None:
    maps, objects = drawn(2, 1, 2, 3, 3).requires_grad_(), torch.zeros(2, 6, 6)
    objects[0, :2, :2], objects[1, 2:, 3:] = 1.0, 1.0
    found, _ = mask_divergence(maps, objects)
    found.sum().backward()  # type: ignore[no-untyped-call, unused-ignore]
    target = torch.nn.functional.avg_pool2d(objects.double(), 2)
    target = target / target.sum((-2, -1), keepdim=True)
    attention = maps.detach().flatten(-2).softmax(-1).unflatten(-1, (3, 3))
    torch.testing.assert_close(maps.grad, (attention - target[:, None, None]) / 2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("heads", ["each", "mean"])
def test_gradient_passes_a_numerical_check(heads: str) -> None:
    objects = masks(3, 6, 6)

    def loss(leaf: Tensor) -> Tensor:
        return mask_divergence(leaf, objects, heads=heads)[0]

    assert torch.autograd.gradcheck(loss, drawn(3, 2, 2, 3, 3).requires_grad_())


@pytest.mark.parametrize("heads", ["each", "mean"])
def test_patches_that_nobody_has_decided_are_not_looked_at(heads: str) -> None:
    maps, objects = drawn(1, 1, 2, 2, 3).requires_grad_(), torch.tensor([[[1.0, NAN, 0.0], [0.5, NAN, 1.0]]])
    found, _ = mask_divergence(maps, objects, heads=heads)
    found.sum().backward()  # type: ignore[no-untyped-call, unused-ignore]
    assert maps.grad is not None
    assert (maps.grad[..., 1] == 0).all()
    assert (maps.grad[..., [0, 2]] != 0).all()
    other = maps.detach().clone()
    other[..., 1] += 1e6
    assert torch.equal(mask_divergence(other, objects, heads=heads)[0], found.detach())


@pytest.mark.parametrize("value", [NAN, 0.0, 1.0])
@pytest.mark.parametrize("heads", ["each", "mean"])
def test_image_without_a_usable_mask_counts_nothing(heads: str, value: float) -> None:
    maps, objects = drawn(2, 2, 2, 3, 3).requires_grad_(), torch.full((2, 6, 6), value)
    objects[0, :3] = 0.0
    objects[0, 3:] = 1.0
    method = MaskSupervision(weight=1.0, heads=heads)
    output = method(Features(similarity=maps, masks=objects))
    output.loss.backward()
    assert maps.grad is not None
    assert (maps.grad[1] == 0).all()
    assert (maps.grad[0] != 0).any()
    alone = method(Features(similarity=maps[:1], masks=objects[:1]))
    assert output.loss.item() == pytest.approx(alone.loss.item() / 2, rel=1e-12)
    assert output.monitors["masked_share"].item() == 0.5
    assert output.monitors["value"].item() == pytest.approx(output.loss.item() / 2, rel=1e-12)  # two layers add up


@pytest.mark.parametrize("heads", ["each", "mean"])
def test_attention_that_is_the_object_is_the_least_and_no_gradient_is_left(heads: str) -> None:
    objects = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    maps = objects.double().log()[:, None, None].expand(3, 1, 2, 4, 4).clone().requires_grad_()
    found, _ = mask_divergence(maps, objects, heads=heads)
    found.sum().backward()  # type: ignore[no-untyped-call, unused-ignore]
    assert found.abs().max() < 1e-12
    assert maps.grad is not None
    assert maps.grad.abs().max() < 1e-12


@pytest.mark.parametrize("heads", ["each", "mean"])
@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_extreme_maps_have_finite_values_and_gradients(heads: str, scale: float) -> None:
    maps = drawn(4, 1, 2, 3, 3, scale=scale).float().requires_grad_()
    found, _ = mask_divergence(maps, masks(4, 6, 6), heads=heads)
    found.sum().backward()  # type: ignore[no-untyped-call, unused-ignore]
    assert found.isfinite().all()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    maps, objects = drawn(3, 1, 2, 3, 3).bfloat16(), masks(3, 6, 6)
    found, _ = mask_divergence(maps, objects)
    assert found.dtype == torch.float32
    assert torch.equal(found, mask_divergence(maps.float(), objects)[0])


def test_unknown_heads_and_missing_masks_are_refused() -> None:
    given: dict[str, Any] = {"heads": "best"}
    with pytest.raises(ValueError, match=r"^heads: unknown choice 'best'; known: each, mean"):
        MaskSupervision(weight=1.0, **given)
    with pytest.raises(ValueError, match="needs similarity maps and masks"):
        MaskSupervision(weight=1.0)(Features(similarity=drawn(1, 1, 1, 2, 2)))

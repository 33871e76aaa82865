"""Claims about head disagreement, against loops over pairs of heads in float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig
from pipeline.regularizers.base import Features
from pipeline.regularizers.head_disagreement import HeadDisagreement, head_agreement


def slow(heads: Tensor) -> Tensor:
    """The mean cosine of one image and block, (A, T, D), pair by pair in both orders, for autograd to differentiate."""
    cosines = []
    for a in range(len(heads)):
        for b in range(len(heads)):
            if a != b:
                one, other = heads[a].reshape(-1), heads[b].reshape(-1)
                cosines.append((one * other).sum() / ((one * one).sum().sqrt() * (other * other).sum().sqrt()))
    return torch.stack(cosines).mean()


def random_heads(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 5, 3), (3, 7, 4), (6, 10, 8)])
def test_value_and_gradient_are_those_of_the_loops(shape: tuple[int, ...]) -> None:
    outputs = random_heads(4, *shape).requires_grad_()
    agreement = head_agreement(outputs)
    (gradient,) = torch.autograd.grad(agreement.sum(), outputs)
    expected = torch.stack([slow(heads) for heads in outputs])
    (slope,) = torch.autograd.grad(expected.sum(), outputs)
    torch.testing.assert_close(agreement, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-12)


def test_gradient_passes_a_numerical_check() -> None:
    assert torch.autograd.gradcheck(head_agreement, random_heads(2, 3, 4, 2).requires_grad_())


def test_heads_that_are_equal_agree_wholly_and_opposite_ones_not_at_all() -> None:
    one = random_heads(5, 3)
    assert head_agreement(torch.stack([one, one, one])).item() == pytest.approx(1.0)
    assert head_agreement(torch.stack([one, -one])).item() == pytest.approx(-1.0)
    assert head_agreement(torch.stack([one, 2.5 * one])).item() == pytest.approx(1.0)  # lengths do not count


def test_all_equal_outputs_have_no_gradient() -> None:
    outputs = torch.full((3, 4, 2), 0.7, dtype=torch.float64, requires_grad=True)
    head_agreement(outputs).backward()  # type: ignore[no-untyped-call, unused-ignore]
    assert outputs.grad is not None
    assert outputs.grad.abs().max() < 1e-12


def test_one_head_has_no_pair() -> None:
    alone = random_heads(2, 1, 5, 3).requires_grad_()
    agreement = head_agreement(alone)
    agreement.sum().backward()
    assert agreement.tolist() == [0.0, 0.0]
    assert alone.grad is not None
    assert alone.grad.abs().max() < 1e-12


def test_head_that_gives_nothing_counts_as_0_without_a_gradient() -> None:
    outputs = random_heads(3, 4, 2)
    outputs[1] = 0.0
    outputs.requires_grad_()
    agreement = head_agreement(outputs)
    agreement.backward()  # type: ignore[no-untyped-call, unused-ignore]
    pair = slow(outputs.detach()[[0, 2]])
    assert agreement.item() == pytest.approx(pair.item() * 2 / 6)  # of six ordered pairs two have two directions
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert outputs.grad[1].abs().max() == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_output_that_is_not_finite_spoils_its_own_image_and_no_other(bad: float) -> None:
    outputs = random_heads(2, 3, 4, 2)
    outputs[1, 0, 0, 0] = bad
    first, second = head_agreement(outputs)
    assert first.item() == pytest.approx(slow(outputs[0]).item())
    assert second.isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    outputs = (100 * random_heads(2, 3, 50, 8)).to(dtype)  # squares add up beyond float16
    agreement = head_agreement(outputs)
    assert agreement.dtype == torch.float32
    assert torch.equal(agreement, head_agreement(outputs.float()))


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (torch.zeros(3, 4), "at least one head"),
        (torch.zeros(2, 0, 3, 4), "at least one head"),
        (torch.zeros(2, 3, 4, dtype=torch.int64), "floating point"),
    ],
)
def test_what_are_no_outputs_of_heads_is_refused(outputs: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        head_agreement(outputs)


def test_loss_is_the_mean_over_images_and_layers_add_up() -> None:
    outputs = random_heads(3, 2, 4, 5, 6)
    by_layer = [torch.stack([slow(image[layer]) for image in outputs]).mean().item() for layer in (0, 1)]
    penalty = HeadDisagreement(weight=1.0, layers="last_two")(Features(heads=outputs))
    assert penalty.loss.item() == pytest.approx(sum(by_layer))
    assert penalty.monitors["value"].item() == pytest.approx(sum(by_layer) / 2)


def test_module_asks_for_the_outputs_of_its_layers_and_refuses_none() -> None:
    method = HeadDisagreement(weight=0.1, layers=(0, 2))
    assert method.needs.heads == (0, 2)
    assert method.needs.similarity is None
    with pytest.raises(ValueError, match="none were collected"):
        method(Features())


def test_network_of_one_head_is_refused() -> None:
    def network(heads: int) -> torch.nn.Module:
        kwargs = {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": heads}
        config = ModelConfig("vit_tiny_patch16_224", kwargs, "xavier", 0.0)
        return build_model(config, num_classes=3, image_size=(8, 8), channels=1)

    HeadDisagreement(weight=0.1).prepare(network(2), inputs_shape=(1, 8, 8))
    with pytest.raises(
        ValueError, match=r"block 1 of VisionTransformer \(2 blocks, 4 x 4 patches\) has 1; give .* at least 2"
    ):
        HeadDisagreement(weight=0.1).prepare(network(1), inputs_shape=(1, 8, 8))

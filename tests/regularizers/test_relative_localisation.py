"""Claims about relative localisation, against loops over images and pairs in float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig
from pipeline.regularizers.base import Features
from pipeline.regularizers.relative_localisation import (
    RelativeLocalisation,
    offset_predictor,
    offsets,
    pooled,
    relative_localisation,
)


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def random_places(images: int, pairs: int, patches: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, patches, size=(2, images, pairs)))


def predictor(channels: int) -> nn.Sequential:
    torch.manual_seed(1)
    return offset_predictor(channels).double()


def guess(weights: nn.Sequential, pair: np.ndarray) -> np.ndarray:
    """The three layers by hand."""
    for index in (0, 2, 4):
        layer = weights[index]
        assert isinstance(layer, nn.Linear)
        pair = layer.weight.detach().numpy() @ pair + layer.bias.detach().numpy()
        pair = np.maximum(pair, 0) if index < 4 else pair
    return pair


def slow(tokens: np.ndarray, places: np.ndarray, weights: nn.Sequential, form: str) -> float:
    images, height, width, _ = tokens.shape
    errors = []
    for image in range(images):
        for first, second in zip(*places[:, image], strict=True):
            (i, j), (p, h) = divmod(int(first), width), divmod(int(second), width)
            wanted = np.array([abs(i - p) / height, abs(j - h) / width])
            if form == "code":
                wanted = np.array([i - p + height - 1, j - h + width - 1])
            guessed = guess(weights, np.concatenate([tokens[image, i, j], tokens[image, p, h]]))
            errors += [abs(guessed[0] - wanted[0]), abs(guessed[1] - wanted[1])]
    return float(np.mean(errors))


@pytest.mark.parametrize(
    ("form", "grid"),
    [("paper", (4, 4)), ("paper", (3, 5)), ("paper", (1, 1)), ("paper", (1, 6)), ("code", (4, 4)), ("code", (1, 1))],
)
def test_value_is_that_of_the_loops(form: str, grid: tuple[int, int]) -> None:
    tokens, places = random_tokens(3, *grid, 5), random_places(3, 20, grid[0] * grid[1])
    weights = predictor(5)
    loss = relative_localisation(tokens, places, weights, form=form)
    assert loss.item() == pytest.approx(slow(tokens.numpy(), places.numpy(), weights, form), rel=1e-12)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_gradient_passes_a_numerical_check_in_tokens_and_weights(form: str) -> None:
    tokens, places = random_tokens(2, 3, 3, 2).requires_grad_(), random_places(2, 4, 9)
    weights = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    parameters = tuple(weights.parameters())
    assert torch.autograd.gradcheck(
        lambda leaf, *_: relative_localisation(leaf, places, weights, form=form), (tokens, *parameters)
    )


def test_gradient_reaches_the_tokens_of_the_pairs_and_no_other() -> None:
    tokens = random_tokens(1, 2, 2, 3).requires_grad_()
    places = torch.tensor([[[0, 0]], [[3, 0]]])
    (gradient,) = torch.autograd.grad(relative_localisation(tokens, places, predictor(3)), tokens)
    touched = gradient.abs().amax(-1)[0] > 0
    assert touched.tolist() == [[True, False], [False, True]]


def test_offsets_of_the_paper_are_distances_in_parts_of_the_sides() -> None:
    places = torch.tensor([[[0, 11, 4]], [[11, 0, 4]]])  # of 3 rows and 4 columns: (0, 0), (2, 3) and (1, 0)
    assert offsets(places, (3, 4)).tolist() == [[[2 / 3, 3 / 4], [2 / 3, 3 / 4], [0, 0]]]


def test_offsets_of_the_code_are_signed_and_shifted() -> None:
    places = torch.tensor([[[0, 8, 4]], [[8, 0, 4]]])
    assert offsets(places, (3, 3), form="code").tolist() == [[[0, 0], [4, 4], [2, 2]]]
    with pytest.raises(ValueError, match="not defined on a 3 x 4 grid"):
        offsets(places, (3, 4), form="code")


@pytest.mark.parametrize("grid", [(14, 14), (8, 3), (7, 7), (16, 9)])
def test_larger_grids_are_averaged_to_seven_a_side(grid: tuple[int, int]) -> None:
    tokens = random_tokens(2, *grid, 3)
    height, width = min(grid[0], 7), min(grid[1], 7)
    expected = np.zeros((2, height, width, 3))
    for y in range(height):
        for x in range(width):
            rows = slice(y * grid[0] // height, -(-(y + 1) * grid[0] // height))
            columns = slice(x * grid[1] // width, -(-(x + 1) * grid[1] // width))
            expected[:, y, x] = tokens[:, rows, columns].numpy().mean(axis=(1, 2))
    np.testing.assert_allclose(pooled(tokens), expected, atol=1e-12)


def network(image: tuple[int, int] = (12, 12)) -> nn.Module:
    kwargs = {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return build_model(ModelConfig("vit_tiny_patch16_224", kwargs, "xavier", 0.0), num_classes=3, image_size=image, channels=1)  # fmt: skip


def prepared(**options: object) -> RelativeLocalisation:
    method = RelativeLocalisation(weight=0.1, **options)  # type: ignore[arg-type, unused-ignore]
    torch.manual_seed(5)
    method.prepare(network(), inputs_shape=(1, 12, 12))
    return method


@pytest.mark.parametrize("form", ["paper", "code"])
def test_module_averages_in_the_papers_form_alone_and_draws_its_pairs_from_the_global_stream(form: str) -> None:
    method = prepared(form=form, pairs=7).double()
    tokens = random_tokens(3, 8, 8, 16)
    torch.manual_seed(3)
    penalty = method(Features(tokens=tokens))
    torch.manual_seed(3)
    side = 7 if form == "paper" else 8
    places = torch.randint(side * side, (2, 3, 7))
    seen = pooled(tokens) if form == "paper" else tokens
    assert isinstance(method.predictor, nn.Sequential)
    expected = slow(seen.numpy(), places.numpy(), method.predictor, form)
    assert penalty.loss.item() == pytest.approx(expected, rel=1e-12)
    assert penalty.monitors["value"] == penalty.loss.detach()
    assert method(Features(tokens=tokens)).loss.item() != penalty.loss.item()  # other pairs


def test_pairs_are_spread_over_the_whole_grid() -> None:
    method = prepared(pairs=2000)
    drawn: list[Tensor] = []
    method.predictor.register_forward_pre_hook(lambda _, inputs: drawn.append(inputs[0]))  # type: ignore[union-attr, unused-ignore]
    tokens = torch.arange(9.0).view(1, 3, 3, 1).expand(1, 3, 3, 16)
    torch.manual_seed(0)
    method(Features(tokens=tokens))
    for end in (drawn[0][0, :, 0], drawn[0][0, :, 16]):
        counts = torch.bincount(end.long(), minlength=9)
        assert counts.min() > 150
        assert counts.max() < 300


def test_predictor_has_the_published_sizes_and_float32() -> None:
    method = prepared()
    shapes = [tuple(weight.shape) for weight in method.parameters()]
    assert shapes == [(512, 32), (512,), (512, 512), (512,), (2, 512), (2,)]
    assert {weight.dtype for weight in method.parameters()} == {torch.float32}
    assert all(weight.requires_grad for weight in method.parameters())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_tokens_that_are_not_finite_spoil_the_loss(bad: float) -> None:
    tokens = torch.full((1, 2, 2, 16), bad)
    assert not prepared()(Features(tokens=tokens)).loss.isfinite()


def test_half_precision_is_computed_in_float32() -> None:
    tokens, places = random_tokens(2, 3, 3, 4).bfloat16(), random_places(2, 5, 9)
    weights = predictor(4).float()
    loss = relative_localisation(tokens, places, weights)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, relative_localisation(tokens.float(), places, weights))


def test_what_the_method_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="form: unknown form 'release'; known: paper, code"):
        RelativeLocalisation(weight=0.1, form="release")
    with pytest.raises(ValueError, match="pairs: given 0"):
        RelativeLocalisation(weight=0.1, pairs=0)
    with pytest.raises(ValueError, match="needs a grid of patch tokens: Linear has no blocks"):
        RelativeLocalisation(weight=0.1).prepare(nn.Linear(2, 2), inputs_shape=())
    wide = network((12, 16))
    RelativeLocalisation(weight=0.1).prepare(wide, inputs_shape=(1, 12, 16))
    with pytest.raises(ValueError, match=r"square grids; .* 6 x 8 patches.* Use form: paper"):
        RelativeLocalisation(weight=0.1, form="code").prepare(wide, inputs_shape=(1, 12, 16))
    with pytest.raises(ValueError, match="none were collected"):
        prepared()(Features())
    with pytest.raises(RuntimeError, match="has not been prepared"):
        RelativeLocalisation(weight=0.1)(Features(tokens=torch.zeros(1, 2, 2, 4)))

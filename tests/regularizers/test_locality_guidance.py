"""Claims about locality guidance: the loss against loops over pixels, and a guide that is only looked through."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from support.small_networks import SMALL, SWIN, network, pictures
from torch import Tensor, nn

from pipeline.models.tap import BlockTap
from pipeline.regularizers.guide_network import GuideConfig, GuideNetwork, stage_grids
from pipeline.regularizers.locality_guidance import LocalityGuidance, locality_guidance
from pipeline.train.objective import Objective

LABELS = torch.tensor([0, 1, 2, 0])


def guide(channels: int = 1, *, depth: int = 8, seed: int = 0) -> GuideNetwork:
    torch.manual_seed(seed)
    made = GuideNetwork(depth, num_classes=3, channels=channels)
    for value in made.buffers():  # statistics that are not fresh ones
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    return made


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def weights_along(small: int, large: int) -> list[list[tuple[int, float]]]:
    """By bilinear interpolation, whose pixels have their centres at a half: which of `small` make each of `large`."""
    found = []
    for place in range(large):
        at = max((place + 0.5) * small / large - 0.5, 0.0)
        low = math.floor(at)
        high = min(low + 1, small - 1)
        found.append([(low, 1 - (at - low)), (high, at - low)])
    return found


def enlarged(grid: np.ndarray, rows: int, columns: int) -> np.ndarray:
    made = np.zeros((rows, columns))
    for y, down in enumerate(weights_along(grid.shape[0], rows)):
        for x, across in enumerate(weights_along(grid.shape[1], columns)):
            made[y, x] = sum(a * b * grid[i, j] for i, a in down for j, b in across)
    return made


def slow(tokens: np.ndarray, maps: list[np.ndarray], projections: list[tuple[np.ndarray, np.ndarray]]) -> float:
    total = 0.0
    for layer, (theirs, (matrix, bias)) in enumerate(zip(maps, projections, strict=True)):
        images, rows, columns, _ = tokens[:, layer].shape
        height, width = max(rows, theirs.shape[2]), max(columns, theirs.shape[3])
        squares = []
        for b in range(images):
            for channel in range(theirs.shape[1]):
                mine = np.zeros((rows, columns))
                for i in range(rows):
                    for j in range(columns):
                        mine[i, j] = float(matrix[channel] @ tokens[b, layer, i, j] + bias[channel])
                difference = enlarged(mine, height, width) - enlarged(theirs[b, channel], height, width)
                squares += [value**2 for value in difference.ravel()]
        total += sum(squares) / len(squares)
    return total


def projections(width: int, channels: list[int]) -> nn.ModuleList:
    torch.manual_seed(3)
    return nn.ModuleList(nn.Conv2d(width, each, 1) for each in channels).double()


def plain(made: nn.ModuleList) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(each.weight.detach()[:, :, 0, 0].numpy(), each.bias.detach().numpy()) for each in made]  # type: ignore[union-attr, operator]


@pytest.mark.parametrize(("grid", "sizes"), [((3, 3), [(6, 6), (3, 3), (2, 2)]), ((4, 2), [(5, 3), (2, 2), (3, 7)])])
def test_value_and_gradients_are_those_of_the_loops(grid: tuple[int, int], sizes: list[tuple[int, int]]) -> None:
    tokens = drawn(2, 3, *grid, 5).requires_grad_()
    maps = [drawn(2, channels, *size, seed=channels).requires_grad_() for channels, size in zip((2, 3, 4), sizes, strict=True)]  # fmt: skip
    made = projections(5, [2, 3, 4])
    found = locality_guidance(tokens, maps, made)
    expected = slow(tokens.detach().numpy(), [each.detach().numpy() for each in maps], plain(made))
    assert found.item() == pytest.approx(expected, rel=1e-10)
    found.backward()  # type: ignore[no-untyped-call, unused-ignore]
    assert all(each.grad is None for each in maps)
    assert tokens.grad is not None
    rng, step = np.random.default_rng(1), 1e-5
    for _ in range(12):  # the gradient of the loops, in some directions
        where = tuple(int(rng.integers(side)) for side in tokens.shape)
        moved = []
        for sign in (1, -1):
            other = tokens.detach().numpy().copy()
            other[where] += sign * step
            moved.append(slow(other, [each.detach().numpy() for each in maps], plain(made)))
        assert tokens.grad[where].item() == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5, abs=1e-9)
    matrix, bias = plain(made)[0]
    for number in range(len(bias)):
        moved = []
        for sign in (1, -1):
            changed = bias.copy()
            changed[number] += sign * step
            others = [(matrix, changed), *plain(made)[1:]]
            moved.append(slow(tokens.detach().numpy(), [each.detach().numpy() for each in maps], others))
        found_bias = made[0].bias.grad[number].item()  # type: ignore[union-attr, index]
        assert found_bias == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5, abs=1e-9)


def test_half_precision_is_computed_in_float32() -> None:
    tokens, maps = drawn(2, 1, 3, 3, 5).bfloat16(), [drawn(2, 4, 6, 6).float()]
    made = projections(5, [4]).float()
    found = locality_guidance(tokens, maps, made)
    assert found.dtype == torch.float32
    assert torch.equal(found, locality_guidance(tokens.float(), maps, made))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_token_that_is_not_finite_spoils_the_loss(bad: float) -> None:
    tokens = drawn(1, 1, 2, 2, 5)
    tokens[0, 0, 0, 0, 0] = bad
    assert not locality_guidance(tokens, [drawn(1, 2, 2, 2)], projections(5, [2])).isfinite()


@pytest.mark.parametrize(("blocks", "taken"), [(None, (0, 2, 3)), ((0, 1, 2), (0, 1, 2)), ((-1, 1, 0), (0, 1, 3))])
def test_loss_compares_the_blocks_with_the_stages_on_the_same_images(blocks: Any, taken: tuple[int, ...]) -> None:
    model, images, theirs = network(kwargs={**SMALL, "depth": 4}).double(), pictures().double(), guide().double().eval()
    method = LocalityGuidance(weight=1.0, blocks=blocks, schedule="constant", guide=guide())
    with Objective(model, {"guided": method}, planned_epochs=1) as objective:
        found = objective.step(images, LABELS, 0)
    with BlockTap(model, taken) as tap, torch.no_grad():
        model(images)
        tokens, maps = tap.tokens(), theirs.maps(images)
    assert method.projections is not None
    expected = slow(tokens.numpy(), [each.numpy() for each in maps], plain(method.projections))
    assert found.monitors["guided/value"].item() == pytest.approx(expected, rel=1e-9)
    found.total.backward()  # type: ignore[no-untyped-call, unused-ignore]
    assert all(each.grad is not None for each in method.projections.parameters())


def test_guide_is_neither_trained_nor_kept_and_its_statistics_stay() -> None:
    made = guide()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    method = LocalityGuidance(weight=1.0, schedule="constant", guide=made)
    with Objective(network(), {"guided": method}, planned_epochs=1) as objective:
        assert {name.split(".")[0] for name in objective.state()["guided"]} == {"projections"}
        assert sum(each.numel() for each in objective.trainable.parameters()) == sum(16 * c + c for c in (16, 32, 64))
        objective.trainable.train()
        objective.step(pictures(), LABELS, 0).total.backward()  # type: ignore[no-untyped-call, unused-ignore]
    after = made.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(each.grad is None and not each.requires_grad for each in made.parameters())
    assert not made.training


def test_first_projections_depend_on_the_seed_alone() -> None:
    def first(seed: int, model: Any) -> dict[str, Tensor]:
        method = LocalityGuidance(weight=1.0, guide=guide(seed=5))
        with Objective(model, {"guided": method}, planned_epochs=1, seed=seed) as objective:
            return objective.state()["guided"]

    one, again, other = first(1, network()), first(1, network(noise=0.5)), first(2, network())
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def refused(model: Any, **options: Any) -> str:
    method = LocalityGuidance(weight=1.0, **{"guide": guide(), **options})
    with pytest.raises(ValueError, match=r"^regularizer\.locality_guidance: ") as error:
        Objective(model, {"locality_guidance": method}, planned_epochs=1)
    return str(error.value)


def test_what_cannot_be_guided_is_refused_with_what_would_do() -> None:
    assert "needs 3 blocks whose tokens are the final grid, and VisionTransformer has 2" in refused(
        network(kwargs={**SMALL, "depth": 2})
    )
    swin = network("swin_tiny_patch4_window7_224", SWIN, image_size=(24, 24))
    assert "needs 3 blocks whose tokens are the final grid, and SwinTransformer has 2" in refused(swin)
    assert "layers names block 0, whose tokens are not the final 3 x 3 grid" in refused(swin, blocks=(0, 1, 2))
    assert "blocks: given [0, 2]; locality guidance needs 3, one for each" in refused(network(), blocks=(0, 2))
    tiny = network(image_size=(4, 4))
    said = "with 4 x 4 pixels the last stage of the guide gives a map of 1 x 1 positions, too few for local features"
    assert said in refused(tiny)
    assert "needs a guide, and there is none" in refused(network(), guide=None)


# The guide.


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(12, 12), (32, 32), (7, 13), (5, 5), (40, 24), (224, 224)])
@pytest.mark.parametrize("depth", [8, 20])
def test_guide_takes_images_of_any_size_and_its_grids_are_as_said(
    depth: int, height: int, width: int, channels: int
) -> None:
    made, images = guide(channels, depth=depth).eval(), torch.randn(2, channels, height, width)
    maps = made.maps(images)
    assert [tuple(each.shape) for each in maps] == [
        (2, wanted, *grid) for wanted, grid in zip((16, 32, 64), stage_grids(height, width), strict=True)
    ]
    assert made(images).shape == (2, 3)
    assert sum(isinstance(each, nn.Conv2d) and each.kernel_size == (3, 3) for each in made.modules()) == depth - 1


def test_guide_of_another_depth_is_refused() -> None:
    for depth in (2, 9, 18):
        with pytest.raises(ValueError, match=rf"^guide_depth: given {depth}; allowed: 8, 14, 20"):
            GuideNetwork(depth, num_classes=2, channels=1)


def test_guides_of_other_data_images_or_settings_have_other_names() -> None:
    config, of = GuideConfig(20, 30, True, 0), {"data_hash": "d", "split_hash": "s", "role": "train"}
    others = [GuideConfig(8, 30, True, 0), GuideConfig(20, 31, True, 0), GuideConfig(20, 30, False, 0), GuideConfig(20, 30, True, 1)]  # fmt: skip
    names = {config.spec(**of), *(each.spec(**of) for each in others)}
    names |= {config.spec(**{**of, key: "another"}) for key in of}
    assert len(names) == 8
    assert config.spec(**of) == GuideConfig(20, 30, True, 0).spec(**of)

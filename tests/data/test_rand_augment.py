"""Claims about the draws of DeiT's recipe: fed with the same draws timm asks for the same, and as often."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from scipy.special import ndtri
from timm.data import auto_augment
from timm.data import transforms as timm_transforms
from timm.data.transforms_factory import transforms_imagenet_train

from pipeline.data.augment.rand_augment import DRAWS, OPERATIONS, ROTATE, draw_operations
from pipeline.data.augment.rng import PIXELS, uniform_draws

SIDES = [(32, 32), (20, 50), (60, 12), (5, 4)]


def timms(sides: tuple[int, int]) -> tuple[Any, Any, Any]:
    """The crop, the mirror and RandAugment as timm makes them for the names that DeiT's code gives it."""
    crop, colour, _ = transforms_imagenet_train(
        sides, color_jitter=0.4, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic", separate=True
    )
    for operation in colour.transforms[0].ops:
        if operation.name == "PosterizeIncreasing":
            operation.magnitude_max = 9.99  # 0 bits, at 10, are refused by Pillow
    return *crop.transforms, colour.transforms[0]


def drawn(count: int, seed: int = 0) -> NDArray[np.float64]:
    return uniform_draws([seed, 1, PIXELS], np.arange(count), DRAWS)


class Driven:
    """Python's random numbers, replaced by given ones: of each attempt at a crop area, ratio, top and left."""

    def __init__(self, attempts: NDArray[np.float64]) -> None:
        self._given = attempts.reshape(-1, 4).tolist()
        self._uniform = (each for attempt in self._given for each in attempt[:2])
        self._attempt = -0.5

    def uniform(self, low: float, high: float) -> float:
        self._attempt += 0.5
        self._place: Iterator[float] = iter(self._given[int(self._attempt)][2:])
        return low + (high - low) * next(self._uniform)

    def randint(self, low: int, high: int) -> int:
        return low + int(next(self._place) * (high - low + 1))


@pytest.mark.parametrize("sides", SIDES)
def test_crop_is_timms_with_the_same_draws(sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    crop, _, _ = timms(sides)
    draws = drawn(2000)
    ours = draw_operations(draws, sides, flip=True).boxes
    picture = Image.new("RGB", sides[::-1])
    theirs = []
    for row in draws:
        monkeypatch.setattr(timm_transforms, "random", Driven(row[:40]))
        theirs.append(crop.get_params(picture, crop.scale, crop.ratio))
    monkeypatch.undo()
    assert np.array_equal(ours, theirs)
    if sides == (60, 12):  # where ten attempts may all fail
        assert (ours == [22, 0, 16, 12]).all(axis=1).any()


@pytest.mark.parametrize("sides", SIDES)
def test_operations_get_from_timm_what_they_get_here_with_the_same_draws(sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    *_, rand_augment = timms(sides)
    assert [each.name for each in rand_augment.ops] == list(OPERATIONS)
    assert rand_augment.num_layers == 2
    draws = drawn(1500)
    ours = draw_operations(draws, sides, flip=True)
    seen = set()
    for row, numbers, values in zip(draws, ours.operations, ours.values, strict=True):
        for layer in range(2):
            which, whether, level, sign = row[41 + 4 * layer : 45 + 4 * layer]
            operation = rand_augment.ops[int(which * 15)]
            asked: list[Any] = []
            numbers_of = iter([whether, sign])
            monkeypatch.setattr(auto_augment.random, "random", lambda numbers_of=numbers_of: next(numbers_of))
            monkeypatch.setattr(auto_augment.random, "gauss", lambda mean, std, level=level: mean + std * ndtri(level))
            monkeypatch.setattr(operation, "aug_fn", lambda image, *values, asked=asked, **_: asked.append(values))
            operation("a picture")
            assert (numbers[layer] == -1) == (not asked)
            if asked:
                assert numbers[layer] == rand_augment.ops.index(operation)
                assert _argument(numbers[layer], values[layer], sides) == pytest.approx(asked[0], abs=1e-9)
                seen.add(int(numbers[layer]))
    assert seen == set(range(15))


def _argument(number: int, values: NDArray[np.float64], sides: tuple[int, int]) -> tuple[float, ...]:
    """What timm would call it: degrees, shear, share of a side, bits, threshold, addend or factor."""
    name = OPERATIONS[number]
    if name in ("AutoContrast", "Equalize", "Invert"):
        return ()
    if number == ROTATE:
        return (float(np.degrees(np.arctan2(-values[1], values[0]))),)
    entry = {"ShearX": values[1], "ShearY": values[3], "TranslateXRel": values[2] / sides[1], "TranslateYRel": values[5] / sides[0]}  # fmt: skip
    return (float(entry.get(name, values[0])),)


def test_operations_and_mirrors_come_as_often_as_timms() -> None:
    ours = draw_operations(drawn(40000), (32, 32), flip=True)
    counts = np.bincount(ours.operations.ravel() + 1, minlength=16)
    assert stats.chisquare(counts, 80000 * np.array([0.5] + [1 / 30] * 15)).pvalue > 1e-3
    both = np.histogram2d(*ours.operations.T, bins=16)[0]
    assert stats.chi2_contingency(both).pvalue > 1e-3
    assert 0.49 < ours.mirrored.mean() < 0.51
    assert not draw_operations(drawn(100), (32, 32), flip=False).mirrored.any()


def test_crops_and_magnitudes_are_distributed_as_timms() -> None:
    crop, _, rand_augment = timms((64, 64))
    ours = draw_operations(drawn(6000), (64, 64), flip=True)
    state = random.getstate()
    random.seed(0)
    theirs = np.array([crop.get_params(Image.new("RGB", (64, 64)), crop.scale, crop.ratio) for _ in range(6000)])
    shears: list[float] = []
    (operation,) = [each for each in rand_augment.ops if each.name == "ShearX"]
    operation.aug_fn = lambda image, value, **_: shears.append(value)
    for _ in range(6000):
        operation("a picture")
    random.setstate(state)
    for column in range(4):
        assert stats.ks_2samp(ours.boxes[:, column], theirs[:, column]).pvalue > 1e-3
    assert stats.ks_2samp(ours.boxes[:, 2:].prod(axis=1), theirs[:, 2:].prod(axis=1)).pvalue > 1e-3
    sheared = ours.values[ours.operations == OPERATIONS.index("ShearX")][:, 1]
    assert stats.ks_2samp(sheared, shears).pvalue > 1e-3


def test_crop_has_a_pixel_even_where_an_eighth_of_the_image_is_less() -> None:
    for sides in ((1, 1), (1, 2), (2, 2), (1, 40)):
        top, left, height, width = draw_operations(drawn(500), sides, flip=True).boxes.T
        assert height.min() == width.min() == 1
        assert (top + height).max() <= sides[0]
        assert (left + width).max() <= sides[1]

"""Claims about differences that are tested fold by fold: the layout within every fold, summed by the folds' weights."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import NDArray

from pipeline.score.comparison import at_confidence, compare_arms, compare_scores, p_value
from pipeline.score.family import compare_classes, compare_family
from pipeline.score.forecast import Forecast, assumed_components
from pipeline.score.sample_size import variance_parts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def slow_parts(best: Floats, control: Floats, folds: Ints, *, paired: bool) -> tuple[float, float, float, float, float]:
    """V_seeds, its degrees of freedom, images, both, and the images' degrees of freedom, by loops over the formulas."""
    count = len(set(folds.tolist()))
    of_seeds, freedom, of_images, both = [], [], 0.0, 0.0
    for table in [best - control] if paired else [best, control]:
        variance = 0.0
        for fold in set(folds.tolist()):
            columns = [i for i in range(table.shape[1]) if folds[i] == fold]
            weight = len(columns) / table.shape[1]
            seeds, size = len(table), len(columns)
            rows = [sum(table[s, i] for i in columns) / size for s in range(seeds)]
            image = {i: sum(table[s, i] for s in range(seeds)) / seeds for i in columns}
            mean = sum(rows) / seeds
            variance += weight**2 * sum((row - mean) ** 2 for row in rows) / (seeds - 1) / seeds
            square = sum((table[s, i] - rows[s] - image[i] + mean) ** 2 for s in range(seeds) for i in columns)
            both += weight**2 * square / ((seeds - 1) * (size - 1)) / (seeds * size)
        of_seeds.append(variance)
        freedom.append(count * (len(table) - 1))
    for fold in set(folds.tolist()):
        columns = [i for i in range(best.shape[1]) if folds[i] == fold]
        gains = [best[:, i].mean() - control[:, i].mean() for i in columns]
        mean = sum(gains) / len(gains)
        weight = len(gains) / best.shape[1]
        of_images += weight**2 * sum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1) / len(gains)
    total = sum(of_seeds)
    spread = sum(part**2 / df for part, df in zip(of_seeds, freedom, strict=True))
    return total, total**2 / spread if spread else 1.0, of_images, both, best.shape[1] - count


def slow_interval(
    best: Floats, control: Floats, folds: Ints, *, paired: bool, confidence: float
) -> tuple[float, float]:
    """The ends of the interval; the wider one of both."""
    seeds, seeds_freedom, images, both, images_freedom = slow_parts(best, control, folds, paired=paired)
    rest = max(0.0, images - both)
    variance = seeds + rest
    quantile = (1 + confidence) / 2
    halves = [scipy.stats.t.ppf(quantile, images_freedom) * math.sqrt(images)]
    if variance > 0:
        freedom = variance**2 / (seeds**2 / seeds_freedom + rest**2 / images_freedom)
        halves.append(scipy.stats.t.ppf(quantile, freedom) * math.sqrt(variance))
    difference = best.mean() - control.mean()
    return difference - max(halves), difference + max(halves)


def random_folds(rng: np.random.Generator, count: int) -> Ints:
    """Folds of 2 to 30 images, in no order."""
    return rng.permutation(np.repeat(np.arange(count) * 7 - 3, rng.integers(2, 31, count)))


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("kind", ["normal", "cauchy", "constant rows", "constant images", "large"])
def test_intervals_are_those_of_the_formulas(paired: bool, kind: str) -> None:
    rng = np.random.default_rng([1, paired, len(kind)])
    for _ in range(25):
        count, seeds = int(rng.integers(1, 8)), int(rng.integers(2, 6))
        folds = random_folds(rng, count)
        shape = (seeds, len(folds))
        draw = rng.standard_cauchy if kind == "cauchy" else rng.standard_normal
        best, control = draw(shape), draw(shape)
        if kind == "constant rows":
            best = np.broadcast_to(rng.standard_normal((seeds, 1)), shape) + 0.0
        elif kind == "constant images":
            best = np.broadcast_to(rng.standard_normal(len(folds)), shape) + control
        elif kind == "large":
            best = best + 1e6
        confidence = float(rng.uniform(0.6, 0.99))
        found = compare_scores(best, control, confidence=confidence, shared_seeds=paired, folds=folds)
        low, high = slow_interval(best, control, folds, paired=paired, confidence=confidence)
        scale = max(1.0, np.abs(best).max(), np.abs(control).max())
        np.testing.assert_allclose((found.low, found.high), (low, high), rtol=1e-7, atol=1e-9 * scale)
        assert found.folds == count
        assert found.images == len(folds)
        again = at_confidence(found, 0.9)
        low, high = slow_interval(best, control, folds, paired=paired, confidence=0.9)
        np.testing.assert_allclose((again.low, again.high), (low, high), rtol=1e-7, atol=1e-9 * scale)


def test_one_fold_is_no_folds() -> None:
    rng = np.random.default_rng(2)
    for shared in (True, False):
        best, control = (rng.random((4, 60)) < share for share in (0.8, 0.7))
        plain = compare_arms(best, control, shared_seeds=shared)
        assert compare_arms(best, control, shared_seeds=shared, folds=np.full(60, 3)) == plain
        assert plain.folds == 1


def test_interval_is_never_narrower_than_that_of_the_images_alone() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        folds = random_folds(rng, int(rng.integers(2, 7)))
        best, control = (rng.random((3, len(folds))) < share for share in (0.6, 0.5))
        found = compare_arms(best, control, folds=folds)
        if found.low is None or found.high is None or found.images_error is None:
            continue
        alone = scipy.stats.t.ppf(0.975, len(folds) - found.folds) * found.images_error
        assert (found.high - found.low) / 2 >= alone * (1 - 1e-12)


def test_seeds_that_are_other_networks_in_every_fold_give_more_degrees_of_freedom_than_as_many_rows() -> None:
    rng = np.random.default_rng(4)
    folds = np.repeat(np.arange(5), 40)
    by_fold = rng.normal(size=(3, 5))[:, folds]
    best, control = by_fold + 0.01 * rng.normal(size=(3, 200)), np.zeros((3, 200))
    crossed, found = compare_scores(best, control), compare_scores(best, control, folds=folds)
    assert crossed.degrees_of_freedom is not None
    assert found.degrees_of_freedom is not None
    assert crossed.degrees_of_freedom < 4
    assert 8 < found.degrees_of_freedom <= 10.01


def test_difference_between_folds_is_no_variance_of_the_images() -> None:
    rng = np.random.default_rng(5)
    folds = np.repeat(np.arange(4), 50)
    noise = rng.normal(size=(3, 200))
    even, uneven = noise, noise + 10.0 * folds
    same = compare_scores(even, np.zeros((3, 200)), folds=folds)
    apart = compare_scores(uneven, np.zeros((3, 200)), folds=folds)
    assert same.images_error == pytest.approx(apart.images_error, rel=1e-9)
    assert same.standard_error == pytest.approx(apart.standard_error, rel=1e-9)


def test_few_discordant_images_of_all_folds_get_half_an_image_each_way_once() -> None:
    folds = np.repeat(np.arange(5), 20)
    best = np.ones((3, 100))
    control = best.copy()
    control[:, [3, 50]] = 0
    found = compare_arms(best, control, folds=folds)
    assert found.images_error == pytest.approx(math.sqrt((2 + 1 - 4 / 102) / 102**2), rel=1e-12)


def test_folds_that_do_not_fit_or_tell_no_variance_are_refused() -> None:
    table = np.random.default_rng(0).random((2, 10))
    with pytest.raises(ValueError, match=r"folds must have the shape \(10,\)"):
        compare_scores(table, table, folds=np.zeros(9))
    with pytest.raises(ValueError, match="a fold with a single image"):
        compare_scores(table, table, folds=[0] * 9 + [1])


def test_one_seed_gives_no_interval_with_folds_either() -> None:
    table = np.random.default_rng(0).random((1, 10))
    found = compare_scores(table, table + 1, folds=np.arange(10) % 2)
    assert found.low is None
    assert p_value(found) is None
    assert found.folds == 2


@pytest.mark.parametrize("shared", [True, False])
def test_parts_of_the_variance_add_up_to_it(shared: bool) -> None:
    rng = np.random.default_rng(6)
    folds = random_folds(rng, 4)
    best, control = ((rng.random((3, len(folds))) < share).astype(np.float64) for share in (0.7, 0.5))
    parts = variance_parts(best, control, shared_seeds=shared, folds=folds)
    found = compare_arms(best, control, shared_seeds=shared, folds=folds)
    assert parts is not None
    assert found.standard_error is not None
    assert sum(parts.seeds) + sum(parts.both) + parts.images == pytest.approx(found.standard_error**2, rel=1e-9)
    assert parts.folds == 4
    assert found.detectable_difference == pytest.approx(parts.detectable(1, 1, 0.95), rel=0.02)
    assert dataclasses.replace(parts, folds=1).detectable(1, 1, 0.95) > parts.detectable(1, 1, 0.95)


def test_family_takes_the_folds_of_each_pair_and_classes_those_of_their_images() -> None:
    rng = np.random.default_rng(7)
    folds, labels = np.arange(90) % 3, np.repeat(np.arange(3), 30)
    labels[:2] = 3  # a class of two images, each alone in its fold
    best, control = (rng.random((3, 90)) < share for share in (0.7, 0.5))
    members = compare_classes(best, control, labels, 4, folds=folds)
    assert members[3] is None
    for label in range(3):
        chosen, member = labels == label, members[label]
        assert member is not None
        alone = compare_arms(best[:, chosen], control[:, chosen], confidence=1 - 0.05 / 3, folds=folds[chosen])
        assert member.comparison == alone
    (one,) = compare_family({"a": (best, control)}, folds={"a": folds})
    assert one.comparison == compare_arms(best, control, folds=folds)


def test_forecast_of_folds_counts_a_seed_as_one_of_every_fold() -> None:
    """By the formula: 2 (var_cs / K + var_csi / M) / R + 2 var_ci / M."""
    parts = assumed_components("a test")
    between = parts.config_seed - parts.residual / parts.images
    found = Forecast(parts, 2000, folds=5).standard_error(3)
    assert found**2 == pytest.approx(2 * (between / 5 + parts.residual / 2000) / 3 + 2 * parts.config_image / 2000)
    assert Forecast(parts, 2000, folds=1) == Forecast(parts, 2000)
    assert Forecast(parts, 2000, folds=5).half_width(3) < Forecast(parts, 2000).half_width(3)
    assert math.isinf(Forecast(parts, 9, folds=5).half_width(3))

"""Claims about comparing two arms: the interval covers, uses what seeds share, and says what it cannot know."""

import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import NDArray
from pydantic import TypeAdapter

from pipeline.score.comparison import (
    Comparison,
    at_confidence,
    compare_arms,
    compare_scores,
    directed_p,
    p_value,
)

Floats = NDArray[np.float64]


def simulated_arms(
    rng: np.random.Generator, *, seeds: int, images: int, accuracy: float, gain: float, seed_sd: float
) -> tuple[Floats, Floats]:
    """Two arms whose true accuracies are `accuracy` + `gain` and `accuracy`.

    Every image has a difficulty, most of it shared by the arms; every seed has an accuracy of its own, scattered by
    `seed_sd`; whether a seed is right on an image is a coin toss given both.
    """
    shared = rng.normal(size=images)
    arms = []
    for mean in (accuracy + gain, accuracy):
        difficulty = shared + 0.5 * rng.normal(size=images)
        of_seed = np.clip(mean + seed_sd * rng.normal(size=(seeds, 1)), 1e-4, 1 - 1e-4)
        ability = scipy.stats.norm.ppf(of_seed) * math.sqrt(1 + 0.25 + 1)
        arms.append((difficulty + rng.normal(size=(seeds, images)) < ability).astype(np.float64))
    return arms[0], arms[1]


def covered_share(
    repetitions: int, *, seeds: int, seed_sd: float, accuracy: float, seed: int, shared: bool = False
) -> float:
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(repetitions):
        arms = simulated_arms(rng, seeds=seeds, images=360, accuracy=accuracy, gain=0.01, seed_sd=seed_sd)
        result = compare_arms(*arms, shared_seeds=shared)
        assert result.low is not None
        assert result.high is not None
        hits += result.low <= 0.01 <= result.high
    return hits / repetitions


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize("seed_sd", [0.005, 0.01])
def test_interval_covers_the_true_difference_as_often_as_it_says(seeds: int, seed_sd: float, shared: bool) -> None:
    # Pairing seeds that have nothing in common costs degrees of freedom and no coverage.
    share = covered_share(600, seeds=seeds, seed_sd=seed_sd, accuracy=0.9, seed=1, shared=shared)
    # Nominal 0.95; 600 repetitions scatter by 0.009, and 3 seeds err on the wide side.
    assert 0.93 <= share <= (0.99 if seeds == 3 else 0.98)


def slow_uncertainty(best: Floats, control: Floats, *, paired: bool) -> tuple[float, float, float]:
    """Variance over seeds and images, its degrees of freedom, variance of the images alone: loops over the formulas."""
    images = best.shape[1]
    tables = [best - control] if paired else [best, control]
    of_seeds, counted_twice = [], 0.0
    for arm in tables:
        count = len(arm)
        rows = [sum(arm[s, i] for i in range(images)) / images for s in range(count)]
        columns = [sum(arm[s, i] for s in range(count)) / count for i in range(images)]
        mean = sum(rows) / count
        of_seeds.append((sum((row - mean) ** 2 for row in rows) / (count - 1) / count, count - 1))
        square = sum((arm[s, i] - rows[s] - columns[i] + mean) ** 2 for s in range(count) for i in range(images))
        counted_twice += square / ((count - 1) * (images - 1)) / (count * images)
    gains = [best[:, i].mean() - control[:, i].mean() for i in range(images)]
    alone = sum((gain - sum(gains) / images) ** 2 for gain in gains) / (images - 1) / images
    binary = set(np.unique(best)) | set(np.unique(control)) <= {0.0, 1.0}
    if binary and sum(abs(gain) > 1e-9 for gain in gains) < 10:
        total = sum(gains)
        added = (sum(gain**2 for gain in gains) + 1 - total**2 / (images + 2)) / (images + 2) ** 2
        alone = max(alone, added)
    parts = [*of_seeds, (max(0.0, alone - counted_twice), images - 1)]
    variance = sum(part for part, _ in parts)
    return variance, variance**2 / sum(part**2 / freedom for part, freedom in parts), alone


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("kind", ["right and wrong", "few discordant", "real", "one column", "far from 0"])
def test_errors_are_those_of_the_formulas_written_as_loops(kind: str, paired: bool) -> None:
    rng = np.random.default_rng(11)
    for seeds, images in ((2, 2), (2, 7), (3, 40), (5, 60)):
        shape = seeds, images
        best, control = (rng.random(shape) < 0.7).astype(float), (rng.random(shape) < 0.6).astype(float)
        if kind == "few discordant":
            best, control = (rng.random(shape) < 0.97).astype(float), np.ones(shape)
        if kind in ("real", "far from 0"):
            best, control = rng.exponential(size=shape), rng.normal(size=shape)
        if kind == "one column":
            best, control = rng.normal(size=(seeds, 1)) * np.ones(shape), np.zeros(shape)
        if kind == "far from 0":
            best, control = best + 1e4, control + 1e4
        found = compare_scores(best, control, shared_seeds=paired)
        variance, freedom, alone = slow_uncertainty(best, control, paired=paired)
        if max(variance, alone) < 1e-18:
            assert found.low is found.standard_error is None
            continue
        assert found.layout == ("paired" if paired else "independent")
        assert found.images_error == pytest.approx(math.sqrt(alone), rel=1e-7, abs=1e-9)
        half = scipy.stats.t.ppf(0.975, images - 1) * math.sqrt(alone)
        if variance > 0:
            assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-7)
            assert found.degrees_of_freedom == pytest.approx(freedom, rel=1e-6)
            half = max(half, scipy.stats.t.ppf(0.975, freedom) * math.sqrt(variance))
        assert found.low == pytest.approx(found.difference - half, rel=1e-6)
        assert found.high == pytest.approx(found.difference + half, rel=1e-6)


def test_what_seeds_do_to_both_arms_alike_widens_the_paired_interval_by_nothing() -> None:
    rng = np.random.default_rng(12)
    best, control = rng.normal(size=(2, 5, 300))
    effect = 3.0 * rng.normal(size=(5, 1))
    plain, moved = compare_scores(best, control), compare_scores(best + effect, control + effect)
    assert moved.low == pytest.approx(plain.low)
    assert moved.high == pytest.approx(plain.high)
    apart = compare_scores(best + effect, control + effect, shared_seeds=False)
    assert apart.low is not None
    assert moved.low is not None
    assert apart.low < moved.low - 1


def test_arms_of_unequal_seeds_are_independent_whatever_is_asked() -> None:
    rng = np.random.default_rng(13)
    best, control = rng.random((4, 50)) < 0.8, rng.random((3, 50)) < 0.8
    assert compare_arms(best, control).layout == "independent"
    assert compare_arms(best, control) == compare_arms(best, control, shared_seeds=False)
    assert compare_arms(best[:3], control).layout == "paired"


def test_few_discordant_images_get_half_an_image_each_way() -> None:
    # Agresti and Min's variance for b and c discordant of n, where every seed answers alike.
    n, b, c = 120, 3, 2
    best, control = np.ones((4, n)), np.ones((4, n))
    best[:, :b], control[:, b : b + c] = 0, 0
    found = compare_arms(best, control)
    expected = ((b + c + 1) - (c - b) ** 2 / (n + 2)) / (n + 2) ** 2
    assert found.images_error == pytest.approx(math.sqrt(expected))
    none = compare_arms(np.ones((3, n)), np.ones((3, n)))
    half = scipy.stats.t.ppf(0.975, n - 1) / (n + 2)
    assert [none.low, none.high] == pytest.approx([-half, half])
    # Ten of them are enough, and scores that are no right and wrong have no image to add.
    ten = np.where(np.arange(n) < 10, 0.0, 1.0) * np.ones((4, 1))
    plain = compare_arms(np.ones((4, n)), ten)
    assert plain.images_error == pytest.approx(scipy.stats.sem(1 - ten[0]))
    scores = compare_scores(np.ones((3, n)), np.full((3, n), 0.5))
    assert scores.low is None


def test_p_and_interval_agree_at_every_level() -> None:
    rng = np.random.default_rng(14)
    for gain in (0.0, 0.02, 0.05):
        found = compare_arms(*simulated_arms(rng, seeds=3, images=150, accuracy=0.8, gain=gain, seed_sd=0.01))
        p, above = p_value(found), directed_p(found, -0.03)
        assert p is not None
        assert above is not None
        for level in np.linspace(0.5, 0.999, 60):
            at = at_confidence(found, float(level))
            assert at.low is not None
            assert at.high is not None
            assert (at.low > 0 or at.high < 0) == (p < 1 - level)
            assert (at.low > -0.03) == (above < 1 - level)
        assert at_confidence(at_confidence(found, 0.6), 0.95) == found
    assert directed_p(found, 0.9) == 1.0
    assert directed_p(compare_arms(np.ones((1, 4)), np.ones((1, 4))), -0.1) is None
    with pytest.raises(ValueError, match="confidence"):
        at_confidence(found, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize("seed_sd", [0.002, 0.005, 0.01, 0.02])
@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.97])
def test_interval_covers_at_many_noise_levels(seeds: int, seed_sd: float, accuracy: float) -> None:
    share = covered_share(2000, seeds=seeds, seed_sd=seed_sd, accuracy=accuracy, seed=2, shared=True)
    assert 0.935 <= share <= (0.99 if seeds == 3 else 0.98)


def test_a_gain_of_the_detectable_size_is_found_four_times_out_of_five() -> None:
    rng = np.random.default_rng(3)
    noise = [
        compare_arms(*simulated_arms(rng, seeds=5, images=360, accuracy=0.9, gain=0.0, seed_sd=0.005))
        for _ in range(200)
    ]
    gain = float(np.median([result.detectable_difference or np.nan for result in noise]))
    found = 0
    for _ in range(400):
        arms = simulated_arms(rng, seeds=5, images=360, accuracy=0.9, gain=gain, seed_sd=0.005)
        found += (compare_arms(*arms).low or 0.0) > 0
    assert 0.7 <= found / 400 <= 0.9


def test_standard_error_matches_a_two_way_bootstrap_with_its_losses_made_good() -> None:
    # The restatement: resample seeds alone, images alone, and both; undo the (S - 1)/S that resampling loses.
    rng = np.random.default_rng(4)
    seeds, images, draws = 4, 300, 6000
    best, control = simulated_arms(rng, seeds=seeds, images=images, accuracy=0.85, gain=0.02, seed_sd=0.03)
    of_seeds = np.var(
        [
            best[rng.integers(seeds, size=seeds)].mean() - control[rng.integers(seeds, size=seeds)].mean()
            for _ in range(draws)
        ]
    )
    chosen = rng.integers(images, size=(draws, images))
    of_images = np.var((best.mean(axis=0) - control.mean(axis=0))[chosen].mean(axis=1))
    counted_twice = 0.0
    for arm in (best, control):
        left = arm - arm.mean(axis=1, keepdims=True) - arm.mean(axis=0, keepdims=True) + arm.mean()
        counted_twice += (left**2).sum() / ((seeds - 1) * (images - 1)) / (seeds * images)
    expected = math.sqrt(of_seeds * seeds / (seeds - 1) + of_images - counted_twice)
    assert compare_arms(best, control, shared_seeds=False).standard_error == pytest.approx(expected, rel=0.05)


def test_degrees_of_freedom_are_few_when_seeds_make_the_noise_and_many_when_images_do() -> None:
    few = compare_arms(*wide_seeds(seeds=4)).degrees_of_freedom
    assert few is not None
    assert 3 <= few <= 8
    rng = np.random.default_rng(6)
    one, other = rng.random(400) < 0.8, rng.random(400) < 0.8
    many = compare_arms(np.tile(one, (4, 1)), np.tile(other, (4, 1)))
    assert many.degrees_of_freedom == pytest.approx(399)
    # Identical seeds leave the images alone: the textbook interval of a mean.
    gain = one.astype(float) - other
    low, high = scipy.stats.t.interval(0.95, 399, gain.mean(), scipy.stats.sem(gain))
    assert [many.low, many.high] == pytest.approx([low, high])
    assert many.note is not None
    assert "check that they are different networks" in many.note


def wide_seeds(*, seeds: int) -> tuple[Floats, Floats]:
    """Arms whose noise is nearly all between seeds: each seed is right on its own share of the images."""
    rng = np.random.default_rng(5)
    shares = rng.uniform(0.2, 0.8, size=(2, seeds, 1))
    tables = (np.arange(1000) / 1000 < shares).astype(float)
    return tables[0], tables[1]


def test_interval_is_never_narrower_than_that_of_the_images_alone() -> None:
    # Both seeds of each arm err equally often, on different images: by luck the seeds show no noise at all.
    best, control = np.ones((2, 100)), np.ones((2, 100))
    best[0, :5] = best[1, 5:10] = control[0, 10:20] = control[1, 20:30] = 0
    result = compare_arms(best, control)
    gain = best.mean(axis=0) - control.mean(axis=0)
    low, high = scipy.stats.t.interval(0.95, 99, gain.mean(), scipy.stats.sem(gain))
    assert [result.low, result.high] == pytest.approx([low, high])


def test_summary_numbers_are_those_of_the_tables() -> None:
    best = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], dtype=bool)
    control = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=bool)
    result = compare_arms(best, control, confidence=0.9)
    assert result.best_mean == pytest.approx(0.875)
    assert result.control_mean == pytest.approx(0.5)
    assert result.difference == pytest.approx(0.375)
    assert result.best_sd == pytest.approx(math.sqrt(2 * 0.125**2))
    assert result.control_sd == pytest.approx(0.25)
    assert result.seeds == (2, 3)
    assert result.images == 4
    assert result.confidence == 0.9
    assert result.low is not None
    assert result.high is not None
    assert result.low + result.high == pytest.approx(2 * 0.375)


def test_higher_confidence_gives_a_wider_interval() -> None:
    arms = simulated_arms(np.random.default_rng(7), seeds=5, images=200, accuracy=0.8, gain=0.0, seed_sd=0.01)
    narrow, wide = compare_arms(*arms, confidence=0.8), compare_arms(*arms, confidence=0.99)
    assert wide.low is not None
    assert narrow.low is not None
    assert wide.low < narrow.low


def test_comparison_survives_being_written_to_json() -> None:
    arms = simulated_arms(np.random.default_rng(10), seeds=3, images=50, accuracy=0.8, gain=0.0, seed_sd=0.01)
    for result in (compare_arms(*arms), compare_arms(arms[0][:1], arms[1])):
        assert TypeAdapter(Comparison).validate_json(json.dumps(dataclasses.asdict(result))) == result


def test_many_images_leave_the_paired_t_over_seeds() -> None:
    # Every image answers alike, so that nothing but seeds makes noise.
    rng = np.random.default_rng(8)
    best, control = (rng.normal(size=(6, 1)) * np.ones((6, 50)) for _ in range(2))
    result = compare_scores(best, control)
    expected = scipy.stats.ttest_rel(best[:, 0], control[:, 0])
    interval = expected.confidence_interval(0.95)
    assert p_value(result) == pytest.approx(expected.pvalue)
    assert [result.low, result.high] == pytest.approx([interval.low, interval.high])


@pytest.mark.parametrize("seeds", [(1, 3), (3, 1), (1, 1)])
def test_one_seed_gives_no_interval_and_says_so(seeds: tuple[int, int]) -> None:
    rng = np.random.default_rng(9)
    result = compare_arms(rng.random((seeds[0], 50)) < 0.8, rng.random((seeds[1], 50)) < 0.7)
    assert result.low is result.high is result.detectable_difference is result.standard_error is None
    assert result.note is not None
    assert "one seed" in result.note


def test_scores_without_any_variation_give_no_interval() -> None:
    result = compare_scores(np.full((3, 20), 0.3), np.full((3, 20), 0.2))
    assert result.low is p_value(result) is None
    assert result.note is not None
    assert "no interval can be given" in result.note


def test_networks_that_are_the_same_are_named() -> None:
    rng = np.random.default_rng(15)
    table, other = rng.random((2, 3, 80)) < 0.8
    for best, control, words in (
        (np.tile(table[0], (3, 1)), other, "all seeds of the best arm score the same"),
        (table, np.tile(other[0], (3, 1)), "all seeds of the control arm score the same"),
        (table, table, "both arms score the same on every image with every seed"),
    ):
        note = compare_arms(best, control).note
        assert note is not None
        assert words in note
    # All right on all images: different networks can be.
    assert compare_arms(np.ones((3, 80)), np.ones((3, 80))).note is None


@pytest.mark.parametrize(
    ("best", "control", "message"),
    [
        (np.ones((3, 10)), np.ones((3, 11)), "same images"),
        (np.ones(10), np.ones((3, 10)), r"best must have shape \(seeds, images\)"),
        (np.ones((3, 10)), np.ones((0, 10)), "control must have shape"),
        (np.ones((3, 1)), np.ones((3, 1)), "at least 1 by 2"),
        (np.full((3, 10), 97.0), np.ones((3, 10)), r"0 \(wrong\) to 1 \(right\)"),
        (np.full((3, 10), np.nan), np.ones((3, 10)), r"0 \(wrong\) to 1 \(right\)"),
    ],
)
def test_unusable_tables_are_refused(best: Floats, control: Floats, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_arms(best, control)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_outside_its_range_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        compare_arms(np.ones((2, 2)), np.ones((2, 2)), confidence=confidence)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="control must hold finite numbers only"):
        compare_scores(np.zeros((2, 3)), np.array([[0.0, 1.0, value], [0.0, 1.0, 2.0]]))

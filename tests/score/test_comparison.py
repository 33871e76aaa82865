"""Claims about comparing two arms: the interval covers, says what it cannot know, and the sentence is honest."""

import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import NDArray

from pipeline.score.comparison import Comparison, compare_arms, comparison_from, verdict

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


def covered_share(repetitions: int, *, seeds: int, seed_sd: float, accuracy: float, seed: int) -> float:
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(repetitions):
        arms = simulated_arms(rng, seeds=seeds, images=360, accuracy=accuracy, gain=0.01, seed_sd=seed_sd)
        result = compare_arms(*arms)
        assert result.low is not None
        assert result.high is not None
        hits += result.low <= 0.01 <= result.high
    return hits / repetitions


@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize("seed_sd", [0.005, 0.01])
def test_interval_covers_the_true_difference_as_often_as_it_says(seeds: int, seed_sd: float) -> None:
    share = covered_share(600, seeds=seeds, seed_sd=seed_sd, accuracy=0.9, seed=1)
    # Nominal 0.95; 600 repetitions scatter by 0.009, and 3 seeds err on the wide side.
    assert 0.93 <= share <= (0.985 if seeds == 3 else 0.975)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize("seed_sd", [0.002, 0.005, 0.01, 0.02])
@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.97])
def test_interval_covers_at_many_noise_levels(seeds: int, seed_sd: float, accuracy: float) -> None:
    share = covered_share(2000, seeds=seeds, seed_sd=seed_sd, accuracy=accuracy, seed=2)
    assert 0.935 <= share <= (0.985 if seeds == 3 else 0.975)


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
    assert compare_arms(best, control).standard_error == pytest.approx(expected, rel=0.05)


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
    assert result.paired_t_p is None
    assert result.paired_t_low is None
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
        assert comparison_from(json.loads(json.dumps(dataclasses.asdict(result)))) == result


def test_paired_t_matches_scipy() -> None:
    best, control = simulated_arms(np.random.default_rng(8), seeds=6, images=200, accuracy=0.8, gain=0.03, seed_sd=0.02)
    result = compare_arms(best, control)
    expected = scipy.stats.ttest_rel(best.mean(axis=1), control.mean(axis=1))
    interval = expected.confidence_interval(0.95)
    assert result.paired_t_p == pytest.approx(expected.pvalue)
    assert [result.paired_t_low, result.paired_t_high] == pytest.approx([interval.low, interval.high])


@pytest.mark.parametrize("seeds", [(1, 3), (3, 1), (1, 1)])
def test_one_seed_gives_no_interval_and_says_so(seeds: tuple[int, int]) -> None:
    rng = np.random.default_rng(9)
    result = compare_arms(rng.random((seeds[0], 50)) < 0.8, rng.random((seeds[1], 50)) < 0.7)
    assert result.low is result.high is result.detectable_difference is result.standard_error is None
    assert result.note is not None
    assert "one seed" in result.note
    assert "one seed" in verdict(result)
    assert "interval" in verdict(result)


def test_arms_without_any_variation_give_no_interval() -> None:
    result = compare_arms(np.ones((3, 20)), np.ones((3, 20)))
    assert result.low is None
    assert result.paired_t_p is None
    assert "no interval can be given" in verdict(result)


@pytest.mark.parametrize(
    ("best", "control", "message"),
    [
        (np.ones((3, 10)), np.ones((3, 11)), "same images"),
        (np.ones(10), np.ones((3, 10)), r"best_correct must have shape \(seeds, images\)"),
        (np.ones((3, 10)), np.ones((0, 10)), "control_correct must have shape"),
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


def compared(difference: float, low: float, high: float, *, seeds: tuple[int, int] = (5, 5)) -> Comparison:
    return Comparison(
        difference=difference, low=low, high=high, confidence=0.95, best_mean=0.97, best_sd=0.005,
        control_mean=0.97 - difference, control_sd=0.005, seeds=seeds, images=360, standard_error=0.005,
        degrees_of_freedom=8.0, detectable_difference=0.0174, paired_t_p=0.5, paired_t_low=low, paired_t_high=high,
        note=None,
    )  # fmt: skip


def test_verdict_names_the_direction_the_interval_and_the_basis() -> None:
    assert verdict(compared(0.012, 0.003, 0.021)) == (
        "SAR raised test accuracy by 1.2 points (95 % interval +0.3 to +2.1 points; 5 seeds each, on 360 test images)."
    )
    assert verdict(compared(-0.012, -0.021, -0.003, seeds=(5, 3)), what="GTA") == (
        "GTA lowered test accuracy by 1.2 points "
        "(95 % interval -2.1 to -0.3 points; 5 seeds against 3, on 360 test images)."
    )


def test_verdict_calls_arms_equal_only_inside_the_margin() -> None:
    assert verdict(compared(0.001, -0.006, 0.008)).startswith("No difference shown: SAR changed test accuracy by +0.1")
    assert verdict(compared(0.001, -0.006, 0.008), margin=0.005).startswith("Not enough data to tell")
    for low, high in ((-0.012, 0.008), (-0.008, 0.012)):
        sentence = verdict(compared(0.0, low, high))
        assert sentence.startswith("Not enough data to tell whether SAR changes test accuracy")
        assert "a true difference of 1.7 points would be found four times out of five" in sentence


def test_verdict_keeps_an_end_close_to_zero_readable() -> None:
    assert "interval +0.02 to +1.90 points" in verdict(compared(0.0096, 0.0002, 0.019))
    assert "-0.00" not in verdict(compared(-0.00001, -0.006, 0.006))


def test_verdict_refuses_a_margin_that_is_not_positive() -> None:
    with pytest.raises(ValueError, match="margin"):
        verdict(compared(0.0, -0.01, 0.01), margin=0.0)


def test_verdict_names_what_it_is_against() -> None:
    for low, high in ((0.001, 0.02), (-0.002, 0.003), (-0.05, 0.06)):
        sentence = verdict(compared(0.01, low, high), against="a tuned control")
        assert "test images; against a tuned control)" in sentence

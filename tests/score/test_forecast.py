"""Claims about the forecast: components against sums over single images, figures against experiments drawn one by one."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipeline.score.comparison import FEW_DISCORDANT, compare_arms
from pipeline.score.forecast import (
    ASSUMED_CONFIG_SEED,
    ASSUMED_DISCORDANCE,
    ASSUMED_RECURRENCE,
    FLAT,
    LEAST_GAIN,
    LIMITED,
    PLANNED_LEVEL,
    REACHED,
    UNAFFORDABLE,
    UNTESTABLE,
    Components,
    Forecast,
    assumed_components,
    choose_seeds,
    estimate_components,
)

Cube = NDArray[np.bool_]

FOUND = Components(
    config_seed=5e-5,
    residual=0.008,
    config_image=0.002,
    residual_error=0.001,
    image_error=0.0008,
    images=287,
    configurations=5,
    seeds=2,
)


def tables(cube: Cube) -> dict[str, Cube]:
    return {f"t{number}": table for number, table in enumerate(cube)}


def drawn(rng: np.random.Generator, *shape: int, right: float = 0.8) -> Cube:
    """Networks that have something in common by configuration, seed and image."""
    count, seeds, images = shape
    ease = rng.normal(stats.norm.ppf(right) * 1.5, 1, (1, 1, images)) + rng.normal(0, 0.4, (1, seeds, 1))
    ease = ease + rng.normal(0, 0.3, (count, 1, images)) + rng.normal(0, 0.1, (count, seeds, 1))
    return np.asarray(ease + rng.normal(0, 1, shape) > 0)


def slow(cube: Cube) -> tuple[float, float, float]:
    """MS_cs, var_csi and var_ci, image by image, with every mean written out."""
    y = cube.tolist()
    count, seeds, images = cube.shape
    every = list(itertools.product(range(count), range(seeds), range(images)))

    def mean(c: int | None = None, s: int | None = None, i: int | None = None) -> float:
        chosen = [y[a][b][d] for a, b, d in every if c in (None, a) and s in (None, b) and i in (None, d)]
        return math.fsum(chosen) / len(chosen)

    whole = mean()
    of_c, of_s = [mean(c=c) for c in range(count)], [mean(s=s) for s in range(seeds)]
    of_i = [mean(i=i) for i in range(images)]
    of_cs = [[mean(c=c, s=s) for s in range(seeds)] for c in range(count)]
    of_ci = [[mean(c=c, i=i) for i in range(images)] for c in range(count)]
    of_si = [[mean(s=s, i=i) for i in range(images)] for s in range(seeds)]
    freedom = (count - 1) * (seeds - 1)
    config_seed = (
        sum((of_cs[c][s] - of_c[c] - of_s[s] + whole) ** 2 for c in range(count) for s in range(seeds)) / freedom
    )
    config_image = (
        seeds
        * sum((of_ci[c][i] - of_c[c] - of_i[i] + whole) ** 2 for c in range(count) for i in range(images))
        / ((count - 1) * (images - 1))
    )
    residual = sum(
        (y[c][s][i] - of_cs[c][s] - of_ci[c][i] - of_si[s][i] + of_c[c] + of_s[s] + of_i[i] - whole) ** 2
        for c, s, i in every
    ) / (freedom * (images - 1))
    return config_seed, residual, max(0.0, (config_image - residual) / seeds)


@pytest.mark.parametrize("shape", [(5, 2, 7), (3, 3, 12), (2, 5, 9), (6, 4, 3), (5, 2, 2)])
def test_components_are_those_of_sums_over_single_images(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(shape)
    measured = 0
    for right in (0.5, 0.8, 0.95):
        cube = drawn(rng, *shape, right=right)
        found = estimate_components(tables(cube))
        if found.assumed is None:
            measured += 1
            assert (found.config_seed, found.residual, found.config_image) == pytest.approx(slow(cube), abs=1e-14)
            assert (found.configurations, found.seeds, found.images) == shape
            assert found.degrees_of_freedom == (shape[0] - 1) * (shape[1] - 1)
    assert measured


def test_what_a_seed_or_an_image_does_to_all_configurations_is_in_no_component() -> None:
    rng = np.random.default_rng(3)
    cube = drawn(rng, 5, 3, 40).astype(np.float64)
    other = cube + rng.normal(0, 1, (1, 3, 40)) + rng.normal(0, 1, (5, 1, 1))
    found, same = (estimate_components(dict(enumerate(each))) for each in (cube, other))  # type: ignore[arg-type]
    for name in ("config_seed", "residual", "config_image", "residual_error", "image_error"):
        assert getattr(same, name) == pytest.approx(getattr(found, name), abs=1e-12)


def test_components_of_many_tables_are_those_of_the_model() -> None:
    """Of effects that are drawn as normal values, with known variances, on the scale of shares."""
    rng = np.random.default_rng(0)
    count, seeds, images = 60, 40, 400
    cube = 0.5 + rng.normal(0, 0.05, (1, seeds, 1)) + rng.normal(0, 0.3, (1, 1, images))
    cube = cube + rng.normal(0, 0.02, (count, seeds, 1)) + rng.normal(0, 0.1, (count, 1, images))
    cube = cube + rng.normal(0, 0.2, (count, seeds, images)) + rng.normal(0, 0.1, (1, seeds, images))
    found = estimate_components({str(number): table for number, table in enumerate(cube)})
    assert found.config_seed == pytest.approx(0.02**2 + 0.2**2 / images, rel=0.1)
    assert found.residual == pytest.approx(0.2**2, rel=0.02)
    assert found.config_image == pytest.approx(0.1**2, rel=0.05)


@pytest.mark.parametrize(
    ("cube", "why"),
    [
        (np.ones((1, 2, 9), bool), "1 configuration with 2 further seeds give 0 degrees of freedom, fewer than 4"),
        (np.ones((5, 1, 9), bool), "5 configurations with 1 further seed give 0 degrees of freedom, fewer than 4"),
        (np.ones((4, 2, 9), bool), "4 configurations with 2 further seeds give 3 degrees of freedom, fewer than 4"),
        (
            np.ones((5, 2, 1), bool),
            "5 configurations with 2 further seeds on 1 validation image give nothing to measure",
        ),
        (np.ones((5, 2, 9), bool), "are right on the same of 9 validation images, whatever configuration"),
        (np.zeros((5, 2, 9), bool), "are right on the same of 9 validation images, whatever configuration"),
    ],
)
def test_what_measures_nothing_gives_the_assumptions_and_says_why(cube: Cube, why: str) -> None:
    found = estimate_components(tables(cube))
    assert why in (found.assumed or "")
    assert replace(found, assumed="", configurations=0, seeds=0) == assumed_components("")
    forecast = Forecast(found, 359)
    assert forecast.power(5, 0.01).low is None
    assert 0 < forecast.power(5, 0.01).value < 1


def test_identical_networks_of_a_seed_are_no_certainty() -> None:
    one = drawn(np.random.default_rng(1), 1, 3, 50)
    found = estimate_components(tables(np.repeat(one, 6, axis=0)))
    assert "the networks of each seed are right on the same" in (found.assumed or "")


def test_no_tables_and_tables_of_several_shapes() -> None:
    assert estimate_components({}).assumed == "no configuration has been confirmed yet"
    with pytest.raises(ValueError, match="one shape"):
        estimate_components({"a": np.ones((2, 9)), "b": np.ones((2, 8))})
    with pytest.raises(ValueError, match="one shape"):
        estimate_components({"a": np.ones(9)})


def test_assumptions_are_the_stated_constants() -> None:
    found = assumed_components("why")
    assert 2 * (found.residual + found.config_image) == pytest.approx(ASSUMED_DISCORDANCE)
    assert found.config_seed - found.residual / found.images == pytest.approx(ASSUMED_CONFIG_SEED**2)


def verdicts(forecast: Forecast, seeds: int, rng: np.random.Generator, repetitions: int) -> list[tuple[float, float]]:
    """Difference and half-width of experiments that are drawn, and compared, one by one."""
    parts, images = forecast.components, forecast.test_images
    between = max(0.0, parts.config_seed - parts.residual / parts.images)
    found = []
    for _ in range(repetitions):
        d = rng.normal(0, math.sqrt(2 * between), (seeds, 1)) + rng.normal(
            0, math.sqrt(2 * parts.config_image), (1, images)
        )
        d = d + rng.normal(0, math.sqrt(2 * parts.residual), (seeds, images))
        of_seeds = d.mean(axis=1).var(ddof=1) / seeds
        alone = d.mean(axis=0).var(ddof=1) / images
        left = d - d.mean(axis=1, keepdims=True) - d.mean(axis=0) + d.mean()
        both = np.square(left).sum() / ((seeds - 1) * (images - 1)) / (seeds * images)
        of_images = max(0.0, alone - both)
        total = of_seeds + of_images
        freedom = total**2 / (of_seeds**2 / (seeds - 1) + of_images**2 / (images - 1))
        half = stats.t.ppf(0.975, freedom) * math.sqrt(total)
        found.append((float(d.mean()), max(half, stats.t.ppf(0.975, images - 1) * math.sqrt(alone))))
    return found


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_half_width_and_power_are_those_of_experiments(seeds: int) -> None:
    forecast, margin = Forecast(FOUND, 300), 0.012
    found = verdicts(forecast, seeds, np.random.default_rng(seeds), 1500)
    halves = [half for _, half in found]
    error = float(np.std(halves)) / math.sqrt(len(halves))
    assert forecast.expected_half_width(seeds).value == pytest.approx(np.mean(halves), abs=4 * error)
    assert forecast.standard_error(seeds) == pytest.approx(np.std([mean for mean, _ in found]), rel=0.08)
    shown = np.mean([mean - half > -margin for mean, half in found])
    assert forecast.power(seeds, margin).value == pytest.approx(shown, abs=4 * math.sqrt(0.25 / len(found)))


def test_ranges_hold_the_value_and_grow_with_fewer_degrees_of_freedom() -> None:
    spans = []
    for configurations in (5, 9, 41):
        forecast = Forecast(replace(FOUND, configurations=configurations), 359)
        for seeds in (2, 3, 5, 20):
            for found in (forecast.expected_half_width(seeds), forecast.power(seeds, 0.01)):
                assert found.low is not None
                assert found.high is not None
                assert found.low <= found.value <= found.high
        half = forecast.expected_half_width(5)
        assert half.low is not None
        assert half.high is not None
        spans.append(half.high - half.low)
    assert spans[0] > spans[1] > spans[2] > 0


def test_range_of_the_seeds_part_is_the_chi_square_interval() -> None:
    """Where images have no part in it."""
    parts = replace(FOUND, residual=1e-9, config_image=0.0, residual_error=0.0, image_error=0.0)
    half = Forecast(parts, 10_000).expected_half_width(5)
    assert half.low is not None
    assert half.high is not None
    for end, chance in ((half.low, 0.9), (half.high, 0.1)):
        assert (end / half.value) ** 2 == pytest.approx(4 / stats.chi2.ppf(chance, 4), rel=1e-3)


def test_power_grows_with_seeds_images_and_margin() -> None:
    powers = [Forecast(FOUND, 359).power(seeds, 0.01).value for seeds in range(2, 30)]
    assert powers == sorted(powers)
    powers = [Forecast(FOUND, images).power(6, 0.01).value for images in (50, 100, 359, 2000, 10_000)]
    assert powers == sorted(powers)
    powers = [Forecast(FOUND, 359).power(6, margin).value for margin in (0.001, 0.01, 0.02, 0.5)]
    assert powers == sorted(powers)
    assert powers[-1] == pytest.approx(1.0)


def test_higher_confidence_takes_power() -> None:
    assert Forecast(FOUND, 359, 0.975).power(8, 0.01).value < Forecast(FOUND, 359, 0.95).power(8, 0.01).value


def test_floor_is_what_very_many_seeds_leave() -> None:
    forecast = Forecast(FOUND, 359)
    assert forecast.floor == pytest.approx(stats.t.ppf(0.975, 358) * math.sqrt(2 * 0.002 / 359))
    assert forecast.half_width(100_000) == pytest.approx(forecast.floor, rel=1e-3)
    needed = forecast.images_needed(0.01)
    assert needed == math.ceil(2 * 0.002 * ((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / 0.01) ** 2)


def test_images_needed_by_so_many_seeds_have_the_power_and_fewer_have_not() -> None:
    forecast = Forecast(FOUND, 359)
    needed = forecast.images_needed(0.01, 8)
    assert needed is not None
    assert replace(forecast, test_images=needed).power(8, 0.01).value >= 0.8
    assert replace(forecast, test_images=int(0.99 * needed)).power(8, 0.01).value < 0.8
    assert forecast.images_needed(0.01, 2) is None  # two seeds vary too much on any number of images
    assert Forecast(replace(FOUND, config_image=0.0), 359).images_needed(0.01) == 2


def differing(rng: np.random.Generator, parts: Components, seeds: int, images: int) -> NDArray[np.float64]:
    """D of right and wrong, (S, N): an image's chance that the arms differ on it with a seed is its own, and so is the
    chance that it is the best arm that is right.
    """
    assert parts.recurrence is not None
    once, spread = 2 * (parts.residual + parts.config_image), 1 / parts.recurrence - 1
    chance = rng.beta(once * spread, (1 - once) * spread, images)
    # The mean of D on an image has the variance 2 var_ci.
    squares = once * (once + parts.recurrence * (1 - once))
    tilt = math.sqrt(2 * parts.config_image / squares) * rng.choice((-1.0, 1.0), images)
    sign = np.where(rng.random((seeds, images)) < (1 + tilt) / 2, 1.0, -1.0)
    return np.asarray(sign * (rng.random((seeds, images)) < chance))


@pytest.mark.parametrize(("images", "seeds"), [(17, 20), (60, 3), (60, 8), (60, 10), (60, 20), (150, 5), (150, 20)])
def test_forecast_is_that_of_networks_which_few_images_tell_apart(images: int, seeds: int) -> None:
    """Against the verdict's own comparison, with images on which disagreements recur."""
    parts = replace(FOUND, config_seed=0.0, residual=0.0092, config_image=0.0008, recurrence=0.2)
    forecast, margin, rng = Forecast(parts, images), 0.02, np.random.default_rng(images + seeds)
    halves, shown, few = [], [], []
    for _ in range(500):
        difference = differing(rng, parts, seeds, images)
        best, control = difference > 0, difference < 0
        compared = compare_arms(best, control)
        few.append(np.count_nonzero(difference.any(axis=0)) < FEW_DISCORDANT)
        if compared.low is not None and compared.high is not None:
            halves.append((compared.high - compared.low) / 2)
            shown.append(compared.low > -margin)
    assert forecast.chance_of_few(seeds) == pytest.approx(np.mean(few), abs=0.07)
    assert forecast.half_width(seeds) == pytest.approx(np.mean(halves), rel=0.12)
    assert forecast.power(seeds, margin).value == pytest.approx(np.mean(shown), abs=0.1)


def test_chance_of_few_is_a_sum_over_counts_of_images() -> None:
    """For right and wrong; other scores get no half image, and under ten images are always few."""
    parts = replace(FOUND, residual=0.0045, config_image=0.0005, recurrence=0.3)  # differ on one image in a hundred
    before = 0.0
    for seeds in (20, 5, 2, 1):
        shape = (0.01 * 0.7 / 0.3, 0.99 * 0.7 / 0.3)
        reached = 1 - stats.betabinom.pmf(0, seeds, *shape)
        expected = sum(math.comb(359, k) * reached**k * (1 - reached) ** (359 - k) for k in range(10))
        assert Forecast(parts, 359).chance_of_few(seeds) == pytest.approx(expected)
        assert expected > before
        before = expected
    assert Forecast(replace(parts, binary=False), 359).chance_of_few(5) == 0.0
    assert Forecast(parts, 9).chance_of_few(100) == 1.0
    unmeasured = Forecast(replace(parts, recurrence=None), 359).chance_of_few(5)
    assert unmeasured == Forecast(replace(parts, recurrence=ASSUMED_RECURRENCE), 359).chance_of_few(5)
    for recurrence, reached in ((0.0, 1 - 0.99**20), (1.0, 0.01)):
        found = Forecast(replace(parts, recurrence=recurrence), 359).chance_of_few(20)
        assert found == pytest.approx(stats.binom.cdf(9, 359, reached), abs=1e-6)


def test_recurrence_is_the_correlation_of_two_seeds_over_pairs_and_images() -> None:
    rng = np.random.default_rng(5)
    cube = drawn(rng, 4, 3, 60)
    once, twice = [], []
    for one, other in itertools.combinations(range(4), 2):
        for image in range(60):
            differ = [bool(cube[one, seed, image] != cube[other, seed, image]) for seed in range(3)]
            once += differ
            twice += [first and second for first, second in itertools.combinations(differ, 2)]
    share = np.mean(once)
    expected = (np.mean(twice) - share**2) / (share * (1 - share))
    assert estimate_components(tables(cube)).recurrence == pytest.approx(expected)
    halves = {name: table / 2 for name, table in tables(cube).items()}
    assert estimate_components(halves).recurrence is None


@pytest.mark.parametrize(("seeds", "images"), [(1, 359), (0, 359), (5, 1), (5, 0)])
def test_without_two_seeds_and_two_images_there_is_neither_interval_nor_power(seeds: int, images: int) -> None:
    forecast = Forecast(FOUND, images)
    assert math.isinf(forecast.expected_half_width(seeds).value)
    assert forecast.power(seeds, 0.01).value == 0.0
    assert not forecast.reaches(seeds, 0.01)
    assert math.isinf(forecast.floor) == (images < 2)


@pytest.mark.parametrize("images", [200, 359, 2000, 10_000])
@pytest.mark.parametrize("margin", [0.005, 0.01, 0.02])
@pytest.mark.parametrize(("most", "paid"), [(20, None), (4, None), (20, 5), (20, 0), (3, 7), (2, None)])
def test_seeds_are_the_least_that_will_do_within_every_limit(
    images: int, margin: float, most: int, paid: int | None
) -> None:
    forecast = Forecast(FOUND, images)
    found = choose_seeds(forecast, margin, max_seeds=most, affordable=paid)

    def enough(seeds: int) -> bool:
        by_seed, by_image = forecast._variance_parts(seeds, PLANNED_LEVEL)
        freedom = (by_seed + by_image) ** 2 / (by_seed**2 / (seeds - 1) + by_image**2 / (images - 1))
        both = stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom)
        return bool(both * math.sqrt(by_seed + by_image) <= margin)

    expected = None
    for seeds in range(2, most + 1):
        if enough(seeds):
            expected = (seeds, REACHED)
        elif forecast.half_width(seeds + 1, PLANNED_LEVEL) > (1 - LEAST_GAIN) * forecast.half_width(
            seeds, PLANNED_LEVEL
        ):
            expected = (seeds, FLAT)
        elif paid is not None and paid < most and seeds >= paid:
            expected = (seeds, UNAFFORDABLE)
        elif seeds == most:
            expected = (seeds, LIMITED)
        if expected:
            break
    assert (found.seeds, found.reason) == expected


def test_every_reason_to_take_no_more_seeds_occurs() -> None:
    forecast = Forecast(FOUND, 359)
    assert choose_seeds(forecast, 0.05, max_seeds=20).reason == REACHED
    assert choose_seeds(forecast, 0.001, max_seeds=20).reason == FLAT
    assert choose_seeds(forecast, 0.001, max_seeds=3).reason == LIMITED
    assert choose_seeds(forecast, 0.001, max_seeds=20, affordable=4) == choose_seeds(
        forecast, 0.001, max_seeds=9, affordable=4
    )
    assert choose_seeds(forecast, 0.001, max_seeds=20, affordable=4).reason == UNAFFORDABLE
    assert choose_seeds(Forecast(FOUND, 1), 0.05, max_seeds=20).reason == UNTESTABLE


def test_seeds_are_never_fewer_than_an_interval_takes() -> None:
    for paid in (0, 1):
        assert choose_seeds(Forecast(FOUND, 359), 0.001, max_seeds=20, affordable=paid).seeds == 2

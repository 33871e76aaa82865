"""Claims about priors: their densities against scipy's and sums of their own, and draws as the exact inverse of these."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from pipeline.tune.space import SearchSpace
from pipeline.tune.study.prior import DEFAULT_SD, MIN_LOG_DENSITY, Prior, sobol_point

LINEAR = {"type": "float", "low": 0.1, "high": 0.7}
LOG = {"type": "float", "low": 0.001, "high": 1.0, "log": True}
STEPPED = {"type": "float", "low": 0.0, "high": 0.5, "step": 0.1}
WHOLE = {"type": "int", "low": 16, "high": 64, "step": 16}
WHOLE_LOG = {"type": "int", "low": 2, "high": 40, "log": True}
FROM_ONE = {"type": "int", "low": 1, "high": 9, "step": 4}
"""Half a step below its lowest value is -1, which has no logarithm."""
CHOICES = {"type": "categorical", "choices": ["last", [0, 1], "all", None]}

Value = Callable[[float], float]


def made(*dimensions: Mapping[str, Any]) -> SearchSpace:
    return SearchSpace("space.yaml", {f"train.d{place}": each for place, each in enumerate(dimensions)}, {"base": {}})


def prior_of(dimension: Mapping[str, Any], **given: Any) -> Prior:
    return Prior(made({**dimension, "prior": given}))


def log_densities(prior: Prior, shares: Any) -> Any:
    return prior.log_density(np.array(shares, dtype=float).reshape(-1, 1))


def draws(prior: Prior, levels: Any) -> Any:
    return prior.quantile(np.array(levels, dtype=float).reshape(-1, 1))[:, 0]


def truncated(distribution: Any, low: float, high: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Density and cumulative distribution, by value, of one of scipy's within a range."""
    below, total = distribution.cdf(low), distribution.cdf(high) - distribution.cdf(low)
    return lambda value: distribution.pdf(value) / total, lambda value: (distribution.cdf(value) - below) / total


def lognorm(median: float, factor: float) -> Any:
    return stats.lognorm(math.log(factor), scale=median)


CONTINUOUS = [
    (LINEAR, {"center": 0.3, "spread": 0.05}, stats.norm(0.3, 0.05)),
    (LINEAR, {"center": 0.7}, stats.norm(0.7, DEFAULT_SD * 0.6)),
    (LINEAR, {"normal": [0.1, 0.2]}, stats.norm(0.1, 0.2)),
    (LINEAR, {"lognormal": [0.2, 1.5]}, lognorm(0.2, 1.5)),
    (LINEAR, {"beta": [2, 5.5]}, stats.beta(2, 5.5, 0.1, 0.6)),
    (LOG, {"center": 0.01, "spread": 2}, lognorm(0.01, 2)),
    (LOG, {"center": 1.0}, lognorm(1.0, 1000**DEFAULT_SD)),
    (LOG, {"lognormal": [0.03, 3.0]}, lognorm(0.03, 3.0)),
    (LOG, {"normal": [0.2, 0.1]}, stats.norm(0.2, 0.1)),
]


@pytest.mark.parametrize(("dimension", "given", "expected"), CONTINUOUS)
def test_density_and_draws_are_those_of_scipys_distribution_within_the_range(
    dimension: dict[str, Any], given: dict[str, Any], expected: Any
) -> None:
    prior, space = prior_of(dimension, **given), made(dimension)
    density, cumulative = truncated(expected, dimension["low"], dimension["high"])
    shares = np.linspace(0.0, 0.999999, 201)
    values = np.array([space.value_at([share])["train.d0"] for share in shares])
    width = dimension["high"] - dimension["low"]
    slope = values * math.log(dimension["high"] / dimension["low"]) if dimension.get("log") else width
    np.testing.assert_allclose(np.exp(log_densities(prior, shares)), density(values) * slope, rtol=1e-9, atol=1e-200)
    levels = np.linspace(0.001, 0.999, 101)
    drawn = [space.value_at([share])["train.d0"] for share in draws(prior, levels)]
    np.testing.assert_allclose(cumulative(np.array(drawn)), levels, rtol=1e-9)


def test_beta_on_a_log_scale_is_over_the_logarithm_of_the_range() -> None:
    prior, shares = prior_of(LOG, beta=[3, 2]), np.linspace(0, 0.999, 50)
    np.testing.assert_allclose(np.exp(log_densities(prior, shares)), stats.beta(3, 2).pdf(shares), atol=1e-200)
    np.testing.assert_allclose(stats.beta(3, 2).cdf(draws(prior, shares)), shares, atol=1e-12)


IN_STEPS = [
    (STEPPED, {"center": 0.1, "spread": 0.15}, stats.norm(0.1, 0.15), lambda k: -0.05 + 0.1 * k, 6),
    (STEPPED, {"beta": [1, 3]}, stats.beta(1, 3, -0.05, 0.6), lambda k: -0.05 + 0.1 * k, 6),
    (WHOLE, {"center": 48}, stats.norm(48, DEFAULT_SD * 64), lambda k: 8 + 16 * k, 4),
    (WHOLE, {"lognormal": [20, 2]}, lognorm(20, 2), lambda k: 8 + 16 * k, 4),
    (FROM_ONE, {"lognormal": [1, 3]}, lognorm(1, 3), lambda k: max(-1 + 4 * k, 0.5), 3),
    (WHOLE_LOG, {"center": 7, "spread": 1.5}, lognorm(7.5, 1.5), lambda k: 2 + k, 39),
    (WHOLE_LOG, {"normal": [10, 4]}, stats.norm(10.5, 4), lambda k: 2 + k, 39),
]


@pytest.mark.parametrize(("dimension", "given", "expected", "edge", "count"), IN_STEPS)
def test_step_has_the_mass_of_the_part_of_the_range_that_it_stands_for(
    dimension: dict[str, Any], given: dict[str, Any], expected: Any, edge: Value, count: int
) -> None:
    prior, space = prior_of(dimension, **given), made(dimension)
    _, cumulative = truncated(expected, edge(0), edge(count))
    masses = [cumulative(edge(place + 1)) - cumulative(edge(place)) for place in range(count)]
    values = [dimension["low"] + place * dimension.get("step", 1) for place in range(count)]
    middles = [space.shares({"train.d0": value})[0] for value in values]
    first, last = space.distributions()["train.d0"].low, space.distributions()["train.d0"].high
    widths = [1 / count] * count
    if dimension.get("log"):
        widths = [math.log((value + 1) / value) / math.log((last + 1) / first) for value in values]
    found = np.exp(log_densities(prior, middles)) * widths
    np.testing.assert_allclose(found, masses, rtol=1e-9, atol=1e-15)
    assert found.sum() == pytest.approx(1)
    # Draws: the steps begin where the cumulative distribution says.
    ends = np.cumsum(masses)
    for place in range(count):
        if masses[place] > 1e-6:
            levels = np.array([ends[place] - masses[place] * 0.999, ends[place] - masses[place] * 0.001])
            drawn = [space.value_at([share])["train.d0"] for share in draws(prior, levels)]
            assert drawn == [pytest.approx(values[place])] * 2


@pytest.mark.parametrize(
    ("given", "probabilities"),
    [
        ({"center": [0, 1], "weight": 0.7}, [0.1, 0.7, 0.1, 0.1]),
        ({"center": None}, [0.125, 0.125, 0.125, 0.625]),
        ({"probabilities": {"all": 0.5, "[0, 1]": 0.2}}, [0.15, 0.2, 0.5, 0.15]),
        ({"probabilities": {"last": 0.1, "[0, 1]": 0.2, "all": 0.3, None: 0.4}}, [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_choice_has_the_probability_that_is_given_or_its_share_of_the_rest(
    given: dict[str, Any], probabilities: list[float]
) -> None:
    prior, space = prior_of(CHOICES, **given), made(CHOICES)
    found = np.exp(log_densities(prior, [0.0, 0.4, 0.6, 0.999])) / 4
    np.testing.assert_allclose(found, probabilities, rtol=1e-12)
    labels, ends = space.distributions()["train.d0"].choices, np.cumsum(probabilities)
    for place, label in enumerate(labels):
        around = [ends[place] - probabilities[place] + 1e-9, ends[place] - 1e-9]
        assert [space.value_at([share])["train.d0"] for share in draws(prior, around)] == [label, label]
    # Within a choice draws are even, so that the inverse is one of the density over the whole unit interval.
    assert draws(prior, [ends[1] - probabilities[1] / 4])[0] == pytest.approx((1 + 3 / 4) / 4)


NASTY = [
    (LINEAR, {"center": 0.1, "spread": 1e-300}),
    (LINEAR, {"center": 0.7, "spread": 600.0}),
    (LINEAR, {"normal": [0.4, 1e300]}),
    (LINEAR, {"beta": [1000, 1]}),
    (LOG, {"center": 0.001, "spread": 1 + 1e-15}),
    (LOG, {"center": 1.0, "spread": 1e300}),
    (LOG, {"normal": [0.001, 1e-9]}),
    (LOG, {"lognormal": [1.0, 1.0001]}),
    ({"type": "float", "low": 1e-300, "high": 1e300, "log": True}, {"center": 1.0, "spread": 10}),
    ({"type": "float", "low": 1e308, "high": 1.7e308}, {"lognormal": [1.2e308, 1.01]}),
    (STEPPED, {"center": 0.5, "spread": 1e-12}),
    (STEPPED, {"beta": [1, 1000]}),
    ({"type": "float", "low": 0.0, "high": 1.0, "step": 1.0}, {"center": 1.0}),
    ({"type": "int", "low": 1, "high": 2}, {"center": 1, "spread": 0.001}),
    ({"type": "int", "low": 1, "high": 1_000_000, "log": True}, {"center": 1, "spread": 1.1}),
    ({"type": "int", "low": 0, "high": 1_000_000}, {"normal": [1e6, 1e9]}),
    (WHOLE_LOG, {"normal": [2, 1e-6]}),
    (CHOICES, {"center": "all", "weight": 1 - 1e-12}),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("dimension", "given"), NASTY)
def test_density_is_finite_and_draws_are_values_at_nasty_ends(dimension: dict[str, Any], given: dict[str, Any]) -> None:
    prior, space = prior_of(dimension, **given), made(dimension)
    shares = [0.0, 1e-300, 1e-9, 0.25, 0.5, 0.75, 1 - 1e-9, math.nextafter(1.0, 0.0)]
    found = log_densities(prior, shares)
    assert np.isfinite(found).all()
    assert found.min() >= MIN_LOG_DENSITY
    drawn = draws(prior, shares)
    assert (np.diff(drawn) >= 0).all()
    assert all(space.values_outside(space.decode(space.value_at([share]))) == [] for share in drawn)
    assert space.values_outside(space.decode(prior.centers)) == []


@pytest.mark.parametrize(
    ("dimension", "given"),
    [(each, given) for each, given in NASTY if each.get("step") or (each["type"] == "int" and each["high"] < 100)]
    + [(each, given) for each, given, _ in CONTINUOUS],
)
def test_density_integrates_to_one(dimension: dict[str, Any], given: dict[str, Any]) -> None:
    prior, steps = prior_of(dimension, **given), made(dimension).steps()["train.d0"]
    if steps and not dimension.get("log"):
        total = np.exp(log_densities(prior, (np.arange(steps) + 0.5) / steps)).mean()
    elif steps:
        edges = np.log(np.arange(2, 42) / 2) / math.log(41 / 2)
        total = (np.exp(log_densities(prior, (edges[1:] + edges[:-1]) / 2)) * np.diff(edges)).sum()
    else:
        total = integrate.quad(lambda share: float(np.exp(log_densities(prior, [share])[0])), 0, 1, limit=200)[0]
    assert total == pytest.approx(1, abs=1e-7)


def test_spread_of_a_thousand_ranges_is_flat() -> None:
    prior, shares = prior_of(LINEAR, center=0.7, spread=600.0), np.linspace(0, 0.999, 99)
    np.testing.assert_allclose(log_densities(prior, shares), 0, atol=1e-6)
    np.testing.assert_allclose(draws(prior, shares), shares, atol=1e-6)


@pytest.mark.parametrize(
    ("dimension", "given", "center"),
    [
        (LINEAR, {"center": 0.3}, 0.3),
        (LINEAR, {"normal": [0.7, 1]}, 0.7),
        (LINEAR, {"beta": [2, 4]}, 0.1 + 0.6 / 4),
        (LINEAR, {"beta": [1, 1]}, 0.4),
        (LOG, {"lognormal": [0.02, 2]}, 0.02),
        (WHOLE, {"normal": [30, 9]}, 32),
        (WHOLE, {"beta": [9, 1]}, 64),
        (WHOLE_LOG, {"lognormal": [5, 2]}, 5),
        (CHOICES, {"center": [0, 1]}, "[0, 1]"),
        (CHOICES, {"probabilities": {"all": 0.4}}, "all"),
        (CHOICES, {"probabilities": {"all": 0.1}}, "last"),
    ],
)
def test_center_is_the_middle_or_the_most_probable_value(
    dimension: dict[str, Any], given: dict[str, Any], center: Any
) -> None:
    assert prior_of(dimension, **given).centers == {"train.d0": pytest.approx(center)}


def test_recipe_is_a_prior_around_its_values_and_comes_after_the_dimensions_own() -> None:
    own = {**LINEAR, "prior": {"normal": [0.2, 0.1]}}
    space, points = made(LOG, own, CHOICES, WHOLE), np.random.default_rng(0).random((50, 4))
    recipe = {"train.d0": 0.01, "train.d1": 0.6, "train.d2": [0, 1], "train.elsewhere": 3}
    prior = Prior(space, recipe)
    said = made(
        {**LOG, "prior": {"center": 0.01}}, own, {**CHOICES, "prior": {"center": [0, 1], "weight": 0.625}}, WHOLE
    )
    np.testing.assert_allclose(prior.log_density(points), Prior(said).log_density(points), rtol=1e-12)
    assert prior.centers == {"train.d0": 0.01, "train.d1": 0.2, "train.d2": "[0, 1]"}
    # Of the last dimension nothing is believed.
    np.testing.assert_array_equal(prior.quantile(points)[:, 3], points[:, 3])
    parts = [Prior(made(each), {"train.d0": 0.01}) for each in (LOG,)] + [Prior(made(own)), Prior(made(CHOICES))]
    assert [part.is_informative for part in [*parts, prior]] == [True, True, False, True]
    np.testing.assert_array_equal(parts[2].log_density(points[:, 2:3]), 0)


def test_sample_is_the_place_of_a_sobol_sequence_moved_to_the_density() -> None:
    prior = Prior(made({**LOG, "prior": {"center": 0.01}}, LINEAR))
    for number in (0, 5):
        point = np.array([sobol_point(2, seed=3, number=number)])
        np.testing.assert_array_equal(prior.sample(seed=3, number=number), prior.quantile(point)[0])
    firsts = [prior.sample(seed=3, number=number)[0] for number in range(16)]
    quarters = np.searchsorted(draws(Prior(made({**LOG, "prior": {"center": 0.01}})), [0.25, 0.5, 0.75]), firsts)
    assert np.bincount(quarters).tolist() == [4, 4, 4, 4]

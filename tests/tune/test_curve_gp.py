"""Claims about the Gaussian process over configurations and epochs, against plain restatements: inverses, differences,
integrals.
"""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from pipeline.tune.study import curve_gp
from pipeline.tune.study.curve_gp import (
    BOUNDS,
    JITTER,
    MEANS,
    SPREADS,
    Array,
    condition,
    fit_parameters,
    log_expected_improvement,
)

WORDS = [2]
ONE, OTHER = np.array([0.3, -0.5, 0.8, -0.4, 0.2, -1.1, -1.0]), np.array([-0.3, 0.5, 0.1, 0.9, -0.4, 0.6, -2.0])
"""Logarithms of three lengths, of time, variance, gain and noise."""


def data(count: int = 12, seed: int = 0) -> tuple[Array, Array, Array]:
    """Points of two numbers and a category of three, how far their trials are, and standardised values."""
    rng = np.random.default_rng(seed)
    points = rng.random((count, 3))
    points[:, 2] = (np.floor(points[:, 2] * 3) + 0.5) / 3
    progress = rng.integers(0, 4, count) / 3
    values = progress - (points[:, 0] - 0.4) ** 2 + 0.3 * (points[:, 2] > 0.6) + 0.05 * rng.standard_normal(count)
    return points, progress, (values - values.mean()) / values.std()


def covariance(one: Array, other: Array, start: float, end: float, parameters: Array) -> float:
    """That of the module's equation, for two points; a category that differs is at a distance of 1."""
    distance2 = 0.0
    for dim in range(3):
        difference = float(one[dim] != other[dim]) if dim in WORDS else one[dim] - other[dim]
        distance2 += (difference / math.exp(parameters[dim])) ** 2
    r = math.sqrt(5 * distance2)
    time, variance, gain = np.exp(parameters[3:6])
    near = math.exp(-((start - end) ** 2) / (2 * time**2))
    return float(variance * near * (1 + r + r * r / 3) * math.exp(-r) + gain * start * end)


def matrix(left: tuple[Array, Array], right: tuple[Array, Array], parameters: Array) -> Array:
    """Of two sets of points and their progress, pair by pair."""
    return np.array(
        [[covariance(p, q, u, v, parameters) for q, v in zip(*right, strict=True)] for p, u in zip(*left, strict=True)]
    )


@pytest.mark.parametrize("parameters", [ONE, OTHER])
def test_prediction_is_that_of_the_equations(parameters: Array) -> None:
    """Rasmussen and Williams' 2.25 and 2.26, with the inverse, of what is at the last epoch."""
    points, progress, values = data()
    at, ends = data(7, seed=1)[0], np.ones(7)
    mean, spread = condition(points, progress, values, parameters, categorical_dims=WORDS).predict(at)
    noise = (math.exp(parameters[-1]) + JITTER) * np.eye(12)
    inverse = np.linalg.inv(matrix((points, progress), (points, progress), parameters) + noise)
    across = matrix((at, ends), (points, progress), parameters)
    variance = np.diag(matrix((at, ends), (at, ends), parameters) - across @ inverse @ across.T)
    assert mean == pytest.approx(across @ inverse @ values, rel=1e-8, abs=1e-10)
    assert spread == pytest.approx(np.sqrt(variance), rel=1e-7)


def cost(parameters: Array) -> tuple[float, Array]:
    points, progress, values = data()
    differences = np.abs(points[:, None] - points[None])
    differences[:, :, WORDS] = differences[:, :, WORDS] > 0
    means, spreads, _ = curve_gp._by_parameter(3)
    apart, alike = (progress[:, None] - progress[None]) ** 2, np.outer(progress, progress)
    return curve_gp._cost(parameters, differences**2, apart, alike, values, means, spreads)


def test_cost_is_the_density_of_the_values_and_of_the_parameters_beforehand() -> None:
    points, progress, values = data()
    names = ["length"] * 3 + ["time", "variance", "gain", "noise"]

    def log_density(parameters: Array) -> float:
        noise = (math.exp(parameters[-1]) + JITTER) * np.eye(12)
        seen = matrix((points, progress), (points, progress), parameters) + noise
        beforehand = [
            stats.norm.logpdf(value, MEANS[name], SPREADS[name]) for value, name in zip(parameters, names, strict=True)
        ]
        return float(stats.multivariate_normal.logpdf(values, cov=seen) + sum(beforehand))

    assert cost(ONE)[0] - cost(OTHER)[0] == pytest.approx(log_density(OTHER) - log_density(ONE), rel=1e-9)


@pytest.mark.parametrize("parameters", [ONE, OTHER])
def test_gradient_is_that_of_the_cost(parameters: Array) -> None:
    _, gradient = cost(parameters)
    for index in range(len(parameters)):
        step = 1e-6 * np.eye(len(parameters))[index]
        differences = (cost(parameters + step)[0] - cost(parameters - step)[0]) / 2e-6
        assert gradient[index] == pytest.approx(differences, rel=1e-5, abs=1e-7)


def test_parameters_that_are_found_are_better_than_any_near_them() -> None:
    points, progress, values = data()
    found = fit_parameters(points, progress, values, categorical_dims=WORDS)
    at_best = cost(found)[0]
    assert at_best < cost(np.array(curve_gp._by_parameter(3)[0]))[0] - 1
    assert all(cost(found + sign * step)[0] > at_best - 1e-4 for step in 0.2 * np.eye(7) for sign in (1, -1))


def test_what_is_far_from_every_trial_is_less_sure_and_later_epochs_are_surer() -> None:
    points, values = np.full((2, 1), 0.5), np.array([0.0, 1.0])
    parameters = np.array([-1.0, 0.0, 0.0, -2.0, -4.0])
    early = condition(points[:1], np.array([0.2]), values[:1], parameters)
    late = condition(points, np.array([0.2, 1.0]), values, parameters)
    for process in (early, late):
        _, (near, far) = process.predict(np.array([[0.5], [0.9]]))
        assert near < far
    assert late.predict(points)[1][0] < early.predict(points)[1][0] / 3


NASTY = {
    "equal values": (data()[0], data()[1], np.zeros(12)),
    "one point": (data()[0][:1], np.array([0.3]), np.array([0.0])),
    "one point many times": (np.tile(data()[0][:1], (9, 1)), np.ones(9), np.linspace(-1.5, 1.5, 9)),
    "every point twice": (np.tile(data(6)[0], (2, 1)), np.repeat([0.5, 1.0], 6), data()[2]),
    "one epoch": (data()[0], np.ones(12), data()[2]),
    "one stands out": (data()[0], data()[1], np.array([-math.sqrt(11), *[1 / math.sqrt(11)] * 11])),
    "first epochs alone": (data()[0], np.zeros(12), data()[2]),
}


@pytest.mark.parametrize("name", NASTY)
def test_nasty_values_are_no_error(name: str) -> None:
    points, progress, values = NASTY[name]
    parameters = fit_parameters(points, progress, values, categorical_dims=WORDS)
    names = ["length"] * 3 + ["time", "variance", "gain", "noise"]
    for value, (low, high) in zip(parameters, (BOUNDS[each] for each in names), strict=True):
        assert low <= value <= high
    at = np.vstack([points, data(20, seed=2)[0]])
    mean, spread = condition(points, progress, values, parameters, categorical_dims=WORDS).predict(at)
    assert np.isfinite(mean).all()
    assert np.abs(mean).max() < 10
    assert (spread > 0).all()
    assert fit_parameters(points, progress, values, categorical_dims=WORDS).tolist() == parameters.tolist()


@pytest.mark.parametrize("z", [-28.0, -6.0, -1.0, 0.0, 2.0, 9.0])
def test_expected_improvement_is_the_integral(z: float) -> None:
    spread, best = 0.02, 0.9
    mean = best + z * spread

    def gain(x: float) -> float:
        # Scaled, since it underflows far below the best.
        return (x - best) * math.exp(stats.norm.logpdf(x, mean, spread) - stats.norm.logpdf(max(z, 0) - z))

    top = max(mean, best)
    whole = integrate.quad(gain, best, top + 12 * spread, points=[top, top + spread / 5], limit=500)[0]
    expected = math.log(whole) + stats.norm.logpdf(max(z, 0) - z)
    found = log_expected_improvement(np.array([mean]), np.array([spread]), best)[0]
    assert found == pytest.approx(expected, rel=1e-6)


def test_expected_improvement_keeps_its_order_where_it_underflows() -> None:
    means = np.array([-1e9, -100.0, -50.0, -30.001, -29.999, -10.0, 29.999, 30.001, 100.0, 1e9])
    found = log_expected_improvement(means, np.ones(10), 0.0)
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()

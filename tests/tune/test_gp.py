"""Claims about the Gaussian process, against plain restatements: inverses, differences, integrals."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from pipeline.tune.study import gp
from pipeline.tune.study.gp import Array, GaussianProcess, condition_on_fantasies, fit, log_expected_improvement

WORDS = [2]


def data(count: int = 12) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    points = rng.random((count, 3))
    points[:, 2] = (np.floor(points[:, 2] * 3) + 0.5) / 3
    values = 0.9 - (points[:, 0] - 0.4) ** 2 + 0.05 * (points[:, 2] > 0.6) + 0.01 * rng.standard_normal(count)
    return points, values, 1e-4 * rng.random(count)


def covariance(one: Array, other: Array, parameters: Array) -> float:
    """Equation 4.17, for two points; a category that differs is at a distance of 1."""
    distance2 = 0.0
    for index in range(3):
        difference = float(one[index] != other[index]) if index in WORDS else one[index] - other[index]
        distance2 += (difference / math.exp(parameters[index])) ** 2
    r = math.sqrt(5 * distance2)
    return math.exp(parameters[-2]) * (1 + r + r * r / 3) * math.exp(-r)


def restated(process: GaussianProcess, values: Array, doubt: Array, at: Array) -> tuple[Array, Array]:
    """Equations 2.25 and 2.26, with the inverse."""
    center, scale, parameters = values.mean(), values.std(), process.parameters
    seen = process.points
    noise = math.exp(parameters[-1]) + doubt / scale**2 + gp.JITTER
    matrix = np.array([[covariance(a, b, parameters) for b in seen] for a in seen]) + np.diag(noise)
    across = np.array([[covariance(a, b, parameters) for b in seen] for a in at])
    inverse = np.linalg.inv(matrix)
    mean = across @ inverse @ (values - center) / scale
    variance = [math.exp(parameters[-2]) - row @ inverse @ row for row in across]
    return center + scale * mean, scale * np.sqrt(variance)


def test_prediction_is_that_of_the_equations() -> None:
    points, values, doubt = data()
    process = fit(points, values, noise_var=doubt, categorical_dims=WORDS)
    at = data(20)[0][12:]
    mean, spread = process.predict(at)
    expected_mean, expected_spread = restated(process, values, doubt, at)
    assert mean == pytest.approx(expected_mean, rel=1e-9)
    assert spread == pytest.approx(expected_spread, rel=1e-6)


def test_gradient_is_that_of_the_cost() -> None:
    points, values, doubt = data()
    squares = gp._squares(points, points, WORDS)
    standard = (values - values.mean()) / values.std()
    at = np.array([0.3, -0.5, 0.8, 0.2, -1.0])
    _, gradient = gp._cost(at, squares, standard, doubt)
    for index in range(len(at)):
        step = 1e-6 * np.eye(len(at))[index]
        above, below = (gp._cost(at + sign * step, squares, standard, doubt)[0] for sign in (1, -1))
        assert gradient[index] == pytest.approx((above - below) / 2e-6, rel=1e-5, abs=1e-7)


def test_cost_is_the_density_of_the_values_and_of_the_parameters_beforehand() -> None:
    points, values, doubt = data()
    squares = gp._squares(points, points, WORDS)
    standard = (values - values.mean()) / values.std()

    def density(parameters: Array) -> float:
        matrix = np.array([[covariance(a, b, parameters) for b in points] for a in points])
        matrix += np.diag(math.exp(parameters[-1]) + doubt + gp.JITTER)
        beforehand = zip(parameters, [gp.LENGTH] * 3 + [gp.VARIANCE, gp.NOISE], strict=True)
        prior = sum(stats.norm.logpdf(value, mean, spread) for value, (mean, spread) in beforehand)
        return float(stats.multivariate_normal.logpdf(standard, cov=matrix) + prior)

    one, other = np.array([0.3, -0.5, 0.8, 0.2, -1.0]), np.array([-0.3, 0.5, 0.1, -0.4, -2.0])
    costs = [gp._cost(each, squares, standard, doubt)[0] for each in (one, other)]
    assert costs[0] - costs[1] == pytest.approx(density(other) - density(one), rel=1e-9)


def test_doubted_value_moves_the_surface_less() -> None:
    points, values, doubt = data()
    values[3] += 0.2
    trusting = fit(points, values, noise_var=doubt, categorical_dims=WORDS).predict(points[3:4])[0][0]
    doubt[3] = 0.1
    doubting = fit(points, values, noise_var=doubt, categorical_dims=WORDS).predict(points[3:4])[0][0]
    assert doubting < trusting


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
    means = np.array([-100.0, -50.0, -30.001, -29.999, -10.0, 29.999, 30.001, 100.0])
    found = log_expected_improvement(means, np.ones(8), 0.0)
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()


def test_point_that_is_running_is_surer_and_moves_nothing() -> None:
    points, values, doubt = data()
    process, at = fit(points, values, noise_var=doubt, categorical_dims=WORDS), np.array([[0.9, 0.1, 0.5]])
    told = condition_on_fantasies(process, at, values=values, noise_var=doubt)
    grid = data(40)[0]
    assert told.predict(grid)[0] == pytest.approx(process.predict(grid)[0], abs=1e-6)
    assert told.predict(at)[1][0] < process.predict(at)[1][0]


def test_equal_values_are_no_error() -> None:
    points, _, doubt = data()
    mean, spread = fit(points, np.full(12, 0.5), noise_var=doubt, categorical_dims=WORDS).predict(points)
    assert mean == pytest.approx(0.5)
    assert np.isfinite(spread).all()

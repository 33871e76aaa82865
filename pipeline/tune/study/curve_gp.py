"""Gaussian process over configurations and epochs: what a trial would come to at its last epoch.

Every trial gives several points, from its last epoch down by halves, so that those that were paused early teach what
the beginnings of curves are worth, and those that went on what their ends are. The covariance of two points is

    v exp(-(u - u')^2 / (2 l^2)) M(x, x') + t u u'

with M the Matern-5/2 correlation with a length scale for each dimension (Rasmussen and Williams, Gaussian Processes for
Machine Learning, 2006, equation 4.17), and u the logarithm of the epoch, from 0 at the first one to 1 at the last; the
second term is what all curves gain alike. Its parameters are those of the largest posterior density (equations 5.8 and
5.9), from some of the points. Wistuba et al., Supervising the Multi-Fidelity Race of Hyperparameter Configurations
(DyHPO), NeurIPS 2022, is a process over the same pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, special

Array = NDArray[np.float64]

MEANS = {"length": 0.0, "time": 0.0, "variance": 0.0, "gain": 0.0, "noise": math.log(0.1)}
"""Of the parameters' logarithms beforehand: lengths of a whole side, a tenth of the variance noise."""
SPREADS = {"length": 1.0, "time": 0.7, "variance": 1.0, "gain": 1.0, "noise": 1.2}
BOUNDS = {
    "length": (-3.0, 4.0),
    "time": (-2.0, 3.0),
    "variance": (-2.5, 2.5),
    "gain": (-4.0, 2.5),
    "noise": (-7.0, 1.5),
}
STEPS = 12
"""Of the optimiser, at most."""
JITTER = 1e-6


@dataclass(frozen=True)
class CurveGP:
    """A process that has seen its values. points: (n, d). progress: (n,), u of the module's equation. categorical_dims:
    dimensions whose values are equal or a whole side apart. parameters: logarithms, d lengths and then as in `MEANS`.
    """

    points: Array
    progress: Array
    categorical_dims: Sequence[int]
    parameters: Array
    _factor: Array
    _weights: Array

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Means and standard deviations, without noise, at the last epoch of (m, d) points: (m,) each, in the units
        of the values.
        """
        ends = np.ones(len(points))
        across = _covariance(
            _squares(points, self.points, self.categorical_dims, self.parameters), ends, self.progress, self.parameters
        )
        explained = linalg.solve_triangular(self._factor, across.T, lower=True, check_finite=False)
        variance, gain = np.exp(self.parameters[-3:-1])
        return across @ self._weights, np.sqrt(np.maximum(variance + gain - (explained**2).sum(axis=0), 1e-10))


def fit_parameters(points: Array, progress: Array, values: Array, *, categorical_dims: Sequence[int] = ()) -> Array:
    """The parameters of the largest posterior density, as `CurveGP` has them.

    Args:
        points: (n, d), in the unit cube.
        progress: (n,), from 0 at the first epoch to 1 at the last.
        values: (n,), standardised.
        categorical_dims: Dimensions that are categories.
    """
    num_dims = points.shape[1]
    differences = np.abs(points[:, None] - points[None])
    differences[:, :, list(categorical_dims)] = differences[:, :, list(categorical_dims)] > 1e-9
    means, spreads, bounds = _by_parameter(num_dims)
    known = (differences**2, (progress[:, None] - progress[None]) ** 2, np.outer(progress, progress), values)
    found = optimize.minimize(
        _cost, means, (*known, means, spreads), "L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": STEPS}
    )
    return np.asarray(found.x)


def condition(
    points: Array, progress: Array, values: Array, parameters: Array, *, categorical_dims: Sequence[int] = ()
) -> CurveGP:
    """The process of these parameters that has seen the values. Arguments as of `fit_parameters`."""
    covariance = _covariance(_squares(points, points, categorical_dims, parameters), progress, progress, parameters)
    covariance[np.diag_indices(len(values))] += math.exp(parameters[-1]) + JITTER
    factor = linalg.cholesky(covariance, lower=True, check_finite=False)
    weights = linalg.cho_solve((factor, True), values, check_finite=False)
    return CurveGP(points, progress, categorical_dims, parameters, factor, weights)


def log_expected_improvement(mean: Array, spread: Array, best: float) -> Array:
    """The logarithm of the mean amount by which a normal variable lies above `best`: its order where it underflows."""
    z = (mean - best) / spread
    # log(phi(z) + z * Phi(z)). Its terms cancel far below 0, where it is phi(z) / z^2, and overflow far above, where it
    # is z.
    near = np.clip(z, -30.0, 30.0)
    log_density = -0.5 * near**2 - 0.5 * math.log(2 * math.pi)
    middle = log_density + np.log1p(near * np.exp(special.log_ndtr(near) - log_density))
    below = -0.5 * z**2 - 0.5 * math.log(2 * math.pi) - 2 * np.log(np.maximum(-z, 30.0))
    above = np.log(np.maximum(z, 30.0))
    return np.asarray(np.log(spread) + np.where(z < -30.0, below, np.where(z > 30.0, above, middle)))


def _squares(left: Array, right: Array, categorical_dims: Sequence[int], parameters: Array) -> Array:
    """Squared distances in units of the length scales, (m, n)."""
    weights = np.exp(-2 * parameters[: left.shape[1]])
    numeric = [dim for dim in range(left.shape[1]) if dim not in categorical_dims]
    scale = np.sqrt(weights[numeric])
    ours, theirs = left[:, numeric] * scale, right[:, numeric] * scale
    squares = (ours**2).sum(axis=1)[:, None] + (theirs**2).sum(axis=1)[None] - 2 * ours @ theirs.T
    for dim in categorical_dims:
        squares += weights[dim] * (np.abs(left[:, dim, None] - right[None, :, dim]) > 1e-9)
    return np.asarray(np.maximum(squares, 0.0))


def _covariance(squares: Array, left: Array, right: Array, parameters: Array) -> Array:
    """left, right: progress of the rows and of the columns."""
    time, variance, gain = np.exp(parameters[-4:-1])
    steps = math.sqrt(5) * np.sqrt(squares)
    nearness = np.exp(-steps - (left[:, None] - right[None]) ** 2 / (2 * time**2))
    return np.asarray(variance * (1 + steps + 5 / 3 * squares) * nearness + gain * np.outer(left, right))


def _by_parameter(num_dims: int) -> tuple[Array, Array, list[tuple[float, float]]]:
    """Means, standard deviations and bounds of every parameter's logarithm."""
    names = ["length"] * num_dims + ["time", "variance", "gain", "noise"]
    return np.array([MEANS[n] for n in names]), np.array([SPREADS[n] for n in names]), [BOUNDS[n] for n in names]


def _cost(
    parameters: Array, squares: Array, apart: Array, alike: Array, values: Array, means: Array, spreads: Array
) -> tuple[float, Array]:
    """Minus the logarithm of the posterior density, but for a constant, and its gradient.

    squares: squared differences by dimension, (n, n, d). apart: of the progress, (n, n). alike: products of it, (n, n).
    """
    num_dims = squares.shape[2]
    weights = np.exp(-2 * parameters[:num_dims])
    time, variance, gain, noise = np.exp(parameters[num_dims:])
    distances = squares @ weights
    steps = math.sqrt(5) * np.sqrt(distances)
    nearness = np.exp(-steps - apart / (2 * time**2))
    correlation, slope = (1 + steps + 5 / 3 * distances) * nearness, 5 / 3 * (1 + steps) * nearness
    covariance = variance * correlation + gain * alike
    covariance[np.diag_indices(len(values))] += noise + JITTER
    try:
        factor = linalg.cholesky(covariance, lower=True, check_finite=False)
    except linalg.LinAlgError:
        return 1e9, np.zeros_like(parameters)
    solved = linalg.cho_solve((factor, True), values, check_finite=False)
    outer = 0.5 * (linalg.cho_solve((factor, True), np.eye(len(values)), check_finite=False) - np.outer(solved, solved))
    gradient = np.empty_like(parameters)
    gradient[:num_dims] = variance * np.tensordot(outer * slope, squares, axes=2) * weights
    gradient[num_dims] = variance * (outer * correlation * apart).sum() / time**2
    gradient[num_dims + 1] = variance * (outer * correlation).sum()
    gradient[num_dims + 2] = gain * (outer * alike).sum()
    gradient[num_dims + 3] = noise * np.trace(outer)
    strays = (parameters - means) / spreads
    cost = 0.5 * values @ solved + np.log(np.diag(factor)).sum() + 0.5 * (strays**2).sum()
    return float(cost), gradient + strays / spreads

"""Gaussian-process regression over the unit cube, for values that are known with different certainty.

Matern-5/2 covariance with a length scale for each dimension; a category that differs is one whole side away. Its
parameters (length scales, the variance of what is to be learned, and of the noise that all values share) are those of
the largest posterior density. Values are standardised, so that the priors fit any objective. Equations as in
Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006: prediction 2.25 and 2.26, evidence 5.8 and 5.9,
covariance 4.17.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, stats

Array = NDArray[np.float64]

LENGTH = (0.0, 1.0)
"""Mean and standard deviation of a log length scale beforehand: about a side of the cube, so that what is learned is
smooth until the values say otherwise."""
VARIANCE = (0.0, 1.0)
"""Of the log variance of what is to be learned."""
NOISE = (math.log(0.15), 1.2)
"""Of the log variance of the noise: a seventh of the whole, a factor of three more or less."""
BOUNDS = {"length": (-3.0, 4.0), "variance": (-2.5, 2.5), "noise": (-7.0, 1.5)}
STEPS = 40
"""Of the optimiser, at most."""
JITTER = 1e-6


@dataclass(frozen=True)
class GaussianProcess:
    """A process that has seen its values. points: (n, d). categorical_dims: dimensions that are categories."""

    points: Array
    categorical_dims: Sequence[int]
    parameters: Array
    _center: float
    _scale: float
    _factor: Array
    _weights: Array

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Means and standard deviations of what is to be learned, without noise, at (m, d) points: (m,) each."""
        variance = math.exp(self.parameters[-2])
        across = variance * _correlation(_squares(points, self.points, self.categorical_dims), self.parameters)[0]
        explained = linalg.solve_triangular(self._factor, across.T, lower=True)
        spread = np.sqrt(np.maximum(variance - (explained**2).sum(axis=0), 1e-10))
        return self._center + self._scale * (across @ self._weights), self._scale * spread


def fit(points: Array, values: Array, *, noise_var: Array, categorical_dims: Sequence[int] = ()) -> GaussianProcess:
    """The process of the largest posterior density.

    points: (n, d) in the unit cube. values: (n,), all finite. noise_var: (n,), variances of single values beyond the
    noise that all of them have. categorical_dims: dimensions that are categories.
    """
    center, scale = float(values.mean()), float(values.std()) or 1.0
    standard, noise_var = (values - center) / scale, noise_var / scale**2
    squares = _squares(points, points, categorical_dims)
    dimensions = points.shape[1]
    start = np.array([LENGTH[0]] * dimensions + [VARIANCE[0], NOISE[0]])
    bounds = [BOUNDS["length"]] * dimensions + [BOUNDS["variance"], BOUNDS["noise"]]
    found = optimize.minimize(
        _cost, start, (squares, standard, noise_var), "L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": STEPS}
    )
    return _informed(points, categorical_dims, found.x, standard, noise_var, center, scale)


def condition_on_fantasies(
    process: GaussianProcess, further: Array, *, values: Array, noise_var: Array
) -> GaussianProcess:
    """The process as if it had seen its own predictions at `further` (m, d) points: surer there, and no wiser.

    values, noise_var: what it was fitted to.
    """
    expected, _ = process.predict(further)
    center, scale = process._center, process._scale
    standard = (np.concatenate([values, expected]) - center) / scale
    noise_var = np.concatenate([noise_var, np.zeros(len(further))]) / scale**2
    points = np.vstack([process.points, further])
    return _informed(points, process.categorical_dims, process.parameters, standard, noise_var, center, scale)


def log_expected_improvement(mean: Array, spread: Array, best: float) -> Array:
    """The logarithm of the mean amount by which a normal variable lies above `best`: its order where it underflows."""
    z = (mean - best) / spread
    # log(phi(z) + z * Phi(z)). Its terms cancel far below 0, where it is phi(z) / z^2, and overflow far above, where it
    # is z.
    near = np.clip(z, -30.0, 30.0)
    ratio = np.exp(stats.norm.logcdf(near) - stats.norm.logpdf(near))
    middle = stats.norm.logpdf(near) + np.log1p(near * ratio)
    below = stats.norm.logpdf(z) - 2 * np.log(np.maximum(-z, 30.0))
    above = np.log(np.maximum(z, 30.0))
    return np.asarray(np.log(spread) + np.where(z < -30.0, below, np.where(z > 30.0, above, middle)))


def _informed(
    points: Array,
    categorical_dims: Sequence[int],
    parameters: Array,
    standard: Array,
    noise_var: Array,
    center: float,
    scale: float,
) -> GaussianProcess:
    correlation, _ = _correlation(_squares(points, points, categorical_dims), parameters)
    factor = linalg.cholesky(_covariance(correlation, parameters, noise_var), lower=True)
    weights = linalg.cho_solve((factor, True), standard)
    return GaussianProcess(points, categorical_dims, parameters, center, scale, factor, weights)


def _squares(left: Array, right: Array, categorical_dims: Sequence[int]) -> Array:
    """Squared differences by dimension, (m, n, d)."""
    differences = np.abs(left[:, None] - right[None])
    for dim in categorical_dims:
        differences[:, :, dim] = differences[:, :, dim] > 1e-9
    return np.asarray(differences**2)


def _correlation(squares: Array, parameters: Array) -> tuple[Array, Array]:
    """Matern-5/2, and minus twice its derivative by the squared scaled distance; (m, n) each."""
    distance2 = squares @ np.exp(-2 * parameters[:-2])
    steps = math.sqrt(5) * np.sqrt(distance2)
    decay = np.exp(-steps)
    return (1 + steps + 5 / 3 * distance2) * decay, 5 / 3 * (1 + steps) * decay


def _covariance(correlation: Array, parameters: Array, noise_var: Array) -> Array:
    variance, noise = np.exp(parameters[-2:])
    return np.asarray(variance * correlation + np.diag(noise + noise_var + JITTER))


def _cost(parameters: Array, squares: Array, standard: Array, noise_var: Array) -> tuple[float, Array]:
    """Minus the logarithm of the posterior density, but for a constant, and its gradient."""
    correlation, slope = _correlation(squares, parameters)
    try:
        factor = linalg.cholesky(_covariance(correlation, parameters, noise_var), lower=True)
    except linalg.LinAlgError:
        return 1e9, np.zeros_like(parameters)
    weights = linalg.cho_solve((factor, True), standard)
    inverse = linalg.cho_solve((factor, True), np.eye(len(standard)))
    outer = 0.5 * (inverse - np.outer(weights, weights))
    variance, noise = np.exp(parameters[-2:])
    gradient = np.empty_like(parameters)
    gradient[:-2] = variance * np.tensordot(outer * slope, squares, axes=2) * np.exp(-2 * parameters[:-2])
    gradient[-2] = variance * (outer * correlation).sum()
    gradient[-1] = noise * np.trace(outer)
    dimensions = len(parameters) - 2
    means, spreads = np.array([LENGTH] * dimensions + [VARIANCE, NOISE]).T
    strays = (parameters - means) / spreads
    cost = 0.5 * standard @ weights + np.log(np.diag(factor)).sum() + 0.5 * (strays**2).sum()
    return float(cost), gradient + strays / spreads

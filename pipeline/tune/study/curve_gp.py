"""Gaussian process over configurations and epochs, which predicts a trial's value at its last epoch.

Every trial gives several points, at its last epoch and at about each half of the one before. Trials that were
paused early thus show how good beginnings of curves are, and trials that went on how good their ends are. The
covariance of two points is

    v exp(-(u - u')^2 / (2 l^2)) M(x, x') + t u u'

Here M is the Matern-5/2 correlation with a length scale for each dimension (Rasmussen and Williams, Gaussian
Processes for Machine Learning, 2006, equation 4.17). The logarithm of the epoch is u, scaled from 0 at the
first epoch to 1 at the last. The second term is the gain that all curves have in common. The parameters have
the largest posterior density (equations 5.8 and 5.9) given some of the points. Wistuba et al., Supervising the
Multi-Fidelity Race of Hyperparameter Configurations (DyHPO), NeurIPS 2022, is a process over the same pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, special

Array = NDArray[np.float64]

MEANS = {"length": 0.0, "time": 0.0, "variance": 0.0, "gain": 0.0, "noise": math.log(0.1)}
"""Prior means of the parameters' logarithms: lengths of a whole side, and noise of a tenth of the variance."""
SPREADS = {"length": 1.0, "time": 0.7, "variance": 1.0, "gain": 1.0, "noise": 1.2}
"""Prior standard deviations of the parameters' logarithms."""
BOUNDS = {
    "length": (-3.0, 4.0),
    "time": (-2.0, 3.0),
    "variance": (-2.5, 2.5),
    "gain": (-4.0, 2.5),
    "noise": (-7.0, 1.5),
}
"""Bounds of the parameters' logarithms."""
STEPS = 12
"""Largest number of steps of the optimiser."""
JITTER = 1e-6
"""Addition to the diagonal of a covariance, for numerical stability."""


@dataclass(frozen=True)
class CurveGP:
    """Gaussian process conditioned on values.

    Attributes:
        points: Points in the unit cube, (n, d).
        progress: Progress of each point, (n,): u of the module's equation.
        categorical_dims: Dimensions in which two values are equal or a whole side apart.
        parameters: Logarithms of the parameters, (d + 4,): d lengths, then in the order of `MEANS`.
    """

    points: Array
    progress: Array
    categorical_dims: Sequence[int]
    parameters: Array
    _factor: Array
    _weights: Array

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Returns means and standard deviations at the last epoch, without noise.

        Args:
            points: Points in the unit cube, (m, d).

        Returns:
            Means (m,) and standard deviations (m,), in the units of the values.
        """
        ends = np.ones(len(points))
        across = _covariance(
            _squares(points, self.points, self.categorical_dims, self.parameters), ends, self.progress, self.parameters
        )
        explained = linalg.solve_triangular(self._factor, across.T, lower=True, check_finite=False)
        variance, gain = np.exp(self.parameters[-3:-1])
        return across @ self._weights, np.sqrt(np.maximum(variance + gain - (explained**2).sum(axis=0), 1e-10))


def fit_parameters(points: Array, progress: Array, values: Array, *, categorical_dims: Sequence[int] = ()) -> Array:
    """Returns the parameters of the largest posterior density, as `CurveGP` has them.

    Args:
        points: Points in the unit cube, (n, d).
        progress: Progress, (n,), from 0 at the first epoch to 1 at the last.
        values: Standardised values, (n,).
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
    """Returns the process with these parameters, conditioned on the values.

    Args:
        points: Points in the unit cube, (n, d).
        progress: Progress, (n,), from 0 at the first epoch to 1 at the last.
        values: Standardised values, (n,).
        parameters: Logarithms of the parameters, as `CurveGP` has them.
        categorical_dims: Dimensions that are categories.
    """
    covariance = _covariance(_squares(points, points, categorical_dims, parameters), progress, progress, parameters)
    covariance[np.diag_indices(len(values))] += math.exp(parameters[-1]) + JITTER
    factor = linalg.cholesky(covariance, lower=True, check_finite=False)
    weights = linalg.cho_solve((factor, True), values, check_finite=False)
    return CurveGP(points, progress, categorical_dims, parameters, factor, weights)


def log_expected_improvement(mean: Array, spread: Array, best: float) -> Array:
    """Returns the logarithm of the expected amount by which a normal variable exceeds a value.

    The logarithm orders candidates even where the amount itself underflows.

    Args:
        mean: Means of the variables, (n,).
        spread: Standard deviations of the variables, (n,).
        best: The value to exceed.
    """
    z = (mean - best) / spread
    # The sum phi(z) + z * Phi(z) loses its digits by cancellation far below 0, where it is about phi(z) / z^2, and its
    # terms overflow far above 0, where it is about z.
    near = np.clip(z, -30.0, 30.0)
    log_density = -0.5 * near**2 - 0.5 * math.log(2 * math.pi)
    middle = log_density + np.log1p(near * np.exp(special.log_ndtr(near) - log_density))
    below = -0.5 * z**2 - 0.5 * math.log(2 * math.pi) - 2 * np.log(np.maximum(-z, 30.0))
    above = np.log(np.maximum(z, 30.0))
    return np.asarray(np.log(spread) + np.where(z < -30.0, below, np.where(z > 30.0, above, middle)))


def _squares(left: Array, right: Array, categorical_dims: Sequence[int], parameters: Array) -> Array:
    """Returns squared distances in units of the length scales, (m, n).

    Args:
        left: Points of the rows, (m, d).
        right: Points of the columns, (n, d).
        categorical_dims: Dimensions that are categories.
        parameters: Logarithms of the parameters.
    """
    weights = np.exp(-2 * parameters[: left.shape[1]])
    numeric = [dim for dim in range(left.shape[1]) if dim not in categorical_dims]
    scale = np.sqrt(weights[numeric])
    ours, theirs = left[:, numeric] * scale, right[:, numeric] * scale
    squares = (ours**2).sum(axis=1)[:, None] + (theirs**2).sum(axis=1)[None] - 2 * ours @ theirs.T
    for dim in categorical_dims:
        squares += weights[dim] * (np.abs(left[:, dim, None] - right[None, :, dim]) > 1e-9)
    return np.asarray(np.maximum(squares, 0.0))


def _covariance(squares: Array, left: Array, right: Array, parameters: Array) -> Array:
    """Returns the covariance of the module's equation, (m, n).

    Args:
        squares: Squared distances, (m, n).
        left: Progress of the rows, (m,).
        right: Progress of the columns, (n,).
        parameters: Logarithms of the parameters.
    """
    time, variance, gain = np.exp(parameters[-4:-1])
    steps = math.sqrt(5) * np.sqrt(squares)
    nearness = np.exp(-steps - (left[:, None] - right[None]) ** 2 / (2 * time**2))
    return np.asarray(variance * (1 + steps + 5 / 3 * squares) * nearness + gain * np.outer(left, right))


def _by_parameter(num_dims: int) -> tuple[Array, Array, list[tuple[float, float]]]:
    """Returns prior means, standard deviations and bounds of every parameter's logarithm."""
    names = ["length"] * num_dims + ["time", "variance", "gain", "noise"]
    return np.array([MEANS[n] for n in names]), np.array([SPREADS[n] for n in names]), [BOUNDS[n] for n in names]


def _cost(
    parameters: Array, squares: Array, apart: Array, alike: Array, values: Array, means: Array, spreads: Array
) -> tuple[float, Array]:
    """Returns the negative log posterior density, up to a constant, and its gradient.

    Args:
        parameters: Logarithms of the parameters, (d + 4,).
        squares: Squared differences by dimension, (n, n, d).
        apart: Squared differences of the progress, (n, n).
        alike: Products of the progress, (n, n).
        values: Standardised values, (n,).
        means: Prior means, (d + 4,).
        spreads: Prior standard deviations, (d + 4,).
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

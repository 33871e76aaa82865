"""Prior belief about where good configurations lie, as a density over the unit cube of a search space.

Dimensions are independent. A dimension has the density of its `prior:` in the space's file
(`pipeline.tune.prior_check` lists the forms). Without one, it has the density of `{center: value}` if the
recipe has a value for it, and the uniform density otherwise. A range with steps, or of whole numbers, has a
mass for each step, that of the half step on either side of the step's value.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from scipy import special

from pipeline.config import Values
from pipeline.tune.dimension import DimensionPrior, num_steps, value_at
from pipeline.tune.prior_check import find_choice
from pipeline.tune.space import Encoded, SearchSpace

Array = NDArray[np.float64]

DEFAULT_SD = 0.15
"""Standard deviation around a centre without a spread, as a share of the range."""
DEFAULT_WEIGHT = 0.5
"""Probability that a choice without a weight has beyond its equal share of the rest."""
SD_BOUNDS = 1e-9, 1e3
"""Bounds of standard deviations, as shares of the range. A wider density is flat to seven digits and would show
rounding.
"""
MIN_LOG_DENSITY = -500.0
"""Smallest log density. No evidence could outweigh a density that is 0, or too small for a float."""
BELOW_ONE = math.nextafter(1.0, 0.0)


class Prior:
    """Density over the unit cube of a space, whose points `SearchSpace.value_at` decodes.

    Args:
        space: The search space; the `prior:` of a dimension takes precedence over the recipe.
        recipe: Parameter values by dotted path.

    Attributes:
        centers: Encoded values by dotted path, for dimensions with a prior: the middle of a normal or
            log-normal density, and the most probable value of any other one.
    """

    def __init__(self, space: SearchSpace, recipe: Values = MappingProxyType({})) -> None:
        self._num_dims = len(space.dimensions)
        self._marginals: list[tuple[int, _ChoiceMarginal | _NumberMarginal]] = []
        self.centers: Encoded = {}
        distributions = space.distributions()
        for dim, (path, spec) in enumerate(space.dimensions.items()):
            given = spec.get("prior", {"center": recipe[path]} if path in recipe else None)
            if given is not None:
                distribution, choices = distributions[path], spec.get("choices")
                marginal: _ChoiceMarginal | _NumberMarginal = (
                    _NumberMarginal(distribution, given)
                    if choices is None
                    else _ChoiceMarginal(distribution, choices, given)
                )
                self._marginals.append((dim, marginal))
                self.centers[path] = marginal.center

    @property
    def is_informative(self) -> bool:
        """True if any dimension has a prior."""
        return bool(self._marginals)

    def log_density(self, points: Array) -> Array:
        """Returns log densities relative to the uniform density, (n,), at points of the unit cube, (n, d)."""
        total = np.zeros(len(points))
        for dim, marginal in self._marginals:
            total += np.maximum(marginal.log_density(points[:, dim]), MIN_LOG_DENSITY)
        return total

    def quantile(self, points: Array) -> Array:
        """Transforms uniform points of the unit cube, (n, d), into points that have this density, (n, d).

        Each dimension goes through the inverse of its cumulative distribution. A set of points that is evenly
        spread, such as a Sobol sequence's, stays so.
        """
        moved = np.array(points, dtype=np.float64)
        for dim, marginal in self._marginals:
            moved[:, dim] = np.clip(marginal.quantile(moved[:, dim]), 0.0, BELOW_ONE)
        return moved

    def sample(self, *, seed: int, number: int) -> Array:
        """Returns a point of the unit cube, (d,): the one at this number of a sequence of draws from the density."""
        point = np.array([sobol_point(self._num_dims, seed=seed, number=number)])
        return np.asarray(self.quantile(point)[0])


def sobol_point(dimensions: int, *, seed: int, number: int) -> list[float]:
    """Returns one point of a scrambled Sobol sequence in the unit cube.

    Args:
        dimensions: Number of dimensions.
        seed: Seed of the scrambling.
        number: Place in the sequence, from 0.
    """
    from scipy.stats import qmc

    sequence = qmc.Sobol(dimensions, rng=seed)
    if number:
        sequence.fast_forward(number)
    point: list[float] = sequence.random(1)[0].tolist()
    return point


class _Normal:
    """Normal distribution, truncated to [0, 1], in which its mean lies. It has the methods of `_Beta`."""

    def __init__(self, mean: float, sd: float) -> None:
        self._mean, self._sd = mean, min(max(sd, SD_BOUNDS[0]), SD_BOUNDS[1])
        self._low, high = special.ndtr((np.array([0.0, 1.0]) - mean) / self._sd)
        self._total = high - self._low

    def log_density(self, shares: Array) -> Array:
        z = (shares - self._mean) / self._sd
        return np.asarray(-0.5 * z * z - math.log(self._sd * math.sqrt(2 * math.pi) * self._total))

    def mass(self, start: Array, end: Array) -> Array:
        low, high = (start - self._mean) / self._sd, (end - self._mean) / self._sd
        # Above the mean the upper tail is used: there the cumulative distribution is near 1 and has no digits left.
        above = low > 0
        low, high = np.where(above, -high, low), np.where(above, -low, high)
        return np.asarray((special.ndtr(high) - special.ndtr(low)) / self._total)

    def quantile(self, levels: Array) -> Array:
        return np.asarray(self._mean + self._sd * special.ndtri(self._low + levels * self._total))


class _Beta:
    """Beta distribution with a, b >= 1."""

    def __init__(self, a: float, b: float) -> None:
        self._a, self._b = a, b

    def log_density(self, shares: Array) -> Array:
        logs = special.xlogy(self._a - 1, shares) + special.xlog1py(self._b - 1, -shares)
        return np.asarray(logs - special.betaln(self._a, self._b))

    def mass(self, start: Array, end: Array) -> Array:
        below = special.betainc(self._a, self._b, end) - special.betainc(self._a, self._b, start)
        above = special.betaincc(self._a, self._b, start) - special.betaincc(self._a, self._b, end)
        return np.asarray(np.where(start > self._a / (self._a + self._b), above, below))

    def quantile(self, levels: Array) -> Array:
        return np.asarray(special.betaincinv(self._a, self._b, levels))


@dataclass(frozen=True)
class _Scale:
    """Interval of values, with the share of the way through it, linearly or on a log scale."""

    start: float
    end: float
    log: bool

    @property
    def length(self) -> float:
        return math.log(self.end) - math.log(self.start) if self.log else self.end - self.start

    def values(self, shares: Array) -> Array:
        if self.log:
            return np.asarray(np.exp(math.log(self.start) + shares * self.length))
        return self.start + shares * self.length

    def shares(self, values: Array) -> Array:
        if self.log:
            values = np.log(np.maximum(values, self.start)) - math.log(self.start)
        else:
            values = values - self.start
        return np.clip(values / self.length, 0.0, 1.0)

    def log_slope(self, values: Array) -> Array | float:
        """Returns the logarithm of the derivative of values by their share."""
        return math.log(self.length) + (np.log(values) if self.log else 0.0)


class _ChoiceMarginal:
    """Probabilities of choices, each of which has an equal share of the unit interval.

    Args:
        distribution: Optuna's distribution of the dimension.
        choices: Its choices.
        given: Its prior, in one of the forms of `pipeline.tune.prior_check`.
    """

    def __init__(self, distribution: Any, choices: Sequence[Any], given: DimensionPrior) -> None:
        if "center" in given:
            weight = given.get("weight", DEFAULT_WEIGHT + (1 - DEFAULT_WEIGHT) / len(choices))
            named = {find_choice(choices, given["center"]): weight}
        else:
            named = {find_choice(choices, choice): each for choice, each in given["probabilities"].items()}
        rest = (1 - math.fsum(named.values())) / max(1, len(choices) - len(named))
        probabilities = np.array([named.get(place, rest) for place in range(len(choices))])
        self._probabilities = probabilities / probabilities.sum()
        middle = find_choice(choices, given["center"]) if "center" in given else int(np.argmax(probabilities))
        self.center = distribution.choices[middle]

    def log_density(self, shares: Array) -> Array:
        count = len(self._probabilities)
        places = np.minimum((shares * count).astype(np.int64), count - 1)
        return np.asarray(np.log(self._probabilities * count)[places])

    def quantile(self, levels: Array) -> Array:
        count, ends = len(self._probabilities), np.cumsum(self._probabilities)
        places = np.minimum(np.searchsorted(ends, levels, side="right"), count - 1)
        within = 1 - (ends[places] - levels) / self._probabilities[places]
        # Rounding could move a value at an end of a choice's share into the neighbouring share.
        return np.asarray((places + np.clip(within, 1e-9, 1 - 1e-9)) / count)


class _NumberMarginal:
    """Shape over a range, on the range's own scale or the other one; with steps, their masses.

    Args:
        distribution: Optuna's distribution of the dimension.
        given: Its prior, in one of the forms of `pipeline.tune.prior_check`.
    """

    def __init__(self, distribution: Any, given: DimensionPrior) -> None:
        low, high, self._steps = distribution.low, distribution.high, num_steps(distribution)
        # A whole number n on a log scale takes the interval from n to n + 1. Any other step takes the half step on
        # either side of its value.
        self._from_value = self._steps is not None and distribution.log
        around = 0.0 if self._steps is None or self._from_value else distribution.step / 2
        self._own = _Scale(low - around, high + (1 if self._from_value else around), distribution.log)
        form = next(key for key in given if key != "spread")
        log = {"normal": False, "lognormal": True}.get(form, distribution.log)
        # With a step of twice the lowest value, the range would begin at 0, which has no logarithm.
        self._scale = _Scale(max(self._own.start, low / 2) if log else self._own.start, self._own.end, log)
        if form == "beta":
            a, b = given["beta"]
            self._shape: _Beta | _Normal = _Beta(a, b)
            self.center = value_at(distribution, min((a - 1) / (a + b - 2) if a + b > 2 else 0.5, BELOW_ONE))
            return
        middle, sd = (given["center"], given.get("spread")) if form == "center" else given[form]
        place = np.array([middle + 0.5 if self._from_value else float(middle)])
        length = self._scale.length
        width = DEFAULT_SD if sd is None else (math.log(sd) if log else float(sd)) / length
        self._shape = _Normal(float(self._scale.shares(place)[0]), width)
        if form == "center":
            self.center = float(middle) if isinstance(distribution, FloatDistribution) else middle
        elif self._steps is None:
            self.center = float(middle)
        else:
            self.center = value_at(distribution, min(float(self._own.shares(place)[0]), BELOW_ONE))

    def log_density(self, shares: Array) -> Array:
        if self._steps is None:
            density = self._shape.log_density(self._on_scale(shares))
            if self._scale == self._own:
                return density
            values = self._own.values(shares)
            return np.asarray(density + self._own.log_slope(values) - self._scale.log_slope(values))
        # The mass is computed once for each step, since many points share few steps.
        if self._from_value:
            values = np.clip(np.floor(self._own.values(shares)), self._own.start, self._own.end - 1)
            steps, places = np.unique(values, return_inverse=True)
            start, end = self._own.shares(steps), self._own.shares(steps + 1)
        else:
            steps, places = np.unique(np.minimum(np.floor(shares * self._steps), self._steps - 1), return_inverse=True)
            start, end = steps / self._steps, (steps + 1) / self._steps
        mass = self._shape.mass(self._on_scale(start), self._on_scale(end))
        return np.asarray((np.log(np.maximum(mass, sys.float_info.min)) - np.log(end - start))[places])

    def quantile(self, levels: Array) -> Array:
        shares = self._shape.quantile(levels)
        return shares if self._scale == self._own else self._own.shares(self._scale.values(shares))

    def _on_scale(self, shares: Array) -> Array:
        return shares if self._scale == self._own else self._scale.shares(self._own.values(shares))

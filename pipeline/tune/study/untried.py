"""Configurations that a search has not tried: no configuration is proposed twice while others are left.

Samplers propose the configurations that their model favours, and in a small space return to the same one again
and again. Trained with the same seed, it gives the same values to the last digit. A configuration that has been
proposed, whatever its result, is therefore replaced by the nearest new one, which is as promising by all that
the sampler knows. Results of a warm start are avoided too, until nothing else is left, since they are no trials
of this search.
"""

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution

from pipeline.config import Values
from pipeline.tune.dimension import share_of
from pipeline.tune.space import Encoded, SearchSpace

ENUMERATED = 20_000
"""Largest size of a space whose configurations are compared one by one; in larger ones, neighbours are drawn at random.
"""
NEAR = 0.02
"""Standard deviation of the first of these draws, as a share of a dimension's range; it doubles until one is new."""
DRAWS = 16
"""Draws at each distance."""
WIDENINGS = 12
"""Number of doublings after which fixed values are given up, since there may be no new configuration with them."""

Key = tuple[float, ...]
"""Place of a configuration: one number for each dimension."""


class Untried:
    """Space with the configurations proposed so far. All values are encoded (see `SearchSpace.encode`)."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._distributions: dict[str, Any] = dict(space.distributions())
        self._counts = list(space.steps().values())
        self._size = space.size()
        self._proposed: set[Key] = set()
        self._prior_keys: set[Key] = set()

    def add(self, values: Values) -> None:
        """Counts a configuration as proposed."""
        self._proposed.add(self._key(values))

    def add_prior(self, values: Values) -> None:
        """Counts a configuration as one to avoid while there are others."""
        self._prior_keys.add(self._key(values))

    @property
    def left(self) -> int | None:
        """Number of configurations that have not been proposed; None if the space is infinite."""
        return None if self._size is None else max(0, self._size - len(self._proposed))

    def new(self, values: Values) -> bool:
        """Returns whether a configuration may be proposed."""
        return self._key(values) not in self._avoided()

    def is_repeat(self, values: Values) -> bool:
        """Returns whether this search has proposed a configuration."""
        return self._key(values) in self._proposed

    def nearest(self, values: Values, *, seed: int, fixed: Collection[str] = ()) -> Encoded:
        """Returns the nearest configuration that may be proposed; the given one, if none is left.

        Distances are those of the unit cube, in which two categories are a whole side apart. The seed decides
        between equals.

        Args:
            values: Encoded values of a configuration that may not be proposed.
            seed: Seed of all random choices.
            fixed: Dimensions that keep their values, unless everything with these values has been tried.
        """
        if self.left == 0:
            return dict(values)
        rng, avoided = np.random.default_rng(seed), self._avoided()
        if self._size is not None and self._size <= max(ENUMERATED, 4 * len(avoided)):
            return self._compared(values, avoided, fixed, rng)
        return self._sample(values, avoided, fixed, rng)

    def _avoided(self) -> Collection[Key]:
        """Returns the places that may not be proposed: prior results count until nothing else is left."""
        if not self._prior_keys:
            return self._proposed
        both = self._proposed | self._prior_keys
        return self._proposed if len(both) == self._size else both

    def _key(self, values: Values) -> Key:
        """Returns a configuration's place; with steps, the number of the step, since 3 * 0.1 is not exactly 0.3."""
        pairs = zip(self._distributions.items(), self._counts, strict=True)
        return tuple(_place(distribution, count, values[path]) for (path, distribution), count in pairs)

    def _compared(
        self, values: Values, avoided: Collection[Key], fixed: Collection[str], rng: np.random.Generator
    ) -> Encoded:
        """Returns the nearest new configuration of a small space, by comparing all configurations.

        Args:
            values: Encoded values to start from.
            avoided: Places that may not be proposed.
            fixed: Dimensions that keep their values.
            rng: Random generator.
        """
        counts = [count or 1 for count in self._counts]
        here = self._key(values)
        distance: NDArray[np.float64] = np.zeros((1,))
        for (path, distribution), count, place in zip(self._distributions.items(), counts, here, strict=True):
            if path in fixed or isinstance(distribution, CategoricalDistribution):
                away = np.where(np.arange(count) == place, 0.0, math.inf if path in fixed else 1.0)
            else:
                shares = np.array([share_of(distribution, self._value(path, index)) for index in range(count)])
                away = (shares - shares[int(place)]) ** 2
            distance = np.add.outer(distance, away).ravel()
        taken = np.array([[int(part) for part in key] for key in avoided], dtype=np.int64).reshape(-1, len(counts))
        distance[np.ravel_multi_index(tuple(taken.T), counts)] = math.nan
        least = np.nanmin(distance)
        if math.isinf(least):
            return self._compared(values, avoided, (), rng)
        index = rng.choice(np.flatnonzero(distance <= least + 1e-12))
        places = np.unravel_index(int(index), counts)
        return {path: self._value(path, int(place)) for path, place in zip(self._distributions, places, strict=True)}

    def _sample(
        self, values: Values, avoided: Collection[Key], fixed: Collection[str], rng: np.random.Generator
    ) -> Encoded:
        """Returns a new configuration near a given one in a large space, by draws at growing distances.

        Args:
            values: Encoded values to start from.
            avoided: Places that may not be proposed.
            fixed: Dimensions that keep their values.
            rng: Random generator.
        """
        center = np.array(self._space.shares(self._space.decode(values)))
        categorical = [isinstance(each, CategoricalDistribution) for each in self._distributions.values()]
        widening = 0
        while True:
            reach = NEAR * 2**widening
            for point in rng.random((DRAWS, len(center))):
                if reach < 1:
                    moved = np.clip(center + reach * rng.standard_normal(len(center)), 0.0, math.nextafter(1.0, 0.0))
                    point = np.where(categorical, np.where(rng.random(len(center)) < reach, point, center), moved)
                found = self._space.value_at(point.tolist())
                if widening < WIDENINGS:
                    found |= {path: values[path] for path in fixed}
                if self._key(found) not in avoided:
                    return found
            widening += 1

    def _value(self, path: str, index: int) -> Any:
        distribution = self._distributions[path]
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[index]
        return min(distribution.low + index * distribution.step, distribution.high)


def _place(distribution: Any, count: int | None, value: Any) -> float:
    """Returns a value's place: index of a choice, number of a step, or the value itself where it is continuous.

    Args:
        distribution: Optuna's distribution of the dimension.
        count: Number of its values; None if it is continuous.
        value: Encoded value.
    """
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices.index(value)
    return float(value) if count is None else round((value - distribution.low) / distribution.step)

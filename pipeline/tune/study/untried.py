"""What a search has not tried yet: no configuration is proposed twice while others are left.

Samplers propose what their model favours, and in a small space come back to the same configuration again and again;
trained with the same seed, it gives the same values to the last digit. What has been proposed once, whatever became of
it, is replaced by the nearest configuration that has not, which is worth as much by all that the sampler knows. Results
of a warm start are avoided too, until nothing else is left: they are no trials of this search.
"""

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution

from pipeline.config import Values
from pipeline.tune.space import Encoded, SearchSpace

ENUMERATED = 20_000
"""Configurations of a space that are compared one by one; of larger ones, neighbours are drawn until one is new."""
NEAR = 0.02
"""Standard deviation of the first of these draws, as a share of a dimension's range; it doubles until one is new."""
DRAWS = 16
"""At each distance."""
WIDENINGS = 12
"""After so many, the values that were to stay are given up: there may be nothing new with them."""

Key = tuple[float, ...]


class Untried:
    """A space and what has been proposed of it. All values are encoded (see `SearchSpace.encode`)."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._distributions: dict[str, Any] = dict(space.distributions())
        self._counts = list(space.steps().values())
        self._size = space.size()
        self._proposed: set[Key] = set()
        self._prior_keys: set[Key] = set()

    def add(self, values: Values) -> None:
        """Count a configuration as proposed."""
        self._proposed.add(self._key(values))

    def add_prior(self, values: Values) -> None:
        """Avoid a configuration while there are others."""
        self._prior_keys.add(self._key(values))

    @property
    def left(self) -> int | None:
        """How many configurations have not been proposed; None where there is no end of them."""
        return None if self._size is None else max(0, self._size - len(self._proposed))

    def new(self, values: Values) -> bool:
        """Whether a configuration may be proposed."""
        return self._key(values) not in self._avoided()

    def is_repeat(self, values: Values) -> bool:
        """Whether this search has proposed a configuration."""
        return self._key(values) in self._proposed

    def nearest(self, values: Values, *, seed: int, fixed: Collection[str] = ()) -> Encoded:
        """The configuration nearest to one that may not be proposed, of those that may; itself, if none is left.

        Distances are those of the unit cube, another choice of a category being a whole side away; the seed decides
        between equals. fixed: dimensions that keep their values, unless everything has been tried with these.
        """
        if self.left == 0:
            return dict(values)
        rng, avoided = np.random.default_rng(seed), self._avoided()
        if self._size is not None and self._size <= max(ENUMERATED, 4 * len(avoided)):
            return self._compared(values, avoided, fixed, rng)
        return self._sample(values, avoided, fixed, rng)

    def _avoided(self) -> Collection[Key]:
        if not self._prior_keys:
            return self._proposed
        both = self._proposed | self._prior_keys
        return self._proposed if len(both) == self._size else both

    def _key(self, values: Values) -> Key:
        """A configuration's place: of what has steps, the number of the step, since 3 * 0.1 is not quite 0.3."""
        pairs = zip(self._distributions.items(), self._counts, strict=True)
        return tuple(_place(distribution, count, values[path]) for (path, distribution), count in pairs)

    def _compared(
        self, values: Values, avoided: Collection[Key], fixed: Collection[str], rng: np.random.Generator
    ) -> Encoded:
        counts = [count or 1 for count in self._counts]
        here = self._key(values)
        distance: NDArray[np.float64] = np.zeros((1,))
        for (path, distribution), count, place in zip(self._distributions.items(), counts, here, strict=True):
            if path in fixed or isinstance(distribution, CategoricalDistribution):
                away = np.where(np.arange(count) == place, 0.0, math.inf if path in fixed else 1.0)
            else:
                shares = np.array([self._share(path, index) for index in range(count)])
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

    def _share(self, path: str, index: int) -> float:
        value = self._value(path, index)
        return self._space.size_fraction(path, value)

    def _value(self, path: str, index: int) -> Any:
        distribution = self._distributions[path]
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[index]
        return min(distribution.low + index * distribution.step, distribution.high)


def _place(distribution: Any, count: int | None, value: Any) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices.index(value)
    return float(value) if count is None else round((value - distribution.low) / distribution.step)

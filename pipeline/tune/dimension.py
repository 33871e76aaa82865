"""One dimension of a search space: its distribution, and its values as shares of the way through its range."""

import json
import math
from collections.abc import Mapping
from typing import Any, Required, TypedDict

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


class Dimension(TypedDict, total=False):
    """Dimension as the space's file has it: a range of numbers, or choices, perhaps with a prior.

    Attributes:
        type: `float`, `int` or `categorical`.
        low: Lower end of the range.
        high: Upper end of the range.
        log: Whether the range is on a log scale.
        step: Distance of two values; without it, floats are continuous and whole numbers have step 1.
        choices: Values of a categorical dimension.
        prior: Prior density (see `pipeline.tune.prior_check`).
        weights: Hashes in place of choices that name pretrained weights, in the content of a fingerprint.
    """

    type: Required[str]
    low: Any
    high: Any
    log: bool
    step: Any
    choices: list[Any]
    prior: Any
    weights: list[Any]


DimensionPrior = Mapping[str, Any]
"""Prior of a dimension: one of the forms of `pipeline.tune.prior_check`, with its numbers."""


def choice_label(choice: Any) -> Any:
    """Returns a choice as Optuna stores it: a list or mapping as JSON, anything else unchanged."""
    return json.dumps(choice, sort_keys=True, default=str) if isinstance(choice, list | dict) else choice


def distribution_of(dimension: Dimension) -> BaseDistribution:
    """Returns Optuna's distribution of a checked dimension."""
    if dimension["type"] == "categorical":
        return CategoricalDistribution([choice_label(choice) for choice in dimension["choices"]])
    log, step = dimension.get("log", False), dimension.get("step")
    if dimension["type"] == "int":
        return IntDistribution(dimension["low"], dimension["high"], log=log, step=step or 1)
    return FloatDistribution(float(dimension["low"]), float(dimension["high"]), log=log, step=step)


def num_steps(distribution: Any) -> int | None:
    """Returns the number of values of a distribution; None if it is continuous."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if distribution.step is None:
        return None
    return int((distribution.high - distribution.low) / distribution.step + 0.5) + 1


def value_at(distribution: Any, share: float) -> Any:
    """Returns the encoded value at a share, in [0, 1), of the way through the range."""
    count = num_steps(distribution)
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(share * len(distribution.choices))]
    low, high = distribution.low, distribution.high
    if distribution.log:
        value = low * (high / low) ** share if count is None else low * ((high + 1) / low) ** share
        return min(float(value), high) if count is None else min(int(value), high)
    if count is None:
        return float(low + share * (high - low))
    value = low + int(share * count) * distribution.step
    return value if isinstance(distribution, IntDistribution) else min(float(value), high)


def share_of(distribution: Any, value: Any) -> float:
    """Returns the inverse of `value_at`; for a distribution with steps, the middle of the value's step."""
    count = num_steps(distribution)
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.choices.index(value) + 0.5) / len(distribution.choices)
    low, high = distribution.low, distribution.high
    if distribution.log:
        if count is None:
            return math.log(value / low) / math.log(high / low)
        return math.log((value + 0.5) / low) / math.log((high + 1) / low)
    if count is None:
        return float((value - low) / (high - low))
    return float(round((value - low) / distribution.step) + 0.5) / count


def holds(distribution: Any, value: Any) -> bool:
    """Returns whether an encoded value is one of the distribution's values, and of its type."""
    if isinstance(distribution, CategoricalDistribution):
        # In Python 1 == 1.0 == True, but they are different choices.
        return any(type(choice) is type(value) and choice == value for choice in distribution.choices)
    number = (int,) if isinstance(distribution, IntDistribution) else (int, float)
    return isinstance(value, number) and not isinstance(value, bool) and bool(distribution._contains(value))


def describe_allowed(distribution: Any) -> str:
    """Returns the values of a distribution in words."""
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    steps = "" if distribution.step in (None, 1) else f" in steps of {distribution.step:g}"
    return f"{distribution.low:g} to {distribution.high:g}{steps}"

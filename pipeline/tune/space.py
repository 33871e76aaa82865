"""Search spaces: a YAML file names the parameters that vary, by their dotted paths, and the controls.

    parameters:
      regularizer.spatial_entropy.weight: {type: float, low: 0.003, high: 1.0, log: true}
      regularizer.spatial_entropy.layers: {type: categorical, choices: [last, all]}
    controls:
      baseline: {regularizer.spatial_entropy.weight: 0.0}

Types are float and int (low, high, optionally log or step) and categorical (choices). Each dimension may have a
`prior` (see `pipeline.tune.prior_check`). Everything is checked against `pipeline.config`: names, types, and
that both ends of a range are within the parameter's bounds.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution

from pipeline.config import Params, Values
from pipeline.config.yaml import read_yaml
from pipeline.errors import UserError, format_value, join_lines, quote_name
from pipeline.tune.dimension import (
    Dimension,
    choice_label,
    describe_allowed,
    distribution_of,
    holds,
    num_steps,
    share_of,
    value_at,
)
from pipeline.tune.prior_check import given_words
from pipeline.tune.space_check import control_problems, dimension_problems

Encoded = dict[str, Any]
"""Values of the dimensions by dotted path, as Optuna takes them: a list or mapping among the choices is JSON."""


@dataclass(frozen=True)
class SearchSpace:
    """Checked search space.

    Attributes:
        file: The space's file, for messages.
        dimensions: Dimensions by dotted path, as in the file.
        controls: Parameter values by dotted path, by the control's name.
    """

    file: str
    dimensions: Mapping[str, Dimension]
    controls: Mapping[str, Values]

    def distributions(self) -> dict[str, BaseDistribution]:
        """Returns Optuna's distribution of each dimension, by dotted path."""
        return {path: distribution_of(dimension) for path, dimension in self.dimensions.items()}

    def decode(self, proposed: Values) -> Values:
        """Returns the parameter values of a proposal by Optuna, whose choices are JSON if they are lists or
        mappings.
        """
        values = {}
        for path, value in proposed.items():
            choices = self.dimensions[path].get("choices")
            values[path] = value if choices is None else next(c for c in choices if choice_label(c) == value)
        return values

    def encode(self, values: Values) -> Encoded:
        """Returns the inverse of `decode`, for those dimensions alone that have a value."""
        return {
            path: choice_label(values[path]) if "choices" in dimension else values[path]
            for path, dimension in self.dimensions.items()
            if path in values
        }

    def value_at(self, shares: Sequence[float]) -> Encoded:
        """Returns the encoded values at a point of the unit cube: shares, in [0, 1), of the way through the
        dimensions' ranges.
        """
        distributions = self.distributions()
        return {
            path: value_at(distribution, float(share))
            for (path, distribution), share in zip(distributions.items(), shares, strict=True)
        }

    def shares(self, values: Values) -> list[float]:
        """Returns the inverse of `value_at`, for values by dotted path; for a dimension with steps, the middle
        of the step.
        """
        encoded = self.encode(values)
        return [share_of(distribution, encoded[path]) for path, distribution in self.distributions().items()]

    def steps(self) -> dict[str, int | None]:
        """Returns the number of values of each dimension, by dotted path; None for a continuous one."""
        return {path: num_steps(distribution) for path, distribution in self.distributions().items()}

    def size(self) -> int | None:
        """Returns the number of configurations; None if a dimension is continuous."""
        counts = [count for count in self.steps().values() if count is not None]
        return math.prod(counts) if len(counts) == len(self.dimensions) else None

    def values_at_ends(self, path: str) -> list[Any]:
        """Returns the values of a dimension that a check must cover: all its choices, or both ends of its range."""
        dimension = self.dimensions[path]
        return list(dimension["choices"]) if "choices" in dimension else [dimension["low"], dimension["high"]]

    def representative_configs(self, params: Params) -> Iterator[tuple[str, Params]]:
        """Yields configurations that cover every choice of regulariser and network, each with its source for messages.

        The configurations are those of `params`, of every control, and of the dimensions. For the latter, each
        choice of the frozen layers is combined with each choice of the other dimensions, and all weights have
        their highest values.

        Raises:
            UserError: a configuration is invalid.
        """
        yield "params.yaml", params
        for name, values in self.controls.items():
            where = f"{self.file}: controls.{name}"
            yield where, params.with_values(values, where=where)
        ends = {
            path: self.values_at_ends(path) for path in self.dimensions if path.startswith(("regularizer.", "model."))
        }
        highest = {path: values[-1] for path, values in ends.items()}
        # Layers that a regulariser reads may be frozen with any value of the other dimensions.
        for frozen in ends.get("model.freeze", [None]):
            fixed = highest if frozen is None else {**highest, "model.freeze": frozen}
            for path, there in ends.items():
                for value in there if "choices" in self.dimensions[path] else there[-1:]:
                    yield self.file, params.with_values({**fixed, path: value}, where=self.file)

    def values_outside(self, values: Values) -> list[str]:
        """Returns the mistakes of values as a point of this space, complete or partial, in words; an empty list
        if there are none.
        """
        problems = [
            f"{quote_name(str(path))}: no dimension of {self.file}; its dimensions: {', '.join(self.dimensions)}"
            for path in values
            if path not in self.dimensions
        ]
        for path, distribution in self.distributions().items():
            if path in values and not holds(distribution, choice_label(values[path])):
                given, allowed = given_words(values[path]), describe_allowed(distribution)
                problems.append(f"{path}: {given}; {self.file} allows {allowed}")
        return problems

    def recipe(self) -> "SearchSpace":
        """Returns the space without the regulariser's parameters, over which a control can be tuned."""
        return replace(
            self,
            dimensions={path: spec for path, spec in self.dimensions.items() if not path.startswith("regularizer.")},
        )

    def content(self) -> dict[str, Any]:
        """Returns the space's part in the fingerprint, without the file's name and comments."""
        return {"parameters": dict(self.dimensions), "controls": dict(self.controls)}


def load_space(path: Path, params: Params, *, shown_as: str) -> SearchSpace:
    """Reads a space and checks it against the parameters.

    Args:
        path: The space's file.
        params: All parameters.
        shown_as: Name of the file in messages.

    Raises:
        UserError: names every mistake of the file, each with its path, the value given and the values allowed.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{shown_as}: a mapping with `parameters` and `controls` is needed.")
    problems = [
        f"unknown key {format_value(key)}; known: parameters, controls"
        for key in content
        if key not in ("parameters", "controls")
    ]
    dimensions, controls = content.get("parameters"), content.get("controls")
    if not isinstance(dimensions, dict) or not dimensions:
        problems.append("`parameters` must name at least one parameter that varies")
        dimensions = {}
    if not isinstance(controls, dict) or not controls:
        problems.append("`controls` must name at least one configuration that a result is compared with")
        controls = {}
    for name, dimension in dimensions.items():
        found = dimension_problems(str(name), dimension, params)
        problems += [f"{quote_name(str(name))}: {text.removeprefix(f'{name}: ')}" for text in found]
    for name, values in controls.items():
        problems += [f"controls.{quote_name(str(name))}: {text}" for text in control_problems(name, values, params)]
    if problems:
        raise UserError(join_lines(f"{shown_as}: {problem}" for problem in problems))
    return SearchSpace(shown_as, dimensions, controls)

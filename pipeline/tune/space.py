"""Search spaces: a YAML file names what may vary by the parameters' own dotted paths, and the controls.

    parameters:
      regularizer.spatial_entropy.weight: {type: float, low: 0.003, high: 1.0, log: true}
      regularizer.spatial_entropy.layers: {type: categorical, choices: [last, all]}
    controls:
      baseline: {regularizer.spatial_entropy.weight: 0.0}

Types are float and int (low, high, optionally log or step) and categorical (choices). Everything is checked against
`pipeline.config`: names, types, and that both ends of a range are within the parameter's bounds.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.config import Params, parameters, unknown_parameter
from pipeline.config.yaml import read_yaml
from pipeline.errors import IN_LISTS, UserError, comma_words, format_value, join_lines, quote_name, stray_words

TRIAL_NAME = re.compile(r"[tc]\d+")
SEARCHABLE = ("model.", "train.", "regularizer.")
NOT_SEARCHABLE = {"train.epochs": "early stopping compares trials of one planned length"}
KEYS = {"float": {"low", "high", "log", "step"}, "int": {"low", "high", "log", "step"}, "categorical": {"choices"}}
ALL_CHECKED = 1000
"""A range of whole numbers up to this long is checked number by number; of longer ones the ends and the middle."""
MOST_STEPS = 1_000_000
"""What has more steps is searched as well without any, and Optuna cannot count them all."""
CONTROL_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class SearchSpace:
    """A checked space. dimensions: the file's mapping by dotted path. controls: values by path, by control name."""

    file: str
    dimensions: Mapping[str, Mapping[str, Any]]
    controls: Mapping[str, Mapping[str, Any]]

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of each dimension, by dotted path."""
        return {path: _distribution(dimension) for path, dimension in self.dimensions.items()}

    def decode(self, proposed: Mapping[str, Any]) -> dict[str, Any]:
        """Parameter values for what Optuna proposed; a list or mapping among the choices goes as JSON."""
        values = {}
        for path, value in proposed.items():
            choices = self.dimensions[path].get("choices")
            values[path] = value if choices is None else next(c for c in choices if _label(c) == value)
        return values

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `decode`, for the values of the dimensions alone; those that are there."""
        return {
            path: _label(values[path]) if "choices" in dimension else values[path]
            for path, dimension in self.dimensions.items()
            if path in values
        }

    def value_at(self, shares: Sequence[float]) -> dict[str, Any]:
        """Encoded values at a point of the unit cube: shares, in [0, 1), of the way through the dimensions' ranges."""
        distributions = self.distributions()
        return {
            path: _value_at(distribution, float(share))
            for (path, distribution), share in zip(distributions.items(), shares, strict=True)
        }

    def shares(self, values: Mapping[str, Any]) -> list[float]:
        """The inverse of `value_at`, for values by dotted path; of what has steps, the middle of the step."""
        encoded = self.encode(values)
        return [_share_of(distribution, encoded[path]) for path, distribution in self.distributions().items()]

    def size_fraction(self, path: str, value: Any) -> float:
        """Of one encoded value, how far it is through its dimension's range."""
        return _share_of(_distribution(self.dimensions[path]), value)

    def steps(self) -> dict[str, int | None]:
        """How many values each dimension has, by dotted path; None where it is continuous."""
        return {path: _steps(distribution) for path, distribution in self.distributions().items()}

    def size(self) -> int | None:
        """How many configurations there are; None where a dimension is continuous."""
        counts = [count for count in self.steps().values() if count is not None]
        return math.prod(counts) if len(counts) == len(self.dimensions) else None

    def values_at_ends(self, path: str) -> list[Any]:
        """The values of a dimension that a check has to look at: all its choices, or both ends of its range."""
        dimension = self.dimensions[path]
        return list(dimension["choices"]) if "choices" in dimension else [dimension["low"], dimension["high"]]

    def representative_configs(self, params: Params) -> Iterator[tuple[str, Params]]:
        """Yields configurations in which every choice of regulariser and network occurs, with all weights as high as
        they go: those of `params`, of every control, and of the dimensions. Each comes with who asks for it.

        Raises:
            UserError: a configuration is none.
        """
        yield "params.yaml", params
        for name, values in self.controls.items():
            where = f"{self.file}: controls.{name}"
            yield where, params.with_values(values, where=where)
        ends = {
            path: self.values_at_ends(path) for path in self.dimensions if path.startswith(("regularizer.", "model."))
        }
        highest = {path: values[-1] for path, values in ends.items()}
        for path, there in ends.items():
            for value in there if "choices" in self.dimensions[path] else there[-1:]:
                yield self.file, params.with_values({**highest, path: value}, where=self.file)

    def values_outside(self, values: Mapping[str, Any]) -> list[str]:
        """What is wrong with values as a point of this space, in words; nothing if they are one, or a part of one."""
        problems = [
            f"{quote_name(str(path))}: no dimension of {self.file}; its dimensions: {', '.join(self.dimensions)}"
            for path in values
            if path not in self.dimensions
        ]
        for path, distribution in self.distributions().items():
            if path in values and not _holds(distribution, _label(values[path])):
                given = f"{format_value(values[path])}{comma_words(values[path])}"
                problems.append(f"{path}: given {given}; {self.file} allows {_allowed(distribution)}")
        return problems

    def recipe(self) -> "SearchSpace":
        """What is left of the space without the regulariser's parameters: what a control can be tuned over."""
        return replace(
            self,
            dimensions={path: spec for path, spec in self.dimensions.items() if not path.startswith("regularizer.")},
        )

    def content(self) -> dict[str, Any]:
        """What the space is, for the fingerprint: without the file's name and comments."""
        return {"parameters": dict(self.dimensions), "controls": dict(self.controls)}


def load_space(path: Path, params: Params, *, shown_as: str) -> SearchSpace:
    """Read a space and check it against the parameters.

    Raises:
        UserError: every mistake of the file at once, each with its path, what was given and what is allowed.
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
        found = _dimension_problems(str(name), dimension, params)
        problems += [f"{quote_name(str(name))}: {text.removeprefix(f'{name}: ')}" for text in found]
    for name, values in controls.items():
        problems += [f"controls.{quote_name(str(name))}: {text}" for text in _control_problems(name, values, params)]
    if problems:
        raise UserError(join_lines(f"{shown_as}: {problem}" for problem in problems))
    return SearchSpace(shown_as, dimensions, controls)


def _dimension_problems(path: str, dimension: Any, params: Params) -> list[str]:
    if path not in parameters():
        return [unknown_parameter(path)]
    if not path.startswith(SEARCHABLE):
        return [f"cannot be searched; only parameters of {', '.join(part[:-1] for part in SEARCHABLE)} can"]
    if path in NOT_SEARCHABLE:
        return [f"cannot be searched: {NOT_SEARCHABLE[path]}"]
    if not isinstance(dimension, dict) or dimension.get("type") not in list(KEYS):
        return [f"given {format_value(dimension)}; needed: a mapping with type: one of {', '.join(KEYS)}"]
    kind = dimension["type"]
    known = ", ".join(sorted(KEYS[kind]))
    problems = [
        f"unknown key {format_value(key)} of a {kind} dimension{stray_words(key, value)}; known: {known}"
        for key, value in dimension.items()
        if key not in KEYS[kind] | {"type"}
    ]
    return problems or (_choice_problems if kind == "categorical" else _range_problems)(path, dimension, params)


def _range_problems(path: str, dimension: Mapping[str, Any], params: Params) -> list[str]:
    number = (int,) if dimension["type"] == "int" else (int, float)
    for key in ("low", "high"):
        if not isinstance(dimension.get(key), number) or isinstance(dimension.get(key), bool):
            given = f"{format_value(dimension.get(key))}{comma_words(dimension.get(key))}"
            return [f"{key}: given {given}; needed: a {'whole ' * (number == (int,))}number"]
    low, high, step = dimension["low"], dimension["high"], dimension.get("step")
    if not low < high:
        return [f"low {low} must be below high {high}"]
    log = dimension.get("log", False)
    if not isinstance(log, bool):
        return [f"log: given {format_value(log)}; allowed: true or false"]
    if log and low <= 0:
        return [f"low {low} must be above 0 on a log scale; give 0 as a control instead"]
    if step is not None:
        # 0.3 - 0.1 is a little less than 0.2; what steps do not end at is told below.
        fits = isinstance(step, number) and not isinstance(step, bool) and 0 < step <= (high - low) * (1 + 1e-9)
        fits = fits and (high - low) / step <= MOST_STEPS
        if log or not fits:
            allowed = f"a number above 0, within the range and at most {MOST_STEPS:,} times in it, and not with log"
            return [f"step: given {format_value(step)}{comma_words(step)}; allowed: {allowed}"]
        rest = (Fraction(str(high)) - Fraction(str(low))) % Fraction(str(step))
        if rest:  # Optuna would lower `high` by itself, and only warn
            last = float(Fraction(str(high)) - rest)
            return [f"step: steps of {step} from {low} end at {last:g}, not at high {high}; give one that does"]
    if dimension["type"] == "float":
        return _value_problems(path, [low, low / 2 + high / 2, high], params)
    inside = [low, (low + high) // 2, high] if high - low > ALL_CHECKED else range(low, high + 1, step or 1)
    return _value_problems(path, inside, params)


def _choice_problems(path: str, dimension: Mapping[str, Any], params: Params) -> list[str]:
    choices = dimension.get("choices")
    if not isinstance(choices, list) or len(choices) < 2:
        return [f"choices: given {format_value(choices)}; needed: a list of at least two values"]
    # What is no value of the parameter may also be nothing that can be compared, such as a list that holds itself.
    hint = IN_LISTS if _may_be_split(path, choices) else ""
    problems = [f"{problem}{hint}" for problem in _value_problems(path, choices, params)]
    if not problems and len({_label(choice) for choice in choices}) < len(choices):
        return [f"choices: a value stands there twice{hint}"]
    if not problems and hint and len(choices) % 2 == 0 and choices not in (sorted(choices), sorted(choices)[::-1]):
        return [f"choices: given {format_value(choices)}{hint}; if whole numbers are meant, write them in order"]
    return problems


def _may_be_split(path: str, choices: Sequence[Any]) -> bool:
    """Whether decimal commas may have made these choices: whole numbers, of a parameter that takes others."""
    annotation = parameters()[path].annotation
    takes_fractions = float in (annotation, *get_args(annotation))
    return takes_fractions and all(isinstance(each, int) and not isinstance(each, bool) for each in choices)


def _control_problems(name: Any, values: Any, params: Params) -> list[str]:
    if not isinstance(name, str) or not CONTROL_NAME.fullmatch(name) or name == "best" or TRIAL_NAME.fullmatch(name):
        return ["a control's name is lower-case letters, digits and _, begins with a letter, and not `best` or `t0001`"]
    if not isinstance(values, dict):
        return [f"given {format_value(values)}; needed: a mapping of parameters to values"]
    problems = []
    for path, value in values.items():
        if not str(path).startswith(SEARCHABLE) and path in parameters():
            problems.append(f"{path} cannot be set by a control; only model, train and regularizer can")
        elif path in NOT_SEARCHABLE:
            problems.append(f"{path}: cannot be set by a control: {NOT_SEARCHABLE[path]}")
        else:
            hint = stray_words(path, value)
            problems += [f"{problem}{hint}" for problem in _value_problems(str(path), [value], params)]
    return problems


def _value_problems(path: str, values: Iterable[Any], params: Params) -> list[str]:
    problems: dict[str, None] = {}
    for value in values:
        try:
            params.with_values({path: value}, where="")
        except UserError as error:
            problems |= dict.fromkeys(line.removeprefix(": ") for line in str(error).splitlines())
    # Of a range that is wrong throughout, the two ends say it.
    return list(problems) if len(problems) <= 2 else [next(iter(problems)), list(problems)[-1]]


def _label(choice: Any) -> Any:
    return json.dumps(choice, sort_keys=True, default=str) if isinstance(choice, list | dict) else choice


def _distribution(dimension: Mapping[str, Any]) -> BaseDistribution:
    if dimension["type"] == "categorical":
        return CategoricalDistribution([_label(choice) for choice in dimension["choices"]])
    log, step = dimension.get("log", False), dimension.get("step")
    if dimension["type"] == "int":
        return IntDistribution(dimension["low"], dimension["high"], log=log, step=step or 1)
    return FloatDistribution(float(dimension["low"]), float(dimension["high"]), log=log, step=step)


def _steps(distribution: Any) -> int | None:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if distribution.step is None:
        return None
    return int((distribution.high - distribution.low) / distribution.step + 0.5) + 1


def _value_at(distribution: Any, share: float) -> Any:
    count = _steps(distribution)
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


def _share_of(distribution: Any, value: Any) -> float:
    count = _steps(distribution)
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


def _holds(distribution: Any, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        # 1 == 1.0 == True, but only one of them is what was meant.
        return any(type(choice) is type(value) and choice == value for choice in distribution.choices)
    number = (int,) if isinstance(distribution, IntDistribution) else (int, float)
    return isinstance(value, number) and not isinstance(value, bool) and bool(distribution._contains(value))


def _allowed(distribution: Any) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    steps = "" if distribution.step in (None, 1) else f" in steps of {distribution.step:g}"
    return f"{distribution.low:g} to {distribution.high:g}{steps}"

"""Checks of a search-space file's parameters and controls: each mistake is one line of text."""

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, cast, get_args

from pipeline.config import Params, parameters, unknown_parameter
from pipeline.errors import IN_LISTS, UserError, format_value, stray_words
from pipeline.tune.dimension import Dimension, choice_label
from pipeline.tune.prior_check import given_words, prior_problems

TRIAL_NAME = re.compile(r"[tc]\d+")
SEARCHABLE = ("model.", "train.", "regularizer.")
NOT_SEARCHABLE = {
    "train.epochs": "early stopping compares trials of one planned length",
    **dict.fromkeys(
        ("regularizer.locality_guidance.guide_depth", "regularizer.locality_guidance.guide_epochs"),
        "a search trains one guide, before its trials",
    ),
}
_RANGE_KEYS = {"low", "high", "log", "step", "prior"}
KEYS = {"float": _RANGE_KEYS, "int": _RANGE_KEYS, "categorical": {"choices", "prior"}}
ALL_CHECKED = 1000
"""Largest size of a range of whole numbers that is checked number by number; for larger ones, the ends and the middle.
"""
MOST_STEPS = 1_000_000
"""Largest number of steps. A finer range can be searched without steps as well, and Optuna cannot count its steps."""
CONTROL_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def dimension_problems(path: str, dimension: Any, params: Params) -> list[str]:
    """Returns the mistakes of a dimension in words; an empty list if it can be searched.

    Args:
        path: The parameter's dotted path.
        dimension: The file's entry; may be anything that YAML can hold.
        params: All parameters, with which values are checked.
    """
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
    checked = cast("Dimension", dimension)
    problems = problems or (_choice_problems if kind == "categorical" else _range_problems)(path, checked, params)
    return problems or prior_problems(checked)


def _range_problems(path: str, dimension: Dimension, params: Params) -> list[str]:
    """Returns the mistakes of a range of numbers in words.

    Args:
        path: The parameter's dotted path.
        dimension: The dimension, of type `float` or `int`.
        params: All parameters, with which values are checked.
    """
    number = (int,) if dimension["type"] == "int" else (int, float)
    for key in ("low", "high"):
        if not isinstance(dimension.get(key), number) or isinstance(dimension.get(key), bool):
            return [f"{key}: {given_words(dimension.get(key))}; needed: a {'whole ' * (number == (int,))}number"]
    low, high, step = dimension["low"], dimension["high"], dimension.get("step")
    if not low < high:
        return [f"low {low} must be below high {high}"]
    log = dimension.get("log", False)
    if not isinstance(log, bool):
        return [f"log: given {format_value(log)}; allowed: true or false"]
    if log and low <= 0:
        return [f"low {low} must be above 0 on a log scale; give 0 as a control instead"]
    if step is not None:
        # The tolerance is for rounding: 0.3 - 0.1 is a little less than 0.2. That steps end at `high` is checked below.
        fits = isinstance(step, number) and not isinstance(step, bool) and 0 < step <= (high - low) * (1 + 1e-9)
        fits = fits and (high - low) / step <= MOST_STEPS
        if log:
            return [f"step: {given_words(step)}, but a step cannot be combined with log: true; leave out one of them"]
        if not fits:
            allowed = f"a number above 0 that divides the range into 1 to {MOST_STEPS:,} steps"
            return [f"step: {given_words(step)}; allowed: {allowed}"]
        rest = (Fraction(str(high)) - Fraction(str(low))) % Fraction(str(step))
        if rest:  # Optuna would lower `high` on its own, with no more than a warning
            last = float(Fraction(str(high)) - rest)
            return [f"step: steps of {step} from {low} end at {last:g}, not at high {high}; give one that does"]
    if dimension["type"] == "float":
        return _value_problems(path, [low, low / 2 + high / 2, high], params)
    inside = [low, (low + high) // 2, high] if high - low > ALL_CHECKED else range(low, high + 1, step or 1)
    return _value_problems(path, inside, params)


def _choice_problems(path: str, dimension: Dimension, params: Params) -> list[str]:
    """Returns the mistakes of a categorical dimension in words.

    Args:
        path: The parameter's dotted path.
        dimension: The dimension.
        params: All parameters, with which values are checked.
    """
    choices = dimension.get("choices")
    if not isinstance(choices, list) or len(choices) < 2:
        return [f"choices: given {format_value(choices)}; needed: a list of at least two values"]
    # Values are checked before choices are compared: an invalid one may not be comparable, such as a list that contains
    # itself.
    hint = IN_LISTS if _may_be_split(path, choices) else ""
    problems = [f"{problem}{hint}" for problem in _value_problems(path, choices, params)]
    if not problems and len({choice_label(choice) for choice in choices}) < len(choices):
        return [f"choices: contains a value twice{hint}"]
    if not problems and hint and len(choices) % 2 == 0 and choices not in (sorted(choices), sorted(choices)[::-1]):
        return [f"choices: given {format_value(choices)}{hint}; if whole numbers are meant, write them in order"]
    return problems


def _may_be_split(path: str, choices: Sequence[Any]) -> bool:
    """Returns whether decimal commas may have split the choices: whole numbers, where fractions are allowed."""
    annotation = parameters()[path].annotation
    takes_fractions = float in (annotation, *get_args(annotation))
    return takes_fractions and all(isinstance(each, int) and not isinstance(each, bool) for each in choices)


def control_problems(name: Any, values: Any, params: Params) -> list[str]:
    """Returns the mistakes of a control in words; an empty list if there are none.

    Args:
        name: The control's name; may be anything that YAML can hold.
        values: The file's entry; may be anything that YAML can hold.
        params: All parameters, with which values are checked.
    """
    if not isinstance(name, str) or not CONTROL_NAME.fullmatch(name) or name == "best" or TRIAL_NAME.fullmatch(name):
        return [
            "a control's name must consist of lower-case letters, digits and _, begin with a letter, and not be "
            "`best` or a trial's name (`t0001`)"
        ]
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
    """Returns the mistakes of several values of one parameter, each mistake once, at most two.

    Args:
        path: The parameter's dotted path.
        values: The values, in order.
        params: All parameters, with which values are checked.
    """
    problems: dict[str, None] = {}
    for value in values:
        try:
            params.with_values({path: value}, where="")
        except UserError as error:
            problems |= dict.fromkeys(line.removeprefix(": ") for line in str(error).splitlines())
    # If a whole range is wrong, the mistakes at its two ends are enough.
    return list(problems) if len(problems) <= 2 else [next(iter(problems)), list(problems)[-1]]

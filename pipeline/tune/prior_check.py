"""Checks of a dimension's `prior` in a search-space file: each mistake is one line of text.

A dimension of numbers has one of

    {center: 0.01, spread: 3}      normal around a value of the range; on a log scale, `spread` is a factor
    {normal: [mean, sd]}           normal in the parameter's unit, also where the range is on a log scale
    {lognormal: [median, factor]}  normal in the logarithm, log(factor) its standard deviation; the range is above 0
    {beta: [a, b]}                 a beta distribution over the range, on a log scale where that is on one

all truncated to the range. A categorical dimension has one of

    {center: last, weight: 0.6}              the probability of a choice; the others share the rest
    {probabilities: {last: 0.6, all: 0.3}}   of several

`pipeline.tune.study.prior` turns them into densities.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import IN_LISTS, comma_words, format_value, stray_words
from pipeline.tune.dimension import Dimension, DimensionPrior, choice_label, describe_allowed, distribution_of, holds

FORMS = {"center": "spread", "normal": None, "lognormal": None, "beta": None}
"""Forms of a prior of numbers, each with the key that may stand beside it."""
CATEGORICAL_FORMS = {"center": "weight", "probabilities": None}
"""Forms of a prior of choices, each with the key that may stand beside it."""
BETA_BOUNDS = 1, 1000
"""Bounds of a and b. Below 1 the density is unbounded at an end of the range; above 1000 it is almost a point."""
ROUNDING = 1e-6
"""Largest distance from 1 of the sum of all choices' probabilities."""


def prior_problems(dimension: Dimension) -> list[str]:
    """Returns the mistakes of a dimension's prior in words; an empty list if there are none.

    Everything else about the dimension must have been checked before.
    """
    if "prior" not in dimension:
        return []
    prior, categorical = dimension["prior"], dimension["type"] == "categorical"
    forms = CATEGORICAL_FORMS if categorical else FORMS
    if not isinstance(prior, dict):
        return [f"prior: {given_words(prior)}; needed: a mapping with {_one_of(forms)}"]
    known = [key for form, beside in forms.items() for key in (form, beside) if key]
    unknown = [
        f"prior: unknown key {format_value(key)} for a {dimension['type']} parameter{stray_words(key, value)}; "
        f"known: {', '.join(known)}"
        for key, value in prior.items()
        if key not in known
    ]
    if unknown:
        return unknown
    given = [form for form in forms if form in prior]
    if len(given) != 1:
        return [f"prior: given {format_value(prior)}; needed: {_one_of(forms)}"]
    (form,) = given
    stray = [key for key in prior if key not in (form, forms[form])]
    if stray:
        return [f"prior: {stray[0]} goes with center, not with {form}"]
    problems = (_choice_problems if categorical else _number_problems)(form, prior, dimension)
    return [f"prior: {problem}" for problem in problems]


def find_choice(choices: Sequence[Any], given: Any) -> int | None:
    """Returns the index of a choice, or None. A list or mapping may be given as JSON, since it cannot be a
    mapping's key.
    """
    for place, choice in enumerate(choices):
        # In Python 1 == 1.0 == True, but they are different choices.
        if type(choice) is type(given) and choice == given:
            return place
        if isinstance(choice, list | dict) and isinstance(given, str) and choice_label(choice) == given:
            return place
    return None


def _one_of(forms: Mapping[str, str | None]) -> str:
    named = [f"{form} (and {beside})" if beside else form for form, beside in forms.items()]
    return f"one of {', '.join(named)}"


def _number_problems(form: str, prior: DimensionPrior, dimension: Dimension) -> list[str]:
    """Returns the mistakes of a prior of numbers in words.

    Args:
        form: The form, one of `FORMS`.
        prior: The prior.
        dimension: The dimension.
    """
    distribution: Any = distribution_of(dimension)
    given = prior[form]
    if form == "center":
        problems = []
        if not _is_number(given) or not holds(distribution, given):
            problems = [f"center: {given_words(given)}; allowed: {describe_allowed(distribution)}"]
        if "spread" in prior:
            problems += _sd_problems("spread", prior["spread"], factor=distribution.log)
        return problems
    if not isinstance(given, list) or len(given) != 2 or not all(map(_is_number, given)):
        words = {"normal": "mean, standard deviation", "lognormal": "median, factor", "beta": "a, b"}
        hint = IN_LISTS if isinstance(given, list) and len(given) > 2 and all(map(_is_number, given)) else ""
        return [f"{form}: given {format_value(given)}{hint}; needed: two numbers, [{words[form]}]"]
    if form == "beta":
        least, most = BETA_BOUNDS
        inside = all(least <= each <= most for each in given)
        return [] if inside else [f"beta: given {format_value(given)}; allowed: two numbers from {least} to {most}"]
    middle, sd = given
    if form == "lognormal" and distribution.low <= 0:
        return [f"lognormal: low {distribution.low:g} must be above 0 for it; take normal, center or beta"]
    factor = form == "lognormal"
    problems = []
    if not distribution.low <= middle <= distribution.high:
        ends = f"{distribution.low:g} to {distribution.high:g}"
        problems = [f"{form}: {'median' if factor else 'mean'}: given {format_value(middle)}; allowed: {ends}"]
    return problems + _sd_problems(f"{form}: {'factor' if factor else 'standard deviation'}", sd, factor=factor)


def _sd_problems(name: str, sd: Any, *, factor: bool) -> list[str]:
    """Returns the mistakes of a standard deviation in words.

    Args:
        name: Name of the value, for the message.
        sd: The value given.
        factor: Whether it is a factor, for a normal density of the logarithm.
    """
    if _is_number(sd) and sd > (1 if factor else 0):
        return []
    allowed = "a factor above 1, such as 2 for twice or half" if factor else "a number above 0, in the parameter's unit"
    return [f"{name}: {given_words(sd)}; allowed: {allowed}"]


def _choice_problems(form: str, prior: DimensionPrior, dimension: Dimension) -> list[str]:
    """Returns the mistakes of a prior of choices in words.

    Args:
        form: The form, one of `CATEGORICAL_FORMS`.
        prior: The prior.
        dimension: The dimension.
    """
    choices, given = dimension["choices"], prior[form]
    named = describe_allowed(distribution_of(dimension))
    if form == "center":
        problems = []
        if find_choice(choices, given) is None:
            problems = [f"center: {given_words(given)}; allowed: {named}"]
        weight = prior.get("weight", 0.5)
        if not _is_number(weight) or not 0 < weight < 1:
            problems += [f"weight: {given_words(weight)}; allowed: a probability above 0 and below 1"]
        return problems
    if not isinstance(given, dict) or not given:
        return [f"probabilities: {given_words(given)}; needed: a mapping of choices to probabilities"]
    problems = [
        f"probabilities: given {format_value(choice)}{stray_words(choice, value)}; the choices: {named}"
        for choice, value in given.items()
        if find_choice(choices, choice) is None
    ]
    problems += [
        f"probabilities: {format_value(choice)}: {given_words(value)}; allowed: a probability above 0 and below 1"
        for choice, value in given.items()
        if not _is_number(value) or not 0 < value < 1
    ]
    if problems:
        return problems
    total = math.fsum(given.values())
    all_named = len({find_choice(choices, choice) for choice in given}) == len(choices)
    if all_named and abs(total - 1) > ROUNDING:
        return [f"probabilities: they add up to {total:g}; needed: 1, where every choice has one"]
    if not all_named and total > 1 - ROUNDING:
        return [f"probabilities: they add up to {total:g}, which leaves nothing for the other choices; needed: below 1"]
    return []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def given_words(value: Any) -> str:
    """Returns the words for a value in a message on a mistake."""
    return f"given {format_value(value)}{comma_words(value)}"

"""Error messages about a wrong parameter: its path, the given value, the allowed values, the nearest valid name."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from functools import reduce
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pipeline.config.schema.result_sections import SHARE_MARGIN_LIMIT
from pipeline.errors import comma_words, format_value, quote_name, stray_words


def unknown_key_message(path: str, valid: list[str]) -> str:
    """Returns the error message for a path that is no parameter, with the nearest parameter.

    Args:
        path: Dotted path.
        valid: Dotted paths of all parameters.
    """
    if any(name.startswith(path + ".") for name in valid):
        below = [name for name in valid if name.startswith(path + ".")]
        return f"{path} is a group, not a parameter; it holds {', '.join(below)}"
    nearest = _nearest(path, valid)
    return f"unknown parameter {quote_name(path)}" + (f"; did you mean {nearest}?" if nearest else "")


def _nearest(path: str, valid: list[str]) -> str | None:
    # Usually only the last part of the path has a typo. It is first compared with the other names of its section.
    parent, _, leaf = path.rpartition(".")
    names = [*valid, *dict.fromkeys(part for name in valid for part in _prefixes(name))]
    siblings = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == parent}
    if close := difflib.get_close_matches(leaf, siblings, n=1):
        return siblings[close[0]]
    # Otherwise the section may be wrong. Whole paths are compared only if the section does not exist, because all
    # paths of an existing section resemble each other.
    elsewhere = [name for name in names if name.rpartition(".")[2] == leaf]
    if len(elsewhere) == 1:
        return elsewhere[0]
    close = [] if parent and siblings else difflib.get_close_matches(path, names, n=1, cutoff=0.75)
    return close[0] if close else None


def _prefixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


_TYPES = {"int_type": "a whole number", "float_type": "a number", "string_type": "text", "bool_type": "true or false"}
_TYPES |= {"dict_type": "a mapping", "model_type": "a mapping of names to values", "list_type": "a list"}


def explain(problem: ErrorDetails, tree: Any, valid: Mapping[str, FieldInfo]) -> str:
    """Returns a line about one mistake: dotted path, given value, allowed values.

    Args:
        problem: An error of pydantic.
        tree: The content that was validated.
        valid: Parameters by dotted path.
    """
    path = dotted_path(problem["loc"], valid)
    kind, given = problem["type"], problem["input"]
    if path in valid:
        given = tree
        for key in path.split("."):
            given = given[key]
        inside = problem["loc"][path.count(".") + 1 :]
        if inside and isinstance(given, Mapping) and inside[0] in given:
            given = {inside[0]: given[inside[0]]}
    if kind == "extra_forbidden":
        return unknown_key_message(path, list(valid))
    if kind == "invalid_key" and path not in valid:
        above = problem["loc"][:-1]
        beside = reduce(lambda mapping, part: mapping[part], above, tree)
        return unknown_key_message(".".join([*map(str, above), format_value(given)]), list(valid)) + stray_words(
            given, beside.get(given)
        )
    if not path:
        return f"a mapping of sections is needed, given {format_value(given)}"
    if kind == "value_error":
        return f"{path}: given {format_value(given)}; {problem['msg'].removeprefix('Value error, ')}"
    field = valid.get(path)
    allowed = allowed_values(field) if field else _TYPES.get(kind, problem["msg"])
    percent = percent_words(given) if field and _is_share(field) else ""
    return f"{path}: given {format_value(given)}{comma_words(given)}; allowed: {allowed}{percent}"


def percent_words(given: Any) -> str:
    """Returns how a number of percent is written as a share of 1, to follow an error message; "" for other values.

    Args:
        given: The value that was refused.
    """
    if isinstance(given, bool) or not isinstance(given, int | float) or not 2 <= given <= 100:
        return ""
    return f"; a share of 1 is needed: for {given:g} % write {given / 100:g}"


def share_margin_words(path: str, margin: float, metric: str) -> str:
    """Returns the error message for a margin of a share that is too wide, as of somebody who meant points.

    Args:
        path: Dotted path of the parameter.
        margin: Its value.
        metric: Metric to which it belongs, in words.
    """
    return (
        f"{path}: given {margin:g}; {metric} is a share of 1, so this means {100 * margin:g} points; needed: below "
        f"{SHARE_MARGIN_LIMIT}. One point is 0.01; for {margin:g} points write {margin / 100:g}"
    )


def _is_share(field: FieldInfo) -> bool:
    limits = [getattr(item, key, None) for item in field.metadata for key in ("le", "lt")]
    return any(limit is not None and limit <= 1 for limit in limits)


def dotted_path(location: tuple[int | str, ...], valid: Collection[str]) -> str:
    """Returns the dotted path of a parameter in pydantic's location, without union members and list indices at its
    end.
    """
    for end in range(len(location), 0, -1):
        path = ".".join(str(part) for part in location[:end])
        if path in valid:
            return path
    return ".".join(str(part) for part in location)


def allowed_values(field: FieldInfo) -> str:
    """Describes the allowed values of a parameter: its type and bounds.

    Args:
        field: Definition of the parameter.
    """
    return _type_in_words(field.annotation) + _bounds_in_words(field.metadata)


def _bounds_in_words(metadata: Iterable[Any]) -> str:
    bounds = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "length at least"}
    bounds |= {"max_length": "length at most"}
    limits = [f"{word} {getattr(item, key)}" for item in metadata for key, word in bounds.items()
              if getattr(item, key, None) is not None]  # fmt: skip
    return ", " + " and ".join(limits) if limits else ""


def _type_in_words(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        of, *about = get_args(annotation)
        # The bounds of a single member of a union are part of this member's annotation.
        bounds = [item for field in about if isinstance(field, FieldInfo) for item in field.metadata]
        return _type_in_words(of) + _bounds_in_words(bounds)
    if get_origin(annotation) is Literal:
        choices = [str(choice) for choice in get_args(annotation)]
        return "one of " * (len(choices) > 1) + ", ".join(choices)
    if get_origin(annotation) in (Union, UnionType):
        # A mapping comes last, because its description is long.
        parts = sorted(get_args(annotation), key=_is_mapping)
        return " or ".join(_type_in_words(part) for part in parts)
    if get_origin(annotation) is list:
        (of,) = get_args(annotation)
        if get_origin(of) is Literal:
            return "a list of some of " + ", ".join(str(choice) for choice in get_args(of))
        return "a list of " + _type_in_words(of) + "s"
    if _is_mapping(annotation):
        _, of = get_args(annotation)
        if get_origin(of) is Annotated:
            return f"a mapping of names (in quotes where they are numbers), each to a {_type_in_words(of)}"
        return "a mapping of names to plain values (finite numbers, text, true, false, null, lists of whole numbers)"
    words = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "null"}
    return words.get(annotation, str(annotation))


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict

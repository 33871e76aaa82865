"""Results of which a test says what matters to it; everything else is filled in with nothing: 0, "", none of it."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pipeline.artifacts.stage_results import Record

R = TypeVar("R", bound=Record)


def filled(kind: type[R], **given: Any) -> R:
    """A record of what is given, in the form that its file has, and of nothing else."""
    return kind.model_validate(filled_content(kind, given))


def filled_content(kind: type[Record], given: Mapping[str, Any]) -> dict[str, Any]:
    """The same as its file has it."""
    needed = {name: field.annotation for name, field in kind.model_fields.items()}
    required = {name for name, field in kind.model_fields.items() if field.is_required()}
    return _fill(given, needed, required)


def _fill(given: Mapping[str, Any], kinds: Mapping[str, Any], required: set[str]) -> dict[str, Any]:
    found = {name: _value(kinds[name], given[name]) if name in kinds else given[name] for name in given}
    return found | {name: _nothing(kinds[name]) for name in kinds if name in required and name not in given}


def _value(kind: Any, given: Any) -> Any:
    """What is given, filled in where it is a mapping of fewer keys than its kind needs."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, Union):
        records = [part for part in parts if _is_record(part)]
        return _value(records[0], given) if records and isinstance(given, Mapping) else given
    if _is_record(kind) and isinstance(given, Mapping):
        return _fill_dataclass(kind, given) if is_dataclass(kind) else filled_content(kind, given)
    if origin is not None and issubclass(origin, Mapping) and isinstance(given, Mapping):
        return {key: _value(parts[1], each) for key, each in given.items()}
    if origin is not None and issubclass(origin, Sequence) and isinstance(given, list | tuple):
        return [_value(parts[0], each) for each in given]
    return given


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, Record))


def _fill_dataclass(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    required = {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}
    return _fill(given, get_type_hints(kind), required)


def _nothing(kind: Any) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, Union):
        return None if types.NoneType in parts else _nothing(parts[0])
    if _is_record(kind):
        return _value(kind, {})
    if origin is tuple:
        return [_nothing(part) for part in parts]
    return (
        origin() if isinstance(origin, type) and origin in (list, dict) else {} if _is_mapping(origin) else _plain(kind)
    )


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _plain(kind: Any) -> Any:
    if kind in (str, int, float, bool):
        return kind()
    return None if kind is Any else []

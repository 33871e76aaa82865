"""Errors that the user must fix, with their exit status, and functions that keep their messages short.

Every folder of `pipeline/` may raise these errors. Only `pipeline.cli` and `pipeline.stages` turn them into a
message and an exit status, so that a user's mistake never shows a traceback. Values that a user wrote may be of any
size. `format_value`, `quote_name` and `join_lines` limit their length in messages.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+([eE][+-]?[0-9]+)?")

IN_LISTS = " (within [ ] a comma ends a value; write a decimal point, as in 0.01)"
"""Advice for a list that decimal commas have split."""


class UserError(Exception):
    """Something that the user must change. The message says what is wrong, where, and what to do next."""

    exit_code = 2


class GateRefused(UserError):
    """The promotion gate rejected the challenger. The registry is unchanged."""

    exit_code = 3


def single_item_command(*stages: str) -> str:
    """Returns the command that runs only these stages again.

    Without `--single-item`, a forced DVC would also run all earlier stages: trainings, and perhaps a look at the test
    images.

    Args:
        stages: Names of the stages.
    """
    return f"dvc repro --single-item --force {' '.join(stages)}"


def format_value(value: Any, longest: int = 80) -> str:
    """Returns a value of a YAML file on one line, shortened if necessary.

    Args:
        value: The value, of any size and depth.
        longest: Most characters of the line.
    """
    text = repr(value[:longest]) if isinstance(value, str) else _rendered(value, longest)
    # The inner rendering stops near the limit. A text that was cut lacks its end and its closing quote.
    return truncate(text, longest)


def comma_words(value: Any) -> str:
    """Returns a remark on a decimal comma in a value; "" if there is none.

    The value is a text such as "0,01", or a mapping with such a text or with a number that the comma has split.

    Args:
        value: The value that a user gave.
    """
    if isinstance(value, Mapping):
        return next((words for key, item in value.items() if (words := stray_words(key, item) or _within(item))), "")
    if not isinstance(value, str) or not _COMMA.fullmatch(value.strip()):
        return ""
    return f" (a decimal comma; write {truncate(value.strip().replace(',', '.'), 40)}, with a point)"


def _within(item: Any) -> str:
    """Returns the remark on a text, or on a mapping within a mapping, such as a point among `search.points`.

    Deeper levels are not examined, because YAML's aliases allow values without end.
    """
    if isinstance(item, str):
        return comma_words(item)
    if not isinstance(item, Mapping):
        return ""
    return next((words for key, value in item.items() if (words := stray_words(key, value))), "")


def stray_words(key: Any, value: Any) -> str:
    """Returns a remark on a key that consists of the digits after a decimal comma within braces; "" for other keys.

    YAML reads `{low: 1,5e-3}` as `{low: 1, 0.005: null}`. So such a key is a number and has no value.

    Args:
        key: Key of a mapping.
        value: Its value.
    """
    number = isinstance(key, int | float) and not isinstance(key, bool)
    return " (within { } a comma ends a value; write a decimal point, as in 0.01)" if number and value is None else ""


def truncate(text: str, longest: int) -> str:
    """Returns a text, shortened at its end if necessary.

    Args:
        text: The text.
        longest: Most characters of the result.
    """
    return text if len(text) <= longest else text[: longest - 3] + "..."


def quote_name(path: str, longest: int = 120) -> str:
    """Returns a name that a user gave, unchanged if it is readable on one line, else quoted and shortened.

    Args:
        path: The name.
        longest: Most characters of the result.
    """
    return path if path.isprintable() and path == path.strip() and len(path) <= longest else format_value(path, longest)


def list_first(names: Iterable[str], most: int) -> str:
    """Returns the first names of a list, and the number of the others.

    Args:
        names: The names.
        most: Number of names that are listed at most.
    """
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most:,} more" if len(listed) > most else "")


def join_lines(lines: Iterable[str], most: int = 12) -> str:
    """Returns mistakes as one message, a line each. If there are too many, the last line has the number of the
    others.

    Args:
        lines: A line for each mistake.
        most: Most lines of the message.
    """
    listed = list(lines)
    more = [f"and {len(listed) - most + 1:,} more mistakes"] if len(listed) > most else []
    return "\n".join(listed[: most - 1] + more if more else listed)


def _rendered(value: Any, room: int) -> str:
    """Returns a value in a form similar to JSON. Only as much is rendered as fits, because aliases allow values
    without end.
    """
    if room <= 0:
        return "..."
    if isinstance(value, Mapping):
        return "{" + _join((_pair(key, item, room) for key, item in value.items()), room) + "}"
    if isinstance(value, list | tuple | set):
        return "[" + _join((_rendered(item, room - 1) for item in value), room) + "]"
    if isinstance(value, str):
        return json.dumps(value[:room])
    if value is None or isinstance(value, bool | float):
        return json.dumps(value)
    return " ".join(str(value[:room] if isinstance(value, bytes) else value).split())


def _pair(key: Any, value: Any, room: int) -> str:
    """Renders a key and its value.

    Args:
        key: Key of a mapping.
        value: Its value.
        room: Characters that are left.
    """
    name = _rendered(key, room - 1)
    return f"{name}: {_rendered(value, room - len(name) - 2)}"


def _join(parts: Iterable[str], room: int) -> str:
    taken: list[str] = []
    for part in parts:  # rendered one by one, so that parts which do not fit are never rendered
        taken.append(part)
        room -= len(part) + 2
        if room < 0:
            break
    return ", ".join(taken)

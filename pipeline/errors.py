"""What a user must change, said in a few lines, and the exit status that goes with it.

Every room may raise these; only `pipeline.cli` and `pipeline.stages` turn them into a message and an exit status, so
that a user's mistake never shows a traceback. What a user wrote may be of any size: `format_value`, `quote_name` and
`join_lines` keep messages to a few lines all the same.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+([eE][+-]?[0-9]+)?")

IN_LISTS = " (within [ ] a comma ends a value; write a decimal point, as in 0.01)"
"""What to say beside a list that decimal commas have split."""


class UserError(Exception):
    """Something the user must change. The message says what is wrong, where, and what to do next."""

    exit_code = 2


class GateRefused(UserError):
    """A gate said no: nothing is broken, but what was asked for was not done."""

    exit_code = 3


def single_item_command(*stages: str) -> str:
    """What to type to have stages done again, and them alone: forced, DVC would do all that come before them too.

    Those are trainings, and perhaps a look at the test images.
    """
    return f"dvc repro --single-item --force {' '.join(stages)}"


def format_value(value: Any, longest: int = 80) -> str:
    """A value of a YAML file on one line of at most `longest` characters, however long or deep it is."""
    text = repr(value[:longest]) if isinstance(value, str) else _rendered(value, longest)
    # The inner rendering stops at about the right place; a text that was cut has lost its closing quote with its end.
    return truncate(text, longest)


def comma_words(value: Any) -> str:
    """What to say beside a value that was given, if it is a number with a decimal comma, or holds a split one."""
    if isinstance(value, Mapping):
        return next((words for key, item in value.items() if (words := stray_words(key, item) or _within(item))), "")
    if not isinstance(value, str) or not _COMMA.fullmatch(value.strip()):
        return ""
    return f" (a decimal comma; write {truncate(value.strip().replace(',', '.'), 40)}, with a point)"


def _within(item: Any) -> str:
    """Of a mapping in a mapping, such as a point among points, or of a text in it; no deeper, since aliases make some
    that never end.
    """
    if isinstance(item, str):
        return comma_words(item)
    if not isinstance(item, Mapping):
        return ""
    return next((words for key, value in item.items() if (words := stray_words(key, value))), "")


def stray_words(key: Any, value: Any) -> str:
    """What to say beside a key, if it is what follows a decimal comma within braces, which has no value; else nothing.

    After `1,5e-3` it is a small number.
    """
    number = isinstance(key, int | float) and not isinstance(key, bool)
    return " (within { } a comma ends a value; write a decimal point, as in 0.01)" if number and value is None else ""


def truncate(text: str, longest: int) -> str:
    """The beginning of a text that is too long."""
    return text if len(text) <= longest else text[: longest - 3] + "..."


def quote_name(path: str, longest: int = 120) -> str:
    """A name that a user gave, as it is where it can be read on one line, else quoted and shortened."""
    return path if path.isprintable() and path == path.strip() and len(path) <= longest else format_value(path, longest)


def list_first(names: Iterable[str], most: int) -> str:
    """The first of many names, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most:,} more" if len(listed) > most else "")


def join_lines(lines: Iterable[str], most: int = 12) -> str:
    """Mistakes as one message, a line each; of very many the first."""
    listed = list(lines)
    more = [f"and {len(listed) - most + 1:,} more mistakes"] if len(listed) > most else []
    return "\n".join(listed[: most - 1] + more if more else listed)


def _rendered(value: Any, room: int) -> str:
    """JSON, or what comes near it, of no more of a value than fits: aliases make values that hold themselves."""
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
    name = _rendered(key, room - 1)
    return f"{name}: {_rendered(value, room - len(name) - 2)}"


def _join(parts: Iterable[str], room: int) -> str:
    taken: list[str] = []
    for part in parts:  # made one by one, so that what does not fit is never rendered
        taken.append(part)
        room -= len(part) + 2
        if room < 0:
            break
    return ", ".join(taken)

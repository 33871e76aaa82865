"""Formats of what people read: numbers, intervals, sizes, ages, names of configurations, tables."""

import re
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click

from pipeline.errors import truncate

SHORT = {"weight": "w", "threshold": "t"}
"""Abbreviations of the parameters that occur in every name."""
LEFT, RIGHT = "left", "right"
MIN_WIDTH = 8
"""Characters that the shortened column of a table keeps."""


STATE_WORDS = {"complete": "in full", "pruned": "stopped early", "failed": "failed", "infeasible": "infeasible"}
"""Words for the end of a trial, by its state in the journal. `pruned` is Optuna's own word."""


def config_name(values: Mapping[str, Any], *, short: bool = False) -> str:
    """Returns a configuration as a name: `weight=0.012 layers=last`.

    Args:
        values: Values by dotted path.
        short: Whether common parameters are abbreviated: `w=0.012 layers=last`.
    """
    leaves = Counter(path.rpartition(".")[2] for path in values)
    words = []
    for path, value in values.items():
        parent, _, leaf = path.rpartition(".")
        # The method's name distinguishes the weights of two methods.
        method = f"{parent.rpartition('.')[2]}." if leaves[leaf] > 1 else ""
        words.append(f"{method}{SHORT.get(leaf, leaf) if short else leaf}={format_value_short(value)}")
    return " ".join(words)


def format_value_short(value: Any, digits: int = 3) -> str:
    """Returns a value of a configuration.

    Args:
        value: The value, of any type.
        digits: Significant digits of a float.
    """
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def format_count(number: int, noun: str) -> str:
    """Returns a number of things: `1 trial`, `1,200 trials`.

    Args:
        number: How many there are.
        noun: The noun in the singular.
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def format_percent(share: float, digits: int = 1) -> str:
    """Returns a share in percent: `12.3 %`.

    Args:
        share: The share, where 1 is 100 %.
        digits: Digits after the point.
    """
    return f"{100 * share:.{digits}f} %"


def format_level(share: float) -> str:
    """Returns a level of confidence without trailing zeros: `95 %`, `97.5 %`.

    Args:
        share: The level, where 1 is 100 %.
    """
    return f"{100 * share:.4g} %"


def format_points(share: float, digits: int = 1, *, unit: bool = True) -> str:
    """Returns a difference of two shares with its sign: `+1.2 points`.

    Args:
        share: the difference, where 1 is 100 points.
        digits: digits after the point.
        unit: whether the word "points" follows.
    """
    # Adding 0 turns the -0.0 that rounding may leave into 0.0.
    return f"{round(100 * share, digits) + 0.0:+.{digits}f}" + (" points" if unit else "")


def format_interval(low: float, high: float, digits: int = 1) -> str:
    """Returns an interval of differences of shares: `interval -0.3 to +1.2 points`.

    Args:
        low: its lower end, where 1 is 100 points.
        high: its upper end.
        digits: digits after the point.
    """
    return f"interval {format_points(low, digits, unit=False)} to {format_points(high, digits)}"


def format_size(size: float) -> str:
    """Returns a number of bytes in two or three digits: `1.2 MB`.

    Args:
        size: Bytes.
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if size >= 9.95 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_age(seconds: float) -> str:
    """Returns a time in its largest unit: `12 s`, `3 min`, `5 h`, `2 d`.

    Args:
        seconds: The time.
    """
    for unit, longest in (("s", 60), ("min", 60), ("h", 48)):
        if seconds < longest:
            return f"{max(0.0, seconds):.0f} {unit}"
        seconds /= {"s": 60, "min": 60, "h": 24}[unit]
    return f"{seconds:.0f} d"


def format_duration(seconds: float) -> str:
    """Returns a time to the minute: `12 s`, `3 min`, `1 h 23 min`.

    Args:
        seconds: The time.
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_clock(seconds: float) -> str:
    """Returns a time as a clock shows it: `2:40`, `1:02:40`.

    Args:
        seconds: The time.
    """
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def format_time_left(seconds: float) -> str:
    """Returns a remaining time: `about 2:40 left`.

    Args:
        seconds: The time.
    """
    return f"about {format_clock(seconds)} left"


def wrap_text(text: str, width: int = 100, *, name: str = "") -> str:
    """Wraps sentences into lines, broken between words alone.

    Args:
        text: the sentences.
        width: characters of a line at most.
        name: precedes the first line; the other lines are indented by its length.
    """
    return textwrap.fill(
        text,
        width,
        initial_indent=name,
        subsequent_indent=" " * len(name),
        break_long_words=False,
        break_on_hyphens=False,
    )


def fit_lines(text: str) -> str:
    """Wraps lines of a plan, `name      text`, at the width of the terminal; elsewhere they stay as they are.

    The further lines are indented as the text is. Indented lines, such as the rows of a table, keep their indentation.

    Args:
        text: the lines.
    """
    room = _terminal_width()
    if room is None:
        return text
    return "\n".join(_fit_line(line, room) for line in text.splitlines())


def _fit_line(line: str, room: int) -> str:
    if len(line) <= room:
        return line
    begins = re.match(r"\S*\s{2,}|", line)
    start = begins.group() if begins and len(begins.group()) < room // 2 else ""
    return wrap_text(line[len(start) :], room, name=start)


def format_table(
    columns: Mapping[str, str], rows: Sequence[Sequence[str]], *, gives_way: str, width: int | None = None
) -> list[str]:
    """Returns the lines of an aligned table, which suits a terminal and a pipe; its header is bold in a terminal.

    Args:
        columns: LEFT or RIGHT by heading.
        rows: the cells.
        gives_way: the heading of the column that is shortened where a line is too long.
        width: characters of a line; None for those of the terminal, or without limit where there is no terminal.
    """
    grid = [list(columns), *rows]
    widths = [max(len(row[index]) for row in grid) for index in range(len(columns))]
    room = _terminal_width() if width is None else width
    if room is not None:
        index = list(columns).index(gives_way)
        over = sum(widths) + 2 * (len(widths) - 1) - room
        widths[index] = max(min(MIN_WIDTH, widths[index]), widths[index] - max(0, over))
    sides = list(columns.values())
    lines = [
        "  ".join(
            truncate(text, size).rjust(size) if side == RIGHT else truncate(text, size).ljust(size)
            for text, size, side in zip(row, widths, sides, strict=True)
        ).rstrip()
        for row in grid
    ]
    return [click.style(lines[0], bold=True) if sys.stdout.isatty() else lines[0], *lines[1:]]


def _terminal_width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None

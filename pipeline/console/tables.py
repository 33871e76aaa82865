"""Tables, sizes and ages in plain aligned text, which a terminal and a pipe both take."""

import shutil
import sys
from collections.abc import Mapping, Sequence

import click

from pipeline.errors import truncate

LEFT, RIGHT = "left", "right"
MIN_WIDTH = 8
"""A column that gives way keeps so many characters."""


def format_table(
    columns: Mapping[str, str], rows: Sequence[Sequence[str]], *, gives_way: str, width: int | None = None
) -> list[str]:
    """Lines of a table. columns: LEFT or RIGHT by heading. gives_way: the column that is cut where a line is too long.

    width: of a line; None for that of the terminal, and for any where there is none.
    """
    grid = [list(columns), *rows]
    widths = [max(len(row[index]) for row in grid) for index in range(len(columns))]
    room = _terminal() if width is None else width
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


def _terminal() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def format_size(size: float) -> str:
    """A number of bytes in three digits: `1.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if size >= 9.95 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_age(seconds: float) -> str:
    """How long ago: `12 s`, `3 min`, `5 h`, `2 d`."""
    for unit, longest in (("s", 60), ("min", 60), ("h", 48)):
        if seconds < longest:
            return f"{max(0.0, seconds):.0f} {unit}"
        seconds /= {"s": 60, "min": 60, "h": 24}[unit]
    return f"{seconds:.0f} d"

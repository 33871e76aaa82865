"""Texts and tables as people and their spreadsheets write them: which bytes are which letters, and where a cell ends.

Spreadsheets save "CSV" with a byte-order mark, as UTF-16, with semicolons or tabs where the comma is a decimal point,
with empty rows and columns at the end. All of that has one meaning and is taken; what has two is refused.
"""

import codecs
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import quote_name

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16's, with which it begins
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
DELIMITERS = (",", ";", "\t", "|")


class UndecodableText(ValueError):
    """Bytes that are no text in a known encoding. line: where. what: is wrong there, and what to do."""

    def __init__(self, line: int, what: str) -> None:
        self.line, self.what = line, f"{what}; save it as UTF-8 text"
        super().__init__(f"line {line}: {self.what}")


def decode_text(content: bytes, *, utf8_only: bool = False) -> str:
    """The text in a file's bytes: UTF-8, or UTF-16 and UTF-32 that begin with a mark, which is taken off.

    utf8_only: refuse those other two.

    Raises:
        UndecodableText: it is none of these.
    """
    encoding, start = next(
        ((name, len(mark)) for mark, name in MARKS.items() if content.startswith(mark)), ("utf-8", 0)
    )
    if utf8_only and encoding != "utf-8":
        raise UndecodableText(1, f"it is {encoding.upper()}")
    try:
        return content[start:].decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, start + error.start) + 1
        raise UndecodableText(line, f"byte 0x{error.object[error.start]:02x} is not {encoding.upper()}") from None


@dataclass(frozen=True)
class Table:
    """A table with a first line of names. rows: the number of each line in the file, and its cells by column, as
    they are written. decimal_comma: whether a comma in a cell can be a decimal point.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]
    decimal_comma: bool

    def number(self, cell: str) -> float:
        """The number in a cell.

        Raises:
            ValueError: it is none.
        """
        return float(self.figure(cell))

    def figure(self, cell: str) -> str:
        """A cell with a decimal comma as one with a point; any other as it is."""
        if self.decimal_comma and re.fullmatch(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*", cell):
            return cell.replace(",", ".")
        return cell


def parse_table(text: str, needed: Sequence[str] = ()) -> Table:
    """A table of cells between commas, semicolons, tabs or bars; which of them, its first line says.

    needed: columns that it must have; those that are found but for letter case and spaces get these names.

    Raises:
        ValueError: it is no table, lacks a column or has one twice, or a line has more or fewer cells than the first.
    """
    lines = text.splitlines(keepends=True)
    delimiter = ""
    if lines and (said := re.fullmatch(r"\"?sep=(.)\"?", lines[0].strip("\r\n"), re.IGNORECASE)):
        delimiter = said[1]  # a spreadsheet's own word for it
        lines[0] = "\n"  # so that lines keep their numbers
    first = next((line for line in lines if line.strip()), "")
    delimiter = delimiter or max(DELIMITERS, key=lambda sign: len(_cells(first, sign)))
    try:
        reader = csv.reader(io.StringIO("".join(lines), newline=""), delimiter=delimiter, strict=True)
        read = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise ValueError(str(error)) from None
    filled = [(number, cells) for number, cells in read if any(cell.strip() for cell in cells)]
    if not filled:
        raise ValueError("it is empty")
    columns = _columns([name.strip() for name in _trimmed(filled[0][1], 1)], needed)
    rows = []
    for number, cells in filled[1:]:
        cells = _trimmed(cells, len(columns))
        if len(cells) != len(columns):
            fewer = "fewer" if len(cells) < len(columns) else "more"
            raise ValueError(f"line {number} has {fewer} columns than the first")
        rows.append((number, dict(zip(columns, cells, strict=True))))
    return Table(columns, tuple(rows), delimiter != ",")


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _trimmed(cells: list[str], least: int) -> list[str]:
    """Without the empty cells that a spreadsheet leaves at a line's end."""
    while len(cells) > least and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def _columns(given: Sequence[str], needed: Sequence[str]) -> tuple[str, ...]:
    plain = {_plain(name): name for name in needed}
    columns = tuple(name if name in needed else plain.get(_plain(name), name) for name in given)
    if missing := [name for name in needed if name not in columns]:
        raise ValueError(
            f"its first line must name the columns {', '.join(needed)}; it has {quote_name(', '.join(given))}, and no "
            f"{', '.join(missing)}"
        )
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise ValueError(f"its first line has {quote_name(twice[0])} twice")
    return columns


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()

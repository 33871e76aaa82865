"""Reads texts and tables as users and their spreadsheets write them, in several encodings and CSV dialects.

Spreadsheets save "CSV" with a byte-order mark, as UTF-16, with semicolons or tabs where the comma is a
decimal point, or with empty rows and columns at the end. All variants with one possible meaning are accepted,
and ambiguous ones are rejected.
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
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16-LE, whose mark is a prefix of this one
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
DELIMITERS = (",", ";", "\t", "|")


class UndecodableText(ValueError):
    """Bytes that are not text in an accepted encoding.

    Args:
        line: Number of the line, from 1.
        what: Description of the fault; advice on how to save the file is added to it.
    """

    def __init__(self, line: int, what: str) -> None:
        self.line, self.what = line, f"{what}; save it as UTF-8 text"
        super().__init__(f"line {line}: {self.what}")


def decode_text(content: bytes, *, utf8_only: bool = False) -> str:
    """Returns the text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark. The mark is removed.

    Args:
        content: The file's bytes.
        utf8_only: Whether to reject UTF-16 and UTF-32.

    Raises:
        UndecodableText: If the bytes are not valid in the encoding, or the encoding is not accepted.
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
    """A table whose first line has the column names.

    Attributes:
        columns: Names in the order of the file.
        rows: Line number in the file, and cells by column name as written, for each row.
        decimal_comma: Whether a comma in a cell can be a decimal point.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]
    decimal_comma: bool

    def number(self, cell: str) -> float:
        """Returns the number in a cell.

        Raises:
            ValueError: If the cell holds no number.
        """
        return float(self.figure(cell))

    def figure(self, cell: str) -> str:
        """Returns a number with a decimal comma as one with a decimal point; any other cell unchanged."""
        if self.decimal_comma and re.fullmatch(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*", cell):
            return cell.replace(",", ".")
        return cell


def parse_table(text: str, needed: Sequence[str] = ()) -> Table:
    """Parses a table with cells separated by commas, semicolons, tabs or bars, detected from its first line.

    Args:
        text: The table.
        needed: Columns that it must have. Columns that match one of these names, ignoring letter case and
            extra spaces, are renamed to it.

    Raises:
        ValueError: If the text is no table, a needed column is missing, a name occurs twice, or a line has
            more or fewer cells than the first.
    """
    lines = text.splitlines(keepends=True)
    delimiter = ""
    if lines and (said := re.fullmatch(r"\"?sep=(.)\"?", lines[0].strip("\r\n"), re.IGNORECASE)):
        delimiter = said[1]  # the line by which Excel names the separator
        lines[0] = "\n"  # so that line numbers stay right
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
    """Returns the cells without the empty ones that spreadsheets leave at the end of a line.

    Args:
        cells: Cells of a line.
        least: Number of cells that stay in any case.
    """
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

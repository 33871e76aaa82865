"""Reads boxes.csv beside the class folders: boxes around the objects in pictures, for sets without masks.

    file,left,top,right,bottom
    cat/1.jpg,12,30,200,180

Values are pixels of the upright picture, counted from its upper left corner; right and bottom are exclusive.
A picture may have several lines. The mask of a picture without a line is undecided all over.
"""

from pathlib import Path

from pipeline.data.archive import Unreadable, format_names, read_files
from pipeline.data.decode.masks import Box
from pipeline.data.names import Names
from pipeline.errors import UserError, join_lines
from pipeline.files.text_tables import decode_text, parse_table
from pipeline.files.user_files import read_user_file

HEADER = ["file", "left", "top", "right", "bottom"]


def read_boxes(root: Path, name: str, names: tuple[str, ...], wrapper: str = "") -> dict[int, tuple[Box, ...]]:
    """Returns the boxes of each picture by its row.

    Args:
        root: The folder or archive of the pictures.
        name: Name of the file of boxes in it.
        names: Names of the pictures in it, by row.
        wrapper: Folder around all of them, or "". Paths in the file start there or at the folder of the file.

    Raises:
        UserError: If the file cannot be read, or a line is not a box of one of the pictures.
    """
    where = f"{format_names(str(root))}: {format_names(name)}: cannot be read"
    try:
        if root.is_dir():
            content: object = read_user_file(root / name)
        else:
            content = next((payload for _, payload in read_files(root, {name})), b"")
    except OSError as error:
        raise UserError(f"{where} ({error.strerror or error}).") from None
    if isinstance(content, Unreadable):
        raise UserError(f"{where} ({content.reason}).")
    try:
        table = parse_table(decode_text(content if isinstance(content, bytes) else b""), HEADER)
    except ValueError as error:
        raise UserError(f"{where} ({error}). {_WANTED}") from None
    starts = dict.fromkeys((name.rpartition("/")[0], wrapper))
    row_of = [Names({picture[len(base) + 1 :] if base else picture: row for row, picture in enumerate(names)})
              for base in starts]  # fmt: skip
    boxes: dict[int, tuple[Box, ...]] = {}
    wrong: list[str] = []
    for number, cells in table.rows:
        try:
            path = cells["file"].strip().removeprefix("./")
            row = next((rows for rows in row_of if rows.find(path) is not None), row_of[0])[path]
            left, top, right, bottom = (table.number(cells[side]) for side in HEADER[1:])
            boxes[row] = (*boxes.get(row, ()), (left, top, right, bottom))
        except KeyError:
            wrong.append(f"{format_names(name)}, line {number}: no picture {format_names(cells['file'])}")
        except ValueError:
            wrong.append(f"{format_names(name)}, line {number}: needs a file and four numbers")
    if wrong:
        raise UserError(
            f"{format_names(str(root))}: lines that give no box of a picture. Correct or remove them "
            "(docs/own-images.md):\n" + join_lines(wrong, 10)
        )
    return boxes


_WANTED = f"Its first line must be {','.join(HEADER)}; see docs/own-images.md."

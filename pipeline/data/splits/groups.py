"""Groups of pictures that belong together, such as photos of one animal, and must therefore have the same role.

Groups are given by a regular expression on the pictures' file names, or by a file with each picture's group.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.names import Names, class_key, normalize_name
from pipeline.errors import UserError, quote_name
from pipeline.files.text_tables import decode_text, parse_table
from pipeline.files.user_files import read_user_file

WHERE = "params.yaml: split.group_by"
TABLES = (".csv", ".json")


@dataclass(frozen=True)
class Groups:
    """Group of each image.

    Attributes:
        group_ids: Number of each image's group, (N,) int64. Images without a group have numbers from
            len(names) on.
        names: Names of the groups, by number.
        unused: Entries of the file that match no image.
    """

    group_ids: NDArray[np.int64]
    names: tuple[str, ...]
    unused: tuple[str, ...] = ()

    def named(self, group: int) -> str:
        """Returns the name of a group for messages."""
        return (
            quote_name(self.names[group]) if group < len(self.names) else f"image {group - len(self.names)}, on its own"
        )


def is_table(group_by: str) -> bool:
    """Returns whether `split.group_by` names a file instead of a regular expression.

    Args:
        group_by: The parameter's value.
    """
    return group_by.lower().endswith(TABLES)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Returns the compiled regular expression of `split.group_by`.

    Args:
        pattern: The parameter's value.

    Raises:
        UserError: If it is no regular expression, or has no capturing group.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"{WHERE}: {quote_name(pattern)}: not a regular expression ({error}).") from None
    if not compiled.groups:
        raise UserError(
            f"{WHERE}: {quote_name(pattern)}: has no group. Put the part that names the group into parentheses, as in "
            r"animal(\d+)_; or name a .csv or .json file."
        )
    return compiled


def groups_by_pattern(pattern: str, files: Sequence[str]) -> Groups:
    """Returns groups by the first capturing group of a regular expression that is searched in each file name.

    If the pattern matches without this capturing group, or with an empty one, the image has no group.

    Args:
        pattern: The regular expression.
        files: File names by row, as in files.json.

    Raises:
        UserError: If it is no regular expression, or is not found in some names.
    """
    compiled = compile_pattern(pattern)
    found = [compiled.search(name) for name in files]
    missing = [name for name, match in zip(files, found, strict=True) if match is None]
    if missing:
        every = len(missing) == len(files)
        how = "Names are those in data/prepared/files.json"
        if not every:
            how = "To leave such images on their own, append |$ to the expression"
        raise UserError(
            f"{WHERE}: {quote_name(pattern)}: is not found in the names of {_count(missing, files)} images "
            f"({_some(missing)}). {how}."
        )
    return _numbered([match.group(1) if match else None for match in found])


def groups_from_table(path: Path, files: Sequence[str], *, shown_as: str) -> Groups:
    """Returns groups from a file: .csv with the columns path and group, or .json with an object of groups by path.

    An image with an empty group, or null, has no group.

    Args:
        path: The file.
        files: File names by row, as in files.json.
        shown_as: The file as the user named it.

    Raises:
        UserError: If the file is missing or malformed, a path is in two groups, or images are missing from
            it.
    """
    table = read_table(path, shown_as=shown_as)
    meant = Names(table)
    found = [meant.find(name) for name in files]
    missing = [normalize_name(name) for name, entry in zip(files, found, strict=True) if entry is None]
    known = set(found)
    unused = tuple(name for name in table if name not in known)
    if missing:
        instead = f" It names {len(unused):,} that the set does not have ({_some(unused)})." if unused else ""
        raise UserError(
            f"{WHERE}: {shown_as}: does not name {_count(missing, files)} images ({_some(missing)}).{instead} Paths "
            "are those in data/prepared/files.json; an empty group leaves an image on its own."
        )
    groups = _numbered([table[name] for name in found if name is not None])
    return Groups(groups.group_ids, groups.names, unused)


def read_table(path: Path, *, shown_as: str) -> dict[str, str | None]:
    """Returns groups by path from a .csv or .json file.

    Args:
        path: The file.
        shown_as: The file as the user named it.

    Raises:
        UserError: If the file is missing, malformed or empty, or a path is in two groups.
    """
    where = f"{WHERE}: {quote_name(shown_as)}"
    read: Callable[[Path], Iterable[tuple[str, str | None]]] = (
        _csv_rows if path.name.lower().endswith(".csv") else _json_rows
    )
    table: dict[str, str | None] = {}
    try:
        for written, group in read(path):
            name = normalize_name(written)
            if table.setdefault(name, group) != group:
                raise ValueError(f"{quote_name(name)} is in two groups, {table[name]} and {group}")
    except FileNotFoundError:
        raise UserError(f"{where}: no such file.") from None
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror or error}).") from None
    except (ValueError, RecursionError) as error:  # JSONDecodeError is a ValueError
        raise UserError(f"{where}: cannot be used ({error}).") from None
    if not table:
        raise UserError(f"{where}: names no images.")
    return table


def _csv_rows(path: Path) -> Iterable[tuple[str, str | None]]:
    for _, cells in parse_table(decode_text(read_user_file(path)), ("path", "group")).rows:
        yield cells["path"].strip().removeprefix("./"), cells["group"].strip()


def _json_rows(path: Path) -> Iterable[tuple[str, str | None]]:
    # Read as pairs, because a dict would silently store only the last of a path's groups.
    content = json.loads(decode_text(read_user_file(path)), object_pairs_hook=lambda pairs: pairs)
    if not isinstance(content, list) or not all(isinstance(pair, tuple) for pair in content):
        raise ValueError("it must contain one JSON object that gives each path its group")
    for name, group in content:
        if group is not None and (isinstance(group, bool) or not isinstance(group, str | int)):
            raise ValueError(f"the group of {quote_name(name)} is neither text nor a whole number")
        yield name, None if group is None else str(group)


def _numbered(groups: Sequence[str | None]) -> Groups:
    """Returns numbered groups in the order of their names. Images without a group get the numbers after these."""
    spelled: dict[str, str] = {}  # the first of several spellings of a name
    for group in sorted({normalize_name(group) for group in groups if group}):
        spelled.setdefault(class_key(group), group)
    names = tuple(sorted(spelled.values()))
    number = {class_key(name): index for index, name in enumerate(names)}
    of = [number[class_key(group)] if group else len(names) + row for row, group in enumerate(groups)]
    return Groups(np.array(of, dtype=np.int64), names)


def _count(some: Sequence[str], files: Sequence[str]) -> str:
    return f"all {len(files):,}" if len(some) == len(files) else f"{len(some):,} of {len(files):,}"


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(quote_name(name, 80) for name in names[:most]) + (", ..." if len(names) > most else "")

"""Pictures that belong together, such as the photos of one animal, and must therefore be in one role.

Said by a regular expression on the pictures' file names, or by a file that names each picture's group.
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
    """Which group each image is in.

    group_ids: (N,) int64, the group's number; images that are on their own have numbers from len(names) on. names: of
    the groups that were named, by number. unused: entries of the file that no image has.
    """

    group_ids: NDArray[np.int64]
    names: tuple[str, ...]
    unused: tuple[str, ...] = ()

    def named(self, group: int) -> str:
        return (
            quote_name(self.names[group]) if group < len(self.names) else f"image {group - len(self.names)}, on its own"
        )


def is_table(group_by: str) -> bool:
    """Whether `split.group_by` names a file, and is no regular expression."""
    return group_by.lower().endswith(TABLES)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of `split.group_by`.

    Raises:
        UserError: it is none, or has no group.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"{WHERE}: {quote_name(pattern)}: not a regular expression ({error}).") from None
    if not compiled.groups:
        raise UserError(
            f"{WHERE}: {quote_name(pattern)}: has no group. Put what names the group into parentheses, as in "
            r"animal(\d+)_; or name a .csv or .json file."
        )
    return compiled


def groups_by_pattern(pattern: str, files: Sequence[str]) -> Groups:
    """Groups by the first group of a regular expression that is searched in each image's file name.

    files: names by row, as in files.json. Where the pattern matches without its first group, or with an empty one, the
    image is on its own.

    Raises:
        UserError: no pattern, or images in whose names it is not found.
    """
    compiled = compile_pattern(pattern)
    found = [compiled.search(name) for name in files]
    missing = [name for name, match in zip(files, found, strict=True) if match is None]
    if missing:
        every = len(missing) == len(files)
        how = "Names are those in data/prepared/files.json" if every else "To leave such images on their own, append |$"
        raise UserError(
            f"{WHERE}: {quote_name(pattern)}: is not found in the names of {_count(missing, files)} images "
            f"({_some(missing)}). {how}."
        )
    return _numbered([match.group(1) if match else None for match in found])


def groups_from_table(path: Path, files: Sequence[str], *, shown_as: str) -> Groups:
    """Groups by a file: .csv with the columns path and group, or .json with an object of groups by path.

    files: names by row, as in files.json. An empty group, or null, leaves the image on its own. shown_as: how the user
    named the file.

    Raises:
        UserError: no such file, not of that form, a path named for two groups, or images that it does not name.
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
    """Groups by path, as a .csv or .json file has them.

    Raises:
        UserError: as `groups_from_table`, but for the images that are not in it.
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
    # As pairs, because a dict would keep the last of a path's groups without a word.
    content = json.loads(decode_text(read_user_file(path)), object_pairs_hook=lambda pairs: pairs)
    if not isinstance(content, list) or not all(isinstance(pair, tuple) for pair in content):
        raise ValueError("it must hold one object, of groups by path")
    for name, group in content:
        if group is not None and (isinstance(group, bool) or not isinstance(group, str | int)):
            raise ValueError(f"the group of {quote_name(name)} is neither text nor a whole number")
        yield name, None if group is None else str(group)


def _numbered(groups: Sequence[str | None]) -> Groups:
    """Numbers for the groups, in the order of their names; images on their own get the ones after."""
    spelled: dict[str, str] = {}  # of several spellings of one name, the first
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

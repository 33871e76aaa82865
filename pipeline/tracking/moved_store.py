"""The addresses in a database file after its checkout was moved or copied.

MLflow keeps the places of artifacts as absolute addresses: those in the checkout's own `mlartifacts` are written anew
where the checkout lies elsewhere now.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

ARTIFACTS = "mlartifacts"
"""The folder of the checkout that a database file's artifacts go to."""

PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
"""Columns in which MLflow keeps where artifacts are."""


def settle_addresses(database: Path, root: Path) -> bool:
    """Lead the addresses of artifacts to `root` where its database still names the place that it was moved from.

    Only of a database in `root` itself, whose artifacts are its own: of each former place, addresses of an experiment's
    folder are changed if that folder is here now, or is no longer there. Whether any was.
    """
    if not database.is_relative_to(root) or not database.is_file():
        return False
    here = (root / ARTIFACTS).as_uri() + "/"
    with closing(sqlite3.connect(database, timeout=20.0)) as connection:
        try:
            found = connection.execute("SELECT artifact_location FROM experiments").fetchall()
        except sqlite3.DatabaseError:
            return False  # no schema yet, or no database: whoever opens it tells
        moved = dict(each for (place,) in found for each in _former(str(place), root, here))
        if not moved:
            return False
        with connection:
            for before, after in moved.items():
                for table, column in PLACES:
                    with suppress(sqlite3.OperationalError):  # a table that this version of MLflow does not have
                        connection.execute(
                            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                            (after, len(before) + 1, before, len(before) + 1, before + "/"),
                        )
    return True


def is_empty(database: Path) -> bool:
    """Whether there is no database or one without a table, as a process that was ended early leaves it: 0 bytes."""
    if not database.is_file():
        return True
    try:
        with closing(sqlite3.connect(database, timeout=20.0)) as connection:
            return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None
    except sqlite3.Error:
        return False  # no database: whoever opens it tells


def _former(place: str, root: Path, here: str) -> Iterator[tuple[str, str]]:
    """The address of an experiment's folder in another checkout, and the one that it has in this one."""
    if urlsplit(place).scheme != "file" or place.startswith(here):
        return
    folder = Path(url2pathname(urlsplit(place).path))
    if folder.parent.name != ARTIFACTS:
        return
    own = root / ARTIFACTS / folder.name
    if own.is_dir() or not folder.is_dir():
        yield place, own.as_uri()

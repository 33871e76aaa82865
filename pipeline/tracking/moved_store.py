"""Addresses of artifacts in a database file, corrected after its checkout was moved or copied.

MLflow stores the places of artifacts as absolute addresses. Addresses in the checkout's own `mlartifacts` are
rewritten if the checkout is now elsewhere.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

ARTIFACTS = "mlartifacts"
"""Folder of the checkout for the artifacts of a database file."""

PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
"""Tables and columns in which MLflow stores the places of artifacts."""


def settle_addresses(database: Path, root: Path) -> bool:
    """Rewrites the addresses of artifacts in a database whose checkout was moved, and returns whether any was changed.

    Only a database in `root` itself is changed, since its artifacts are in `root` too. An experiment's
    address is changed if its folder exists in `root` now, or no longer exists at the former place.
    """
    if not database.is_relative_to(root) or not database.is_file():
        return False
    here = (root / ARTIFACTS).as_uri() + "/"
    with closing(sqlite3.connect(database, timeout=20.0)) as connection:
        try:
            found = connection.execute("SELECT artifact_location FROM experiments").fetchall()
        except sqlite3.DatabaseError:
            return False  # no schema yet, or no database: opening it later reports that
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
    """Returns whether there is no database, or one without a table.

    A process that was ended early leaves such a database, of 0 bytes.
    """
    if not database.is_file():
        return True
    try:
        with closing(sqlite3.connect(database, timeout=20.0)) as connection:
            return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None
    except sqlite3.Error:
        return False  # no database: opening it later reports that


def _former(place: str, root: Path, here: str) -> Iterator[tuple[str, str]]:
    """Yields the address of an experiment's folder in another checkout with its address in this one, if it
    must be changed.

    Args:
        place: address of the experiment's artifacts in the database.
        root: this checkout.
        here: address of this checkout's artifacts.
    """
    if urlsplit(place).scheme != "file" or place.startswith(here):
        return
    folder = Path(url2pathname(urlsplit(place).path))
    if folder.parent.name != ARTIFACTS:
        return
    own = root / ARTIFACTS / folder.name
    if own.is_dir() or not folder.is_dir():
        yield place, own.as_uri()

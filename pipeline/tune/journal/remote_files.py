"""Files of a search in storage that machines share, outside of its folder.

It is noted in the folder before it is put there. Several checkouts may use one storage, and search the same: what is
found there is a search's own only if its note says so. Its checkpoints lie in a folder that nobody else has; data are
shared, and whoever uses them leaves a mark.
"""

import json
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.cluster.storage import exists, join, list_dir, remove, remove_file, size, write_text
from pipeline.files.atomic import write_whole

NOTE = "outside.json"
USERS = "users"


@dataclass(frozen=True)
class RemoteFiles:
    """id: this search's, in this checkout. checkpoints, data: addresses of its folders there, the newest last."""

    id: str
    checkpoints: tuple[str, ...] = ()
    data: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """What its checkpoints take; data belong to several.

        Raises:
            StorageError: they cannot be looked at.
        """
        return sum(size(address) for address in self.checkpoints)


def read_remote_files(folder: Path) -> RemoteFiles | None:
    """The note of a search; None if it has never put anything elsewhere, or its note cannot be read."""
    try:
        noted = json.loads((folder / NOTE).read_text())
        return RemoteFiles(str(noted["id"]), tuple(noted["checkpoints"]), tuple(noted["data"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def list_checkpoints(storage: str, folder: Path) -> str:
    """Where a search's checkpoints go in storage; noted."""
    noted = _noted(folder)
    place = join(storage, "searches", f"{folder.name}-{noted.id}")
    if place not in noted.checkpoints:
        _write(folder, replace(noted, checkpoints=(*noted.checkpoints, place)))
    return place


def mark_in_use(place: str, folder: Path) -> None:
    """Note, and mark there, that a search uses data that lie in storage."""
    noted = _noted(folder)
    if place not in noted.data:
        _write(folder, replace(noted, data=(*noted.data, place)))
    write_text(join(place, USERS, noted.id), "")


def remove_remote_files(outside: RemoteFiles) -> None:
    """Remove a search's checkpoints from storage, and data that nobody else uses.

    Raises:
        StorageError: storage cannot be reached; what is left is found again.
    """
    remove(outside.checkpoints)
    for place in outside.data:
        remove_file(join(place, USERS, outside.id))
        if exists(place) and not list_dir(join(place, USERS)):
            remove([place])


def checkpoint_folders(outside: RemoteFiles) -> Iterator[str]:
    """Addresses of all its checkpoints that are there. Raises StorageError if they cannot be listed."""
    for root in outside.checkpoints:
        yield from (place for place in list_dir(root, 3) if place.rpartition("/")[2].startswith("checkpoint_"))


def _noted(folder: Path) -> RemoteFiles:
    return read_remote_files(folder) or RemoteFiles(secrets.token_hex(4))


def _write(folder: Path, outside: RemoteFiles) -> None:
    write_whole(folder / NOTE, json.dumps(asdict(outside), indent=1) + "\n")

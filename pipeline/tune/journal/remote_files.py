"""Files of a search in storage that machines share, outside of its state directory.

A file is noted in the state directory before it is written to storage. Several checkouts may use one storage
and run the same search, so a file there belongs to a search only if the search's note says so. Checkpoints of a
search lie in a folder that no other search uses. Data are shared, and every search that uses them leaves a mark
beside them.
"""

import json
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.cluster.storage import exists, join, list_dir, remove, remove_file, size, write_text
from pipeline.files.atomic import write_whole

NOTE = "outside.json"
"""Name of the note in a search's state directory."""
USERS = "users"
"""Name of the folder of marks beside shared data."""


@dataclass(frozen=True)
class RemoteFiles:
    """Note of a search's files in storage.

    Attributes:
        id: Id of this search in this checkout.
        checkpoints: Addresses of its folders of checkpoints, the newest last.
        data: Addresses of the data that it uses, the newest last.
    """

    id: str
    checkpoints: tuple[str, ...] = ()
    data: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of its checkpoints; data are left out, since several searches may use them.

        Raises:
            StorageError: storage cannot be read.
        """
        return sum(size(address) for address in self.checkpoints)


def read_remote_files(folder: Path) -> RemoteFiles | None:
    """Reads the note of a search.

    Args:
        folder: The search's state directory.

    Returns:
        The note; None if the search has no files in storage, or its note cannot be read.
    """
    try:
        noted = json.loads((folder / NOTE).read_text())
        return RemoteFiles(str(noted["id"]), tuple(noted["checkpoints"]), tuple(noted["data"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note_checkpoint_folder(storage: str, folder: Path) -> str:
    """Returns the address of a search's folder of checkpoints in storage, after noting it."""
    noted = _noted(folder)
    place = join(storage, "searches", f"{folder.name}-{noted.id}")
    if place not in noted.checkpoints:
        _write(folder, replace(noted, checkpoints=(*noted.checkpoints, place)))
    return place


def mark_in_use(place: str, folder: Path) -> None:
    """Notes, and marks in storage, that a search uses the data at an address."""
    noted = _noted(folder)
    if place not in noted.data:
        _write(folder, replace(noted, data=(*noted.data, place)))
    write_text(join(place, USERS, noted.id), "")


def remove_remote_files(outside: RemoteFiles) -> None:
    """Removes a search's checkpoints from storage, and data that no other search uses.

    Args:
        outside: The search's note.

    Raises:
        StorageError: storage cannot be reached; a later call removes the rest.
    """
    remove(outside.checkpoints)
    for place in outside.data:
        remove_file(join(place, USERS, outside.id))
        if exists(place) and not list_dir(join(place, USERS)):
            remove([place])


def checkpoint_folders(outside: RemoteFiles) -> Iterator[str]:
    """Yields the addresses of all checkpoints of a search that exist in storage.

    Args:
        outside: The search's note.

    Raises:
        StorageError: storage cannot be listed.
    """
    for root in outside.checkpoints:
        yield from (place for place in list_dir(root, 3) if place.rpartition("/")[2].startswith("checkpoint_"))


def _noted(folder: Path) -> RemoteFiles:
    return read_remote_files(folder) or RemoteFiles(secrets.token_hex(4))


def _write(folder: Path, outside: RemoteFiles) -> None:
    write_whole(folder / NOTE, json.dumps(asdict(outside), indent=1) + "\n")

"""Removal of folders. A folder is first renamed within its root, so that none is left half-removed in its place."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

REMOVED = "removed"
"""Folder under a root, into which folders are renamed before they are removed."""


@dataclass(frozen=True)
class Removal:
    """Something that `gc` removes.

    Attributes:
        path: File or folder, or its address in shared storage.
        why: Reason in words.
        size: Size in bytes.
        remove: Removes it. May raise UserError if it is in use by now, and StorageError if shared storage does not
            answer.
    """

    path: Path | str
    why: str
    size: int
    remove: Callable[[], None]


def discard(folder: Path, root: Path) -> None:
    """Renames a folder and then removes it.

    Args:
        folder: Folder to remove.
        root: Folder that contains it.
    """
    gone = place_of(root, folder.name)
    os.replace(folder, gone)
    purge(gone)


def place_of(root: Path, name: str) -> Path:
    """Returns the path to which something is renamed before its removal.

    The path is in a folder of this process, because another process may be removing something under the same root.

    Args:
        root: Folder that contains what is removed.
        name: Name of what is removed.
    """
    folder = root / REMOVED / str(os.getpid())
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def purge(gone: Path) -> None:
    """Removes the folder of this process that `place_of` made, with everything in it.

    Args:
        gone: Path that `place_of` returned.
    """
    shutil.rmtree(gone.parent)
    with suppress(OSError):  # another process may have a folder there too
        gone.parent.parent.rmdir()


def folders_of(root: Path) -> list[Path]:
    """Returns the folders of a root, without those that are being removed.

    Args:
        root: Folder whose children are returned.
    """
    return [path for path in sorted(root.glob("*")) if path.is_dir() and path.name != REMOVED]

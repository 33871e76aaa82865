"""Removing: what goes is renamed first, under the same root, so that nothing is ever half there."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

REMOVED = "removed"
"""The folder under a root that holds what is on its way out."""


@dataclass(frozen=True)
class Removal:
    """path: what goes, or its address in shared storage. why: in words. size: in bytes. remove: does it.

    `remove` may raise UserError if it is in use by now, and StorageError if shared storage does not answer.
    """

    path: Path | str
    why: str
    size: int
    remove: Callable[[], None]


def discard(folder: Path, root: Path) -> None:
    """Rename a folder of `root` away, and remove it then."""
    gone = place_of(root, folder.name)
    os.replace(folder, gone)
    purge(gone)


def place_of(root: Path, name: str) -> Path:
    """Where something is renamed to; a folder of this process, since another one may be at work here too."""
    folder = root / REMOVED / str(os.getpid())
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def purge(gone: Path) -> None:
    """Remove what was renamed away."""
    shutil.rmtree(gone.parent)
    with suppress(OSError):  # another process has something there too
        gone.parent.parent.rmdir()


def folders_of(root: Path) -> list[Path]:
    """The folders of a root, but for what is on its way out."""
    return [path for path in sorted(root.glob("*")) if path.is_dir() and path.name != REMOVED]

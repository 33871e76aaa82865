"""Files and folders that are replaced when they are whole: a process that is cut off leaves the old or the new."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, text: str, *, concurrent: bool = False) -> None:
    """Write a text file in UTF-8, whole or not at all. concurrent: as of `replace_file`."""
    with replace_file(path, concurrent=concurrent) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replace_file(path: Path, *, concurrent: bool = False) -> Iterator[Path]:
    """Yield where to write a file, in the same folder, which takes the place of `path` if the block ends well.

    Args:
        path: The file to replace or to make; so is its folder.
        concurrent: Whether several processes may write it at a time, each of which then needs a file of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial" if concurrent else f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # what a process that was killed has left
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def replace_folder(folder: Path, *, partial: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder to write into, which takes the place of `folder` if the block ends well.

    No system replaces a folder that is not empty in one step: cut off between the two that it takes, there is none
    until the next call puts the old one back, but never part of one.

    Args:
        folder: The folder to replace or to make.
        partial: What holds it until then, in the same file system; by default `folder` with `.partial` after its name.
    """
    partial = partial or folder.with_name(f"{folder.name}.partial")
    new, old = partial / "new", partial / "old"
    _tidy(folder, partial, old)
    new.mkdir(parents=True)
    try:
        yield new
        with suppress(FileNotFoundError):
            os.replace(folder, old)
        os.replace(new, folder)
    finally:
        _tidy(folder, partial, old)


def _tidy(folder: Path, partial: Path, old: Path) -> None:
    if not folder.exists():
        with suppress(FileNotFoundError):
            os.replace(old, folder)
    shutil.rmtree(partial, ignore_errors=True)

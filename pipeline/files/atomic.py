"""Atomic replacement of files and folders: after an interruption, the old or the new version is there, never a part."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, text: str, *, concurrent: bool = False) -> None:
    """Writes a text file in UTF-8 atomically.

    Args:
        path: The file to create or replace.
        text: Its new content.
        concurrent: Whether several processes may write it at the same time; see `replace_file`.
    """
    with replace_file(path, concurrent=concurrent) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replace_file(path: Path, *, concurrent: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the same folder, which replaces `path` if the block ends without an error.

    Args:
        path: The file to create or replace. Its folder is created, too.
        concurrent: Whether several processes may write it at the same time. Each then uses a temporary name
            of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial" if concurrent else f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # left by a process that was killed
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def replace_folder(folder: Path, *, partial: Path | None = None) -> Iterator[Path]:
    """Yields an empty folder to write into, which replaces `folder` if the block ends without an error.

    No operating system replaces a non-empty folder in one step. If the process ends between the two steps
    needed, `folder` is missing until the next call restores the old one. It is never incomplete.

    Args:
        folder: The folder to create or replace.
        partial: Temporary folder, on the same file system. None: `folder` with `.partial` after its name.
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
    """Restores the old folder if the new one is not in place, and removes the temporary folder.

    Args:
        folder: The folder to replace.
        partial: Temporary folder.
        old: Where the old content of `folder` is during the replacement.
    """
    if not folder.exists():
        with suppress(FileNotFoundError):
            os.replace(old, folder)
    shutil.rmtree(partial, ignore_errors=True)

"""Folders for what is temporary: one whose path is short enough for sockets, and TMPDIR, checked.

The address of a Unix socket has room for 107 bytes. Ray, multiprocessing and the fork server of stages put theirs below
TMPDIR, which may be longer by itself; where it is, they get a folder elsewhere.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError

ROOM = 107
"""Bytes of a socket's address."""

BELOW_RAY = 70
"""Bytes that Ray's sockets take below its place for temporary files: ray/session_<time>_<process>/sockets/<name>."""

OWN = 13
"""Bytes of the name of a folder of ours, with its slash."""


@contextmanager
def short_folder() -> Iterator[Path]:
    """A new folder, this user's alone, below which Ray's sockets have room too; removed on leaving.

    Raises:
        UserError: there is no place for it.
    """
    folder = tempfile.mkdtemp(prefix="sar-", dir=short_socket_path())
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def short_socket_path() -> str:
    """Where temporary files go, or, if that is too long a path for sockets, the first other place that will do.

    Raises:
        UserError: none will.
    """
    usual = tempfile.gettempdir()
    for place in (usual, os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp", "/dev/shm"):
        if os.path.isabs(place) and has_room(place, OWN + BELOW_RAY) and _is_safe(place):
            return place
    raise UserError(
        f"TMPDIR: {usual}: no place for sockets: its path is too long ({len(os.fsencode(usual))} bytes, allowed: "
        f"{ROOM - OWN - BELOW_RAY}) or others may write there, and XDG_RUNTIME_DIR, /tmp, /var/tmp and /dev/shm cannot "
        "be used in its stead. Set TMPDIR to a shorter one."
    )


def has_room(place: str, below: int) -> bool:
    """Whether sockets whose names take so many bytes below this folder have room."""
    return len(os.fsencode(place)) + below <= ROOM


def set_socket_folder() -> None:
    """Have multiprocessing of this process, and of those that it starts, put sockets where their addresses have room.

    Does nothing where TMPDIR is short. multiprocessing removes the folder itself.
    """
    if has_room(tempfile.gettempdir(), OWN + BELOW_RAY):
        return
    import multiprocessing.util

    before, tempfile.tempdir = tempfile.tempdir, short_socket_path()
    try:
        multiprocessing.util.get_temp_dir()  # made once in a process, and kept
    finally:
        tempfile.tempdir = before


def check_temporary() -> None:
    """Refuse a TMPDIR in which nothing can be written: Python would go elsewhere without a word, and others fail.

    Raises:
        UserError: it is none, or full; or there is no folder for temporary files at all.
    """
    named = os.environ.get("TMPDIR", "")
    where = f"TMPDIR: {named}" if named else "the folder for temporary files"
    advice = "Set TMPDIR to a folder that exists and that you may write to" + (", or unset it." if named else ".")
    if named and not os.path.isabs(named):
        raise UserError(f"{where}: is relative, so that it is another folder for every program. Give the whole path.")
    try:
        place = named or tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            file.write(bytes(4096))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{where}: is full. Free some space there, or set TMPDIR to a folder with more.") from None
        raise UserError(f"{where}: cannot be written ({error.strerror or error}). {advice}") from None


def _is_safe(place: str) -> bool:
    """Whether others cannot take away from us what we make there, and it can be written."""
    try:
        found = os.stat(place)
    except OSError:
        return False
    shared = found.st_mode & 0o022 and not found.st_mode & 0o1000
    return not shared and os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)

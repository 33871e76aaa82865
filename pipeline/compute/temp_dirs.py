"""Folders for temporary files: a path short enough for Unix sockets, and a check of TMPDIR.

The address of a Unix socket has room for 107 bytes. Ray, multiprocessing and the fork server of stages put
their sockets below TMPDIR, whose path may be longer than that. In this case they use another folder.
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
"""Bytes of a Unix socket's address."""

BELOW_RAY = 70
"""Bytes of a socket's path below Ray's temporary folder: ray/session_<time>_<process>/sockets/<name>."""

OWN = 13
"""Bytes of the name of a folder made by `short_folder`, with its slash."""


@contextmanager
def short_folder() -> Iterator[Path]:
    """Yields a new folder, private to this user, whose path leaves room for Ray's sockets. It is removed on leaving.

    Raises:
        UserError: If there is no suitable place for it.
    """
    folder = tempfile.mkdtemp(prefix="sar-", dir=short_socket_path())
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def short_socket_path() -> str:
    """Returns the usual folder for temporary files, or another one if its path is too long for sockets.

    The first suitable folder of TMPDIR, XDG_RUNTIME_DIR, /tmp, /var/tmp and /dev/shm is returned.

    Raises:
        UserError: If no folder is suitable.
    """
    usual = tempfile.gettempdir()
    for place in (usual, os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp", "/dev/shm"):
        if os.path.isabs(place) and has_room(place, OWN + BELOW_RAY) and _is_safe(place):
            return place
    raise UserError(
        f"TMPDIR: {usual}: no place for sockets: its path is too long ({len(os.fsencode(usual))} bytes, allowed: "
        f"{ROOM - OWN - BELOW_RAY}) or others may write there, and XDG_RUNTIME_DIR, /tmp, /var/tmp and /dev/shm cannot "
        "be used instead. Set TMPDIR to a shorter one."
    )


def has_room(place: str, below: int) -> bool:
    """Returns whether the path of a socket below a folder fits into a socket's address.

    Args:
        place: The folder.
        below: Bytes of the socket's path below it.
    """
    return len(os.fsencode(place)) + below <= ROOM


def set_socket_folder() -> None:
    """Sets the folder in which multiprocessing creates sockets, for this process and the processes that it starts.

    Does nothing if TMPDIR is short enough. multiprocessing removes the folder itself.
    """
    if has_room(tempfile.gettempdir(), OWN + BELOW_RAY):
        return
    import multiprocessing.util

    before, tempfile.tempdir = tempfile.tempdir, short_socket_path()
    try:
        multiprocessing.util.get_temp_dir()  # created at the first call, then cached by multiprocessing
    finally:
        tempfile.tempdir = before


def check_temporary() -> None:
    """Checks that files can be written to TMPDIR.

    If they cannot, Python silently uses another folder, and other programs fail.

    Raises:
        UserError: If TMPDIR is relative, missing, full or not writable, or there is no folder for temporary
            files at all.
    """
    named = os.environ.get("TMPDIR", "")
    where = f"TMPDIR: {named}" if named else "the folder for temporary files"
    advice = "Set TMPDIR to a folder that exists and that you may write to" + (", or unset it." if named else ".")
    if named and not os.path.isabs(named):
        raise UserError(f"{where}: is relative, so it means another folder for every program. Give the absolute path.")
    try:
        place = named or tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            file.write(bytes(4096))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{where}: is full. Free some space there, or set TMPDIR to a folder with more.") from None
        raise UserError(f"{where}: cannot be written ({error.strerror or error}). {advice}") from None


def _is_safe(place: str) -> bool:
    """Returns whether a folder is writable and other users cannot remove or replace files that are created in it."""
    try:
        found = os.stat(place)
    except OSError:
        return False
    shared = found.st_mode & 0o022 and not found.st_mode & 0o1000
    return not shared and os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)

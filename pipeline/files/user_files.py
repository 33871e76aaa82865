"""Reads files named by users, and explains in words why one cannot be read, without blocking on a pipe."""

import errno
import os
import stat
from pathlib import Path

NO_FILES = {
    stat.S_IFDIR: "a folder, where a file is needed",
    stat.S_IFIFO: "a pipe, not a file",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}
"""Descriptions of other things than files, by the type bits of their mode."""


def why_unreadable(path: str | Path) -> str | None:
    """Returns the reason why a file cannot be read, in words; None if it can be read.

    Args:
        path: The file as the user named it.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except OSError as error:
        if os.path.islink(path) and error.errno == errno.ENOENT:
            return "a link whose target does not exist"
        if error.errno == errno.ELOOP:
            return "a link that leads back to itself"
        return error.strerror or str(error)
    except ValueError as error:  # a NUL in the name
        return str(error)
    if kind != stat.S_IFREG:
        return NO_FILES.get(kind, "no file")
    try:
        os.close(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)))
    except OSError as error:
        return f"may not be read ({error.strerror})" if error.errno == errno.EACCES else error.strerror or str(error)
    return None


def read_user_file(path: Path) -> bytes:
    """Returns the bytes of a file named by a user.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no file of that name.
        OSError: If it cannot be read; its `strerror` gives the reason in words.
    """
    if (why := why_unreadable(path)) is not None:
        raise OSError(errno.EINVAL if os.path.lexists(path) else errno.ENOENT, why, str(path))
    return path.read_bytes()

"""User name and cache folders for processes whose user has neither.

In a container the process often runs under a number that belongs to no user (`docker run --user 12345`), and
HOME is `/`, missing or read-only. Libraries look up the user's name when they are imported, and write caches
to the home folder.
"""

import getpass
import os
import tempfile
from pathlib import Path

CACHES = {
    "XDG_CACHE_HOME": "",
    "MPLCONFIGDIR": "matplotlib",
    "TRITON_CACHE_DIR": "triton",
    "DVC_SITE_CACHE_DIR": "dvc",
}
"""Environment variables that set cache folders, and the name of each one's folder below that of this project."""


def settle_user() -> None:
    """Sets a user name and, if HOME cannot be used, cache folders. It must be called before large imports."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"user-{os.getuid()}"
    home = _home()
    if home is not None and os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK):
        return
    try:
        folder = _own_folder()
    except OSError:  # `check_temporary` reports it
        return
    if home is None:  # Path.home() fails, and some libraries call it when they are imported
        os.environ["HOME"] = folder
    for name, below in CACHES.items():
        os.environ.setdefault(name, os.path.join(folder, below).rstrip(os.sep))


def _home() -> str | None:
    home = os.path.expanduser("~")
    return None if home in ("~", "") else home


def _own_folder() -> str:
    """Returns a cache folder private to this user: the usual one, or a new one if something else has its name."""
    folder = Path(tempfile.gettempdir()) / f"sar-search-{os.getuid()}-caches"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if folder.is_symlink() or not folder.is_dir() or found.st_uid != os.getuid() or found.st_mode & 0o022:
            return tempfile.mkdtemp(prefix="sar-caches-")
    return str(folder)

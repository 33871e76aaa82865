"""A user of this process that libraries can live with: with a name, and with a home that can be written.

In a container the process often runs by a number that no user has (`docker run --user 12345`), and HOME is `/`, missing
or read-only. Libraries ask for the name when they are imported, and keep caches in the home.
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
"""Variables that say where caches go, and each one's folder below ours."""


def settle_user() -> None:
    """Give the process a name and, where HOME will not do, folders for caches. To be called before large imports."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"user-{os.getuid()}"
    home = _home()
    if home is not None and os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK):
        return
    try:
        folder = _own_folder()
    except OSError:  # nowhere; `check_temporary` says so
        return
    if home is None:  # Path.home() fails, which some call when they are imported
        os.environ["HOME"] = folder
    for name, below in CACHES.items():
        os.environ.setdefault(name, os.path.join(folder, below).rstrip(os.sep))


def _home() -> str | None:
    home = os.path.expanduser("~")
    return None if home in ("~", "") else home


def _own_folder() -> str:
    """A folder among the temporary files that is this user's alone; a new one where that name is taken by others."""
    folder = Path(tempfile.gettempdir()) / f"sar-search-{os.getuid()}-caches"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if folder.is_symlink() or not folder.is_dir() or found.st_uid != os.getuid() or found.st_mode & 0o022:
            return tempfile.mkdtemp(prefix="sar-caches-")
    return str(folder)

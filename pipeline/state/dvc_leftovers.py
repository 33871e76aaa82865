"""Removes files under `.dvc` that a killed DVC has left half-written, so that the next DVC can start.

DVC moves the objects of its cache into place whole. It writes other files where they stand. The next DVC stops at a
truncated file with an error message that does not name the cause:

    cache/runs/<..>/<..>/   what each stage made of which inputs. DVC reads every file there, including those whose
                            names end in .tmp. Without an entry the stage runs again.
    tmp/rwlock              which process uses which path. Entries of processes that have ended mean nothing, but an
    tmp/exps/rwlock         entry blocks for good if another process has its number by now, as in a restarted container.
    tmp/exps/**.run, .msg   an experiment's place and state, and a queue's messages. A truncated file tells nothing.
    <site cache>/repo/*     databases of hashes and links. They survive a kill, but may not survive a loss of power.
                            DVC can compute their content again.

`pipeline.state.dvc_lock` repairs dvc.lock.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.files.atomic import write_whole
from pipeline.workspace import Workspace

PAUSE_S = 0.5
"""Seconds after which a file that another DVC was writing is whole, or has its final name."""

HEADER = 100
"""Bytes of the header of an SQLite file."""

SLACK_S = 2.0
"""Seconds by which the clocks of processes and files may differ."""


def remove_leftovers(workspace: Workspace) -> list[str]:
    """Removes truncated files, and locks of processes that have ended.

    Args:
        workspace: Workspace whose `.dvc` is cleaned.

    Returns:
        A sentence for each kind of leftover that was removed.
    """
    folder = workspace.root / ".dvc"
    if not folder.is_dir():
        return []
    said = []
    if count := _remove(_entries(folder), is_entry):
        said.append(f"half-written entries in DVC's cache of runs: {count} removed; their stages run again")
    if count := _remove(_records(folder), _is_json):
        said.append(f"half-written records of DVC's experiments: {count} removed")
    if count := _remove(_databases(folder), is_database):
        said.append(f"cut off databases of DVC's hashes: {count} removed; DVC hashes the files anew")
    for lock in (folder / "tmp" / "rwlock", folder / "tmp" / "exps" / "rwlock"):
        if lock.exists() and _repair_rwlock(lock):
            said.append(f"{lock.relative_to(workspace.root)}: locks removed that a killed DVC had left")
    return said


def is_entry(path: Path) -> bool:
    """Returns whether a file in the cache of runs is a whole entry: its name is the hash of its content."""
    from dvc.exceptions import DvcException
    from dvc.utils import dict_sha256
    from dvc.utils.serialize import load_yaml

    if path.name.endswith(".tmp"):
        return False
    try:
        content = load_yaml(path)
        return bool(path.name == dict_sha256(content, exclude=["size", "nfiles"]))
    except FileNotFoundError:
        return True  # it has been renamed to its final name
    except (DvcException, AttributeError, TypeError, ValueError, LookupError, RecursionError):
        return False


def is_database(path: Path) -> bool:
    """Returns whether an SQLite file is empty or at least as long as its header says."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(HEADER)
    except OSError:
        return True  # removed since it was listed, or another user's
    if size == 0:
        return True
    if len(header) < HEADER or not header.startswith(b"SQLite format 3\0"):
        return False
    page = int.from_bytes(header[16:18], "big")
    return size >= (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")


def _databases(folder: Path) -> Iterator[Path]:
    from dvc.dirs import site_cache_dir

    # DVC names a checkout's database by a hash of its own. A truncated one is of no use to any checkout.
    for path in Path(site_cache_dir(_config_value(folder, "core", "site_cache_dir"))).glob("repo/*/**/*.db"):
        if path.is_file() and os.access(path, os.W_OK):
            yield path


def _config_value(folder: Path, section: str, name: str) -> Any:
    """Returns a value of DVC's configuration; None if it is not set or the configuration is invalid.

    Args:
        folder: The folder `.dvc`.
        section: Section of the configuration.
        name: Option of the section.
    """
    from dvc.config import Config, ConfigError

    try:
        return Config(str(folder))[section].get(name)
    except ConfigError:
        return None  # DVC reports an invalid configuration itself


def _entries(folder: Path) -> Iterator[Path]:
    named = _config_value(folder, "cache", "dir")
    cache = Path(folder, named) if named else folder / "cache"
    for path in (cache / "runs").glob("*/*/*"):
        if path.is_file():
            yield path


def _records(folder: Path) -> Iterator[Path]:
    there = folder / "tmp" / "exps"
    # These patterns do not enter the experiments' copies of the checkout.
    for pattern in ("run/*/*.run", "standalone/run/*/*.run", "celery/broker/*/*", "celery/result/*"):
        yield from (path for path in there.glob(pattern) if path.is_file())


def _remove(paths: Iterator[Path], is_whole: Callable[[Path], bool]) -> int:
    broken = [path for path in paths if not is_whole(path)]
    if broken:
        time.sleep(PAUSE_S)
    count = 0
    for path in broken:
        if path.exists() and not is_whole(path):
            path.unlink(missing_ok=True)
            count += 1
    return count


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True


def _repair_rwlock(path: Path) -> bool:
    """Removes locks of processes that have ended from a file of locks. Returns whether there were any."""
    from dvc.lock import LockError, make_lock

    try:
        with make_lock(str(path) + ".lock", tmp_dir=str(path.parent)):
            text, written = path.read_text(encoding="utf-8", errors="replace"), path.stat().st_mtime
            left = _living(text, written)
            if left == text:
                return False
            write_whole(path, left)
            return True
    except LockError:
        return False  # a running DVC is writing it


def _living(text: str, written: float) -> str:
    from dvc.rwlock import SCHEMA
    from voluptuous import Invalid

    try:
        locks = SCHEMA(json.loads(text))
    except (ValueError, Invalid):
        return "{}"
    read = {path: [each for each in holders if _lives(each["pid"], written)] for path, holders in locks["read"].items()}
    write = {path: each for path, each in locks["write"].items() if _lives(each["pid"], written)}
    left = {"read": {path: holders for path, holders in read.items() if holders}, "write": write}
    return text if left == {key: locks[key] for key in left} else json.dumps(left)


def _lives(pid: int, written: float) -> bool:
    """Returns whether a process runs that started before the file was written. A later one only has the same number."""
    import psutil

    try:
        return bool(psutil.Process(pid).create_time() <= written + SLACK_S)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True

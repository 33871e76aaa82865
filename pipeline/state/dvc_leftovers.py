"""What a DVC that was killed has left half-written under `.dvc`, taken out of the way of the next one.

DVC puts objects of its cache in place whole. Other files it writes where they stand, and the next DVC stops at what is
cut off, in words of its own:

    cache/runs/<..>/<..>/   what each stage made of what: DVC reads whatever lies there, also under the names that end
                            in .tmp. Without an entry the stage runs again.
    tmp/rwlock              which process uses which path. Entries of processes that have ended mean nothing; one whose
    tmp/exps/rwlock         number another process has by now (a container that was started again) blocks for good.
    tmp/exps/**.run, .msg   an experiment's place and state; a queue's messages. Of what was cut off nothing is known.
    <site cache>/repo/*     databases of hashes and links, that a kill leaves whole and a loss of power may
                            not; what is in them is found again

dvc.lock is `pipeline.state.dvc_lock`'s.
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
"""After which a file that another DVC is writing at this moment is whole, or has its own name."""

HEADER = 100
"""Bytes at the beginning of an SQLite file that say what it is."""

SLACK_S = 2.0
"""By which the clocks of processes and files may differ."""


def remove_leftovers(workspace: Workspace) -> list[str]:
    """Remove what is cut off, and locks of processes that have ended. Returns what was done, a line a kind."""
    folder = workspace.root / ".dvc"
    if not folder.is_dir():
        return []
    said = []
    if count := _remove(_entries(folder), is_entry):
        said.append(f"half-written entries in DVC's cache of runs: {count} removed; what they stood for runs again")
    if count := _remove(_records(folder), _is_json):
        said.append(f"half-written records of DVC's experiments: {count} removed")
    if count := _remove(_databases(folder), is_database):
        said.append(f"cut off databases of DVC's hashes: {count} removed; it hashes anew")
    for lock in (folder / "tmp" / "rwlock", folder / "tmp" / "exps" / "rwlock"):
        if lock.exists() and _repair_rwlock(lock):
            said.append(f"{lock.relative_to(workspace.root)}: freed of what a DVC that was killed had left in it")
    return said


def is_entry(path: Path) -> bool:
    """Whether a file in the cache of runs is a whole entry: its name is the hash of what is in it."""
    from dvc.exceptions import DvcException
    from dvc.utils import dict_sha256
    from dvc.utils.serialize import load_yaml

    if path.name.endswith(".tmp"):
        return False
    try:
        content = load_yaml(path)
        return bool(path.name == dict_sha256(content, exclude=["size", "nfiles"]))
    except FileNotFoundError:
        return True  # it has its own name by now
    except (DvcException, AttributeError, TypeError, ValueError, LookupError, RecursionError):
        return False


def is_database(path: Path) -> bool:
    """Whether an SQLite file is as long as it says, or new."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(HEADER)
    except OSError:
        return True  # it is not there any more, or not ours
    if size == 0:
        return True
    if len(header) < HEADER or not header.startswith(b"SQLite format 3\0"):
        return False
    page = int.from_bytes(header[16:18], "big")
    return size >= (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")


def _databases(folder: Path) -> Iterator[Path]:
    from dvc.dirs import site_cache_dir

    # DVC names a checkout's by a hash of its own; what is cut off is of no use to any.
    for path in Path(site_cache_dir(_config_value(folder, "core", "site_cache_dir"))).glob("repo/*/**/*.db"):
        if path.is_file() and os.access(path, os.W_OK):
            yield path


def _config_value(folder: Path, section: str, name: str) -> Any:
    from dvc.config import Config, ConfigError

    try:
        return Config(str(folder))[section].get(name)
    except ConfigError:
        return None  # which DVC tells


def _entries(folder: Path) -> Iterator[Path]:
    named = _config_value(folder, "cache", "dir")
    cache = Path(folder, named) if named else folder / "cache"
    for path in (cache / "runs").glob("*/*/*"):
        if path.is_file():
            yield path


def _records(folder: Path) -> Iterator[Path]:
    there = folder / "tmp" / "exps"
    # Not below: experiments' copies of the checkout.
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
    """Take out of a file of locks what no living process can have put there. Returns whether anything was."""
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
        return False  # a living DVC is writing it


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
    """Whether a process is there, and has been since before the file was written: else it is another of its number."""
    import psutil

    try:
        return bool(psutil.Process(pid).create_time() <= written + SLACK_S)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True

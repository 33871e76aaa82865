"""dvc.lock after a DVC that was killed while it wrote it.

DVC empties the file before it fills it again, once a stage, and will not start with a file that is cut off. So a copy
of the last whole one is kept, and put back. DVC then finds what it did after that copy in its cache of runs.
"""

import shutil
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import UserError
from pipeline.files.atomic import replace_file
from pipeline.workspace import Workspace

CONFLICT = "<<<<<<<"


def is_whole(lock: Path) -> bool:
    """Whether DVC would take a lock file. It may still lack stages, where it was cut off between two."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        read = YAML(typ="safe").load(lock.read_text(encoding="utf-8"))
        COMPILED_LOCKFILE_SCHEMA(read)
    except (YAMLError, UnicodeDecodeError, Invalid):
        return False
    return True


def repair_lock(workspace: Workspace) -> str | None:
    """Put a whole lock file in the place of one that was cut off, or none. Returns what was done, if anything.

    Raises:
        UserError: the file has the marks of a merge that is not done.
    """
    lock, kept = workspace.root / "dvc.lock", workspace.state / "dvc.lock"
    if not lock.exists() or is_whole(lock):
        return None
    if CONFLICT in lock.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{lock}: the marks of a merge are in it; take one side: git checkout --ours dvc.lock")
    aside = workspace.state / "dvc.lock.broken"
    aside.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(lock, aside)
    said = f"dvc.lock was cut off, by a DVC that was killed while writing it; it is in {aside} now, and "
    if kept.exists() and is_whole(kept):
        _replace(kept, lock)
        return said + "the one from before is in its place"
    lock.unlink()
    return said + "DVC looks anew at what has run"


def keep_lock(workspace: Workspace) -> None:
    """Keep a copy of the lock file for `repair_lock`, if it is whole."""
    lock = workspace.root / "dvc.lock"
    if lock.exists() and is_whole(lock):
        workspace.state.mkdir(parents=True, exist_ok=True)
        _replace(lock, workspace.state / "dvc.lock")


def _replace(source: Path, target: Path) -> None:
    with replace_file(target) as partial:
        shutil.copyfile(source, partial)

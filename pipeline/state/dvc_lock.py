"""Repair of dvc.lock after a DVC that was killed while it wrote the file.

DVC empties the file and fills it again after every stage, and refuses to start with a truncated one. A copy of the last
whole file is therefore stored, and put back when needed. DVC finds what it ran after that copy in its cache of runs.
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
    """Returns whether DVC would accept a lock file. A file truncated between two stages passes, but lacks stages."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        read = YAML(typ="safe").load(lock.read_text(encoding="utf-8"))
        COMPILED_LOCKFILE_SCHEMA(read)
    except (YAMLError, UnicodeDecodeError, Invalid):
        return False
    return True


def repair_lock(workspace: Workspace) -> str | None:
    """Replaces a truncated lock file by the stored copy, or removes it if there is no whole copy.

    Args:
        workspace: Workspace whose dvc.lock is repaired.

    Returns:
        A sentence that says what was done; None if the file is whole or missing.

    Raises:
        UserError: the file contains the conflict marks of an unfinished merge.
    """
    lock, kept = workspace.root / "dvc.lock", workspace.state / "dvc.lock"
    if not lock.exists() or is_whole(lock):
        return None
    if CONFLICT in lock.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{lock}: contains the marks of a merge conflict; take one side: git checkout --ours dvc.lock")
    aside = workspace.state / "dvc.lock.broken"
    aside.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(lock, aside)
    said = f"dvc.lock was cut off, by a DVC that was killed while writing it; it is in {aside} now, and "
    if kept.exists() and is_whole(kept):
        _replace(kept, lock)
        return said + "the last whole copy is in its place"
    lock.unlink()
    return said + "DVC finds out anew which stages have run"


def keep_lock(workspace: Workspace) -> None:
    """Stores a copy of the lock file for `repair_lock`, if the file is whole.

    Args:
        workspace: Workspace whose dvc.lock is copied.
    """
    lock = workspace.root / "dvc.lock"
    if lock.exists() and is_whole(lock):
        workspace.state.mkdir(parents=True, exist_ok=True)
        _replace(lock, workspace.state / "dvc.lock")


def _replace(source: Path, target: Path) -> None:
    with replace_file(target) as partial:
        shutil.copyfile(source, partial)

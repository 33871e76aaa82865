"""What a stage's outs depend on by dvc.yaml, parameters and files, as it stood when the stage began.

DVC notes both as they stand when a stage has ended, whatever the stage has read. So a stage looks again when it ends,
and where something has changed it fails, for which DVC notes nothing. Parameters that are not in the stage's list may
change at any time.
"""

import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Values, parameters
from pipeline.config.yaml import read_yaml
from pipeline.errors import UserError, format_value, join_lines, quote_name
from pipeline.files.file_stats import hash_file
from pipeline.workspace import Workspace

READ_WHOLE = (".py", ".yaml", ".json", ".csv")
"""Files that people and programs write anew without changing them: known by what is in them, up to `SMALL`."""

SMALL = 2**20

IGNORED = ("__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")
"""As .dvcignore has them."""

LOOKS, PAUSE_S = 5, 0.3
"""How often what has changed is looked at again, and how long after."""

_ABSENT = object()
_INTERPOLATED = re.compile(r"\$\{([\w.]+)\}")
Tree = Mapping[str, Any]
"""A mapping of dvc.yaml."""


@dataclass(frozen=True)
class Inputs:
    """params: values by dotted path, as the file has them. deps: the files and folders, by path in the checkout.

    files: every file of these, with what tells its content from another.
    """

    params: Values
    deps: tuple[str, ...]
    files: Mapping[str, str]


def read_inputs(workspace: Workspace, stage: str) -> Inputs:
    """What a stage depends on, as it stands now.

    Raises:
        UserError: params.yaml or dvc.yaml cannot be read.
    """
    stages = _mapping(_mapping(read_yaml(workspace.root / "dvc.yaml")).get("stages"))
    declared, tree = _mapping(stages.get(stage)), read_yaml(workspace.params)
    deps = _filled(declared, tree)
    paths = [path for entry in _listed(declared, "params") for path in _leaves(entry)]
    return Inputs(_values(tree, paths), deps, _marks(workspace.root, deps))


def absent_parameters(workspace: Workspace) -> list[str]:
    """The parameters that a stage of dvc.yaml lists, or has in a path, and params.yaml has not, by dotted path.

    DVC starts no stage that lists such a one, whatever its default.

    Raises:
        UserError: params.yaml or dvc.yaml cannot be read.
    """
    stages, tree = _mapping(_mapping(read_yaml(workspace.root / "dvc.yaml")).get("stages")), read_yaml(workspace.params)
    listed: dict[str, None] = {}
    for declared in map(_mapping, stages.values()):
        for entry in _listed(declared, "params"):
            # Of a section that is listed whole, the file may leave parameters out, but not all of them.
            whole = _value(tree, entry, _ABSENT) is _ABSENT
            listed |= dict.fromkeys(_leaves(entry) if whole else [entry])
        listed |= dict.fromkeys(name for dep in _listed(declared, "deps") for name in _INTERPOLATED.findall(dep))
    return [path for path in listed if _value(tree, path, _ABSENT) is _ABSENT]


def check_carried(workspace: Workspace) -> None:
    """Refuse to begin in an experiment's copy of the checkout that lacks a file which git does not know.

    Raises:
        UserError: the checkout has a file that a stage depends on, and the copy has not; names it.
    """
    if workspace.root == workspace.anchor:
        return
    stages, tree = _mapping(_mapping(read_yaml(workspace.root / "dvc.yaml")).get("stages")), read_yaml(workspace.params)
    for declared in map(_mapping, stages.values()):
        for dep in _filled(declared, tree):
            # What stages make, git does not know either; DVC brings or makes it.
            if not (workspace.root / dep).exists() and dep.endswith(READ_WHOLE) and _is_source(workspace.anchor, dep):
                raise UserError(
                    f"{dep}: not in this experiment's copy of {workspace.anchor}, which holds what git knows. "
                    f"Type `git add {shlex.quote(dep)}` there, and start the experiment again."
                )


def _is_source(root: Path, dep: str) -> bool:
    return (root / dep).is_file() and not dep.startswith(("data/", "models/", "results/"))


def check_unchanged(workspace: Workspace, stage: str, began: Inputs) -> None:
    """Refuse to end well with outs that DVC would note for other parameters or files than they were made from.

    Raises:
        UserError: something has changed; names it, with the values of parameters then and now.
    """
    found = _changes(workspace, began)
    for _ in range(LOOKS):
        if not found:
            return
        time.sleep(PAUSE_S)  # an editor may be in the middle of writing
        before, found = found, _changes(workspace, began)
        if found == before:
            break
    if found:
        raise UserError(
            f"changed while the stage {stage} ran:\n{join_lines(found)}\n"
            "What the stage made is of what stood there when it began, and DVC would note it as of what stands there "
            "now; so it ends as failed, and nothing is noted. Run the same command again; with everything put back, "
            "it goes on from what has run."
        )


def _changes(workspace: Workspace, began: Inputs) -> list[str]:
    try:
        params = _values(read_yaml(workspace.params), began.params)
    except UserError as error:
        return [str(error)]
    lines = [
        f"params.yaml: {path}: {format_value(was, 60)} when it began, {format_value(params[path], 60)} now"
        for path, was in began.params.items()
        if was != params[path] and repr(was) != repr(params[path])  # a NaN differs from itself
    ]
    files = _marks(workspace.root, began.deps)
    for path in sorted(began.files.keys() | files.keys()):
        if path not in files:
            lines.append(f"{quote_name(path)}: no longer there")
        elif path not in began.files:
            lines.append(f"{quote_name(path)}: new")
        elif files[path] != began.files[path]:
            lines.append(f"{quote_name(path)}: another content")
    return lines


def _filled(declared: Tree, tree: Any) -> tuple[str, ...]:
    """The files and folders that a stage depends on, with the parameters that stand in their paths."""
    filled = (_INTERPOLATED.sub(lambda match: str(_value(tree, match[1])), dep) for dep in _listed(declared, "deps"))
    return tuple(dep for dep in filled if "://" not in dep)


def _listed(declared: Tree, key: str) -> list[str]:
    entries = declared.get(key)
    return [entry for entry in entries if isinstance(entry, str)] if isinstance(entries, list) else []


def _leaves(entry: str) -> list[str]:
    """The parameters of a section that dvc.yaml lists whole; of anything else, itself."""
    return [path for path in parameters() if path.startswith(f"{entry}.")] or [entry]


def _values(tree: Any, paths: Iterable[str]) -> Values:
    return {path: _value(tree, path) for path in paths}


def _value(tree: Any, path: str, absent: Any = None) -> Any:
    for key in path.split("."):
        if not isinstance(tree, Mapping) or key not in tree:
            return absent
        tree = tree[key]
    return tree


def _marks(root: Path, deps: Iterable[str]) -> dict[str, str]:
    return {str(file.relative_to(root)): mark for dep in deps for file in _files(root / dep) if (mark := _mark(file))}


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name not in IGNORED]
        yield from (Path(folder, name) for name in names if not name.endswith(".pyc"))


def _mark(file: Path) -> str | None:
    """What changes with a file's content: its hash where it is small, else size and time of change."""
    try:
        stat = file.stat()
        if file.suffix in READ_WHOLE and stat.st_size <= SMALL:
            return hash_file(file)
    except OSError:
        return None
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _mapping(value: Any) -> Tree:
    return value if isinstance(value, Mapping) else {}

"""Inputs of a stage as they were when the stage began: the parameters and files on which its outs depend by dvc.yaml.

DVC records both as they are when a stage has ended, whatever the stage has read. A stage therefore checks them
again at its end. If they have changed, it fails, and DVC records nothing. Parameters that are not in the stage's
list may change at any time.
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
"""Suffixes of files that are often rewritten without a change. They are compared by content, up to `SMALL` bytes."""

SMALL = 2**20

IGNORED = ("__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")
"""Folders that are ignored, as in .dvcignore."""

LOOKS, PAUSE_S = 5, 0.3
"""Largest number of further checks of a change, and seconds before each."""

_ABSENT = object()
_INTERPOLATED = re.compile(r"\$\{([\w.]+)\}")
Tree = Mapping[str, Any]
"""A mapping of dvc.yaml."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of a stage.

    Attributes:
        params: Values by dotted path, as the file has them.
        deps: Files and folders, as paths relative to the checkout.
        files: Mark of the content of every file of `deps`, by path.
    """

    params: Values
    deps: tuple[str, ...]
    files: Mapping[str, str]


def read_inputs(workspace: Workspace, stage: str) -> Inputs:
    """Returns the current inputs of a stage.

    Args:
        workspace: Workspace of the stage.
        stage: Name of the stage.

    Raises:
        UserError: params.yaml or dvc.yaml cannot be read.
    """
    stages = _mapping(_mapping(read_yaml(workspace.root / "dvc.yaml")).get("stages"))
    declared, tree = _mapping(stages.get(stage)), read_yaml(workspace.params)
    deps = _filled(declared, tree)
    paths = [path for entry in _listed(declared, "params") for path in _leaves(entry)]
    return Inputs(_values(tree, paths), deps, _marks(workspace.root, deps))


def absent_parameters(workspace: Workspace) -> list[str]:
    """Returns the parameters that dvc.yaml lists, or uses in a path, and params.yaml lacks, by dotted path.

    DVC starts no stage that lists such a parameter, even if it has a default.

    Args:
        workspace: Workspace of the checkout.

    Raises:
        UserError: params.yaml or dvc.yaml cannot be read.
    """
    stages, tree = _mapping(_mapping(read_yaml(workspace.root / "dvc.yaml")).get("stages")), read_yaml(workspace.params)
    listed: dict[str, None] = {}
    for declared in map(_mapping, stages.values()):
        for entry in _listed(declared, "params"):
            # If a section is listed whole, the file may omit some of its parameters, but not all of them.
            whole = value_at(tree, entry, _ABSENT) is _ABSENT
            listed |= dict.fromkeys(_leaves(entry) if whole else [entry])
        listed |= dict.fromkeys(name for dep in _listed(declared, "deps") for name in _INTERPOLATED.findall(dep))
    return [path for path in listed if value_at(tree, path, _ABSENT) is _ABSENT]


def check_carried(workspace: Workspace) -> None:
    """Checks that an experiment's copy of the checkout has all files that the stages need.

    A copy lacks files that git does not track.

    Args:
        workspace: Workspace of the copy.

    Raises:
        UserError: the checkout has a file that a stage depends on, and the copy lacks it. The message names the file.
    """
    if workspace.root == workspace.anchor:
        return
    stages, tree = _mapping(_mapping(read_yaml(workspace.root / "dvc.yaml")).get("stages")), read_yaml(workspace.params)
    for declared in map(_mapping, stages.values()):
        for dep in _filled(declared, tree):
            # Git does not track the outs of stages either, but DVC provides them.
            if not (workspace.root / dep).exists() and dep.endswith(READ_WHOLE) and _is_source(workspace.anchor, dep):
                raise UserError(
                    f"{dep}: not in this experiment's copy of {workspace.anchor}, which has only what git tracks. "
                    f"Type `git add {shlex.quote(dep)}` there, and start the experiment again."
                )


def _is_source(root: Path, dep: str) -> bool:
    return (root / dep).is_file() and not dep.startswith(("data/", "models/", "results/"))


def check_unchanged(workspace: Workspace, stage: str, began: Inputs) -> None:
    """Checks that no input of a stage has changed since the stage began.

    Otherwise DVC would record the stage's outs for other parameters or files than they were made from.

    Args:
        workspace: Workspace of the stage.
        stage: Name of the stage.
        began: Inputs when the stage began.

    Raises:
        UserError: inputs have changed. The message names them, with the values of parameters then and now.
    """
    found = _changes(workspace, began)
    for _ in range(LOOKS):
        if not found:
            return
        time.sleep(PAUSE_S)  # an editor may be writing the file at this moment
        before, found = found, _changes(workspace, began)
        if found == before:
            break
    if found:
        raise UserError(
            f"changed while the stage {stage} ran:\n{join_lines(found)}\n"
            "The stage used the content at its beginning, but DVC would record its results for the current content. "
            "The stage therefore fails, and nothing is recorded. Run the same command again; with the changes undone, "
            "it continues from what has run."
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
    """Returns the files and folders that a stage depends on, with parameters in their paths replaced by their
    values.
    """
    filled = (_INTERPOLATED.sub(lambda match: str(value_at(tree, match[1])), dep) for dep in _listed(declared, "deps"))
    return tuple(dep for dep in filled if "://" not in dep)


def _listed(declared: Tree, key: str) -> list[str]:
    entries = declared.get(key)
    return [entry for entry in entries if isinstance(entry, str)] if isinstance(entries, list) else []


def _leaves(entry: str) -> list[str]:
    """Returns the parameters of a section that dvc.yaml lists whole; for any other entry, the entry itself."""
    return [path for path in parameters() if path.startswith(f"{entry}.")] or [entry]


def _values(tree: Any, paths: Iterable[str]) -> Values:
    return {path: value_at(tree, path) for path in paths}


def value_at(tree: Any, path: str, absent: Any = None) -> Any:
    """Returns the value at a dotted path.

    Args:
        tree: Content of a YAML file.
        path: Dotted path.
        absent: Value to return if there is none.
    """
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
    """Returns a mark that changes with a file's content: the hash of a small text file, else size and time of
    change.
    """
    try:
        stat = file.stat()
        if file.suffix in READ_WHOLE and stat.st_size <= SMALL:
            return hash_file(file)
    except OSError:
        return None
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _mapping(value: Any) -> Tree:
    return value if isinstance(value, Mapping) else {}

"""The names that a package defines: modules, constants, classes, functions, parameters and attributes of classes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class DefinedName(NamedTuple):
    """A name at the place that defines it. kind: module, constant, class, function, parameter or attribute."""

    file: Path
    line: int
    kind: str
    name: str


def words_of(name: str) -> list[str]:
    """Returns the words of an identifier in lower case: of `_maxTrialRuns_s`, max, trial, runs and s."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]


def defined_names(package: Path) -> Iterator[DefinedName]:
    """Yields the names of every module under a folder, in the order of the files."""
    for file in sorted(package.rglob("*.py")):
        folder = file.parent if file.stem in ("__init__", "__main__") else file
        yield DefinedName(file, 1, "module", folder.stem)
        yield from names_in(ast.parse(file.read_text(encoding="utf-8")), file)


def names_in(tree: ast.Module, file: Path) -> Iterator[DefinedName]:
    """Yields the names that a module's source defines, functions and classes inside of others among them."""
    for statement in tree.body:
        for target in _targets(statement):
            for part in ast.walk(target):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                    yield DefinedName(file, part.lineno, "constant", part.id)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield DefinedName(file, node.lineno, "class", node.name)
            yield from _attributes(node, file)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield DefinedName(file, node.lineno, "function", node.name)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            given = node.args
            last = [each for each in (given.vararg, given.kwarg) if each is not None]
            for parameter in (*given.posonlyargs, *given.args, *given.kwonlyargs, *last):
                yield DefinedName(file, parameter.lineno, "parameter", parameter.arg)


def local_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields line and name of everything that a module's source assigns, what its functions hold for a moment too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def _attributes(node: ast.ClassDef, file: Path) -> Iterator[DefinedName]:
    """Yields what the class's body assigns, and what is assigned to `self` or `cls`, each at its first place."""
    found: dict[str, int] = {}
    for statement in node.body:
        for target in _targets(statement):
            if isinstance(target, ast.Name):
                found.setdefault(target.id, target.lineno)
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and _is_own(part.value):
            found[part.attr] = min(part.lineno, found.get(part.attr, part.lineno))
    for name, line in found.items():
        yield DefinedName(file, line, "attribute", name)


def _is_own(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def _targets(statement: ast.stmt) -> list[ast.expr]:
    if isinstance(statement, ast.AnnAssign):
        return [statement.target]
    return statement.targets if isinstance(statement, ast.Assign) else []

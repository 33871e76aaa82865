"""The imports of `pipeline/` as its files write them: read by ast, nothing is imported."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pipeline"


def modules() -> dict[str, Path]:
    """Every file of `pipeline/` by its dotted name; a package's is that of its `__init__`."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {".".join(name_parts(file.relative_to(ROOT))): file.relative_to(ROOT) for file in files}


def name_parts(file: Path) -> tuple[str, ...]:
    parts = file.with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def is_own_module(file: Path) -> bool:
    """Whether a file is a module with a name of its own, and not what its folder is called by."""
    return file.stem not in ("__init__", "__main__")


def room(file: Path) -> str:
    """The top-level folder of `pipeline/` that a file lies in; a file outside of them is a room by itself."""
    return file.parts[1] if len(file.parts) > 2 else file.stem


@cache
def import_graph() -> Mapping[Path, frozenset[Path]]:
    """The files that each file imports, in functions and for type checking too.

    An import of a name out of a package counts as one of its `__init__`; that Python runs the `__init__` of the
    packages above a module does not count.
    """
    known = modules()
    return {file: frozenset(imported_files(file, known)) - {file} for file in known.values()}


def imported_files(file: Path, known: Mapping[str, Path]) -> Iterator[Path]:
    package = file.parent.parts
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (known[alias.name] for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *([node.module] if node.module else [])))
            for alias in node.names:
                found = known.get(f"{module}.{alias.name}", known.get(module))
                if found is not None:
                    yield found


def find_circle(graph: Mapping[Path, Iterable[Path]]) -> list[Path] | None:
    """Files of which each imports the next, and the last one is the first again; None if there are none such."""
    done: set[Path] = set()
    for start in graph:
        trail: list[Path] = []
        if (circle := _circle_from(start, graph, done, trail)) is not None:
            return circle
    return None


def _circle_from(
    file: Path, graph: Mapping[Path, Iterable[Path]], done: set[Path], trail: list[Path]
) -> list[Path] | None:
    if file in trail:
        return [*trail[trail.index(file) :], file]
    if file in done:
        return None
    trail.append(file)
    for imported in sorted(graph.get(file, ())):
        if (circle := _circle_from(imported, graph, done, trail)) is not None:
            return circle
    trail.pop()
    done.add(file)
    return None


def rooms_reached(graph: Mapping[Path, Iterable[Path]]) -> dict[str, set[str]]:
    """For each room itself and every room that it imports, straight or through others."""
    reached: dict[str, set[str]] = {}
    for file, imported in graph.items():
        reached.setdefault(room(file), {room(file)}).update(map(room, imported))
    while True:
        wider = {name: set().union(*(reached[other] for other in others)) for name, others in reached.items()}
        if wider == reached:
            return reached
        reached = wider

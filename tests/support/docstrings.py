"""What docstrings of pipeline/ lack by CONTRIBUTING.md's rules for prose: sections, parameters, first words, lengths.

On its own, `python tests/support/docstrings.py FOLDER_OR_FILE ...` prints the violations of these files.
"""

import ast
import re
import sys
from collections.abc import Iterator, Set
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "pipeline"

Function = ast.FunctionDef | ast.AsyncFunctionDef

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example", "Examples", "Note", "Notes", "Source")
MANY = 3
"""Parameters from which on a function says of each what it is, whoever calls it."""
LONGEST_SENTENCE = 30
HEADLESS = frozenset(
    re.findall(
        r"\w+",
        "What Whether Which Those That Of How Where When Why Whose Who As If Is It Its Their This These Such Same From "
        "To With Without In Inside By For On At Into Beside Before After Not Nor And Or But So",
    )
)
"""First words of a docstring or sentence that leave its subject to be guessed."""
ALSO_WITH_S = {"Its", "Is", "As", "This", "Has", "Was", "Always", "Thus", "Perhaps", "Besides", "Numbers", "Values"}
HEADLESS_LATER = {"What", "Whether", "Which", "Those", "Of", "That", "Whose", "Such"}


class Violation(NamedTuple):
    file: Path
    line: int
    name: str
    fault: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.name}: {self.fault}"


def split_sections(docstring: str) -> tuple[str, dict[str, str]]:
    """The text before the first section, and the sections by their heading."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):[ \t]*$", docstring, flags=re.MULTILINE)
    return parts[0].strip(), dict(zip(parts[1::2], parts[2::2], strict=True))


def named_in(section: str) -> set[str]:
    """The names at the beginning of a section's entries; one entry may name several."""
    indents = [len(line) - len(line.lstrip()) for line in section.splitlines() if line.strip()]
    if not indents:
        return set()
    pattern = rf"^ {{{min(indents)}}}(\*{{0,2}}\w+(?:, \*{{0,2}}\w+)*):"
    return {
        name.strip().lstrip("*") for found in re.findall(pattern, section, re.MULTILINE) for name in found.split(",")
    }


def parameters(function: Function) -> list[str]:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
    return [each.arg for each in every if each.arg not in ("self", "cls") and not each.arg.startswith("_")]


def decorators(function: Function) -> set[str]:
    return {word for each in function.decorator_list for word in re.findall(r"\w+", ast.unparse(each))}


def sentences(text: str) -> list[str]:
    """The sentences of a text, without its code, equations, tables and lists."""
    paragraphs = re.split(r"\n\s*\n", text)
    prose = [each for each in paragraphs if not re.search(r"^( {4,}|\s*([-*|>]|\d+\.) )", each, re.MULTILINE)]
    return [
        each.strip()
        for paragraph in prose
        for each in re.split(r"(?<=[.!?;:])\s+", " ".join(paragraph.split()))
        if each.strip()
    ]


@cache
def rooms_face() -> frozenset[tuple[str, str]]:
    """(module, name) of the functions that a module of another folder of pipeline/ imports."""
    found = set()
    for path in PIPELINE.rglob("*.py"):
        here = _module(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            module = node.module or ""
            if node.level:
                above = here.split(".")[: -node.level + (path.name == "__init__.py") or None]
                module = ".".join([*above, module] if module else above)
            if module.startswith("pipeline.") and _room(module) != _room(here):
                found |= {(module, alias.name) for alias in node.names}
    return frozenset(found)


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _room(module: str) -> str:
    return module.split(".")[1]


def violations(path: Path) -> Iterator[Violation]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    shown = path.relative_to(ROOT)
    for line, name, faults in _walk(tree, _module(path)):
        for fault in faults:
            yield Violation(shown, line, name, fault)


def _walk(tree: ast.Module, module: str) -> Iterator[tuple[int, str, list[str]]]:
    yield 1, "module", _faults_of_text(ast.get_docstring(tree) or "", set(), verb=False)
    for node in tree.body:
        if isinstance(node, Function):
            yield node.lineno, node.name, _faults_of_function(node, (module, node.name) in rooms_face())
        elif isinstance(node, ast.ClassDef):
            yield from _walk_class(node)


def _walk_class(node: ast.ClassDef, outer: str = "") -> Iterator[tuple[int, str, list[str]]]:
    text = ast.get_docstring(node) or ""
    fields = {
        each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    own = [each for each in node.body if isinstance(each, Function)]
    made_by = {name for each in own if each.name == "__init__" for name in parameters(each)}
    name = f"{outer}{node.name}"
    yield node.lineno, name, _faults_of_text(text, fields | made_by, verb=False)
    sections = split_sections(text)[1]
    by_class = named_in(sections.get("Args", "")) | named_in(sections.get("Attributes", ""))
    for each in own:
        if ast.get_docstring(each) is None and node.bases and each.name != "__init__":
            continue  # what it overrides says it
        named = by_class if each.name == "__init__" else set()
        yield each.lineno, f"{name}.{each.name}", _faults_of_function(each, False, named)
    for inner in node.body:
        if isinstance(inner, ast.ClassDef):
            yield from _walk_class(inner, f"{name}.")


def _faults_of_function(node: Function, face: bool, named: Set[str] = frozenset()) -> list[str]:
    words = decorators(node)
    if words & {"overload", "command", "group"}:
        return []  # a command's docstring is its help
    text = ast.get_docstring(node)
    given = parameters(node)
    asked = given if face or len(given) >= MANY else []
    if text is None:
        missing = [each for each in asked if each not in named]
        return [f"has no docstring, and parameters {', '.join(missing)}"] if missing else []
    sections = split_sections(text)[1]
    told = named_in(sections.get("Args", ""))
    faults = []
    if missing := [each for each in asked if each not in told | named]:
        faults.append(f"Args: lacks {', '.join(missing)}")
    if unknown := sorted(told - set(given)):
        faults.append(f"Args: names {', '.join(unknown)}, which it does not take")
    verb = not words & {"property", "cached_property", "fixture", "setter"}
    return faults + _faults_of_text(text, set(given), verb=verb)


def _faults_of_text(text: str, names: set[str], *, verb: bool) -> list[str]:
    """names: what stands in running text as `name: ...`, and belongs into a section. verb: of a function."""
    if not text:
        return []
    before, sections = split_sections(text)
    faults = []
    words = before.split()
    first = re.sub(r"\W+$", "", words[0]) if words else ""
    if verb and not (re.fullmatch(r"[A-Z][a-z]+(-[a-z]+)?s", first) and first not in HEADLESS | ALSO_WITH_S):
        faults.append(f"begins with {first!r}, not with a verb such as Returns, Writes, Checks")
    elif first in HEADLESS:
        faults.append(f"begins with {first!r}, which names nothing")
    packed = [each for each in sorted(names) if re.search(rf"(^|[.;]\s+){each}(, \w+)*: ", before)]
    if packed:
        faults.append(f"{', '.join(packed)}: in running text; make it a line of Args: or Attributes:")
    for each in sentences(before):
        count = len(each.split())
        if count > LONGEST_SENTENCE:
            faults.append(f"a sentence of {count} words: {each[:50]!r}")
        start = each.split()[0]
        if start in HEADLESS_LATER and each != sentences(before)[0]:
            faults.append(f"a sentence begins with {start!r}: {each[:50]!r}")
    for heading, section in sections.items():
        if heading in ("Args", "Attributes") and not named_in(section):
            faults.append(f"{heading}: has no line `name: ...`")
    return faults


def files_of(places: list[str]) -> list[Path]:
    found: list[Path] = []
    for place in places or [str(PIPELINE)]:
        path = Path(place).resolve()
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return found


if __name__ == "__main__":
    every = [each for path in files_of(sys.argv[1:]) for each in violations(path)]
    for each in every:
        print(each)
    print(f"{len(every)} violations")
    sys.exit(bool(every))

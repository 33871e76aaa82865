"""What the docs say of the tree: each path, module and name of code that they mention is there."""

import importlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FOLDERS = ("pipeline", "tests", "benchmarks", "docker", "search_spaces")


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def code_spans(page: Path) -> list[str]:
    """What stands between backticks, outside of blocks of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def paths_in(span: str) -> set[str]:
    """Modules (`name.py`, `folder/name.py`) and paths that begin with a folder of this repository."""
    modules = re.findall(r"(?<![\w./*<-])[\w./-]*\w\.py\b", span)
    below = re.findall(rf"(?<![\w./*<-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w", span)
    return {*modules, *below}


def dotted_names_in(text: str) -> list[str]:
    """`pipeline.module` and `pipeline.module.name`, and, from examples, what `from pipeline.module import` names."""
    imports = re.findall(r"from (pipeline[\w.]*) import ([\w, ]+)", text)
    imported = [f"{module}.{name.strip()}" for module, names in imports for name in names.split(",")]
    return [*re.findall(r"(?<![\w./-])pipeline(?:\.[A-Za-z_]\w*)+", text), *imported]


def identifiers_in(span: str) -> list[str]:
    """The parts of `ClassName`, `Class.method` and `function()`; not words, commands, parameters and values."""
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\(\))?", span):
        return []
    is_code = span.endswith("()") or any(re.fullmatch(r"[A-Z]\w*[a-z]\w*", part) for part in span.split("."))
    return re.findall(r"\w+", span) if is_code and not span.endswith(".py") else []


def test_paths_are_there(page: Path) -> None:
    missing = {path for span in code_spans(page) for path in paths_in(span) if not _is_there(path)}
    assert not missing


def test_modules_and_what_is_in_them_are_there(page: Path) -> None:
    missing = {name for name in dotted_names_in(page.read_text(encoding="utf-8")) if not _can_be_imported(name)}
    assert not missing


def test_names_of_code_are_there(page: Path) -> None:
    missing = {name for span in code_spans(page) for name in identifiers_in(span) if name not in _words_of_code()}
    assert not missing


def test_folders_in_the_tree_of_the_readme_are_there() -> None:
    (tree,) = re.findall(r"## The tree\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    listed = [
        ("pipeline/" if line.startswith(" ") else "") + name
        for line in tree.splitlines()
        for name in re.split(r"\s{2,}", line.strip())[0].split()
    ]
    assert "pipeline/tune/" in listed
    assert [name for name in listed if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("span", "paths"),
    [
        ("tune/controller.py", {"tune/controller.py"}),
        ("python benchmarks/gpu.py --part tap", {"benchmarks/gpu.py"}),
        ("pipeline/models", {"pipeline/models"}),
        ("pipeline/stages/<name>/", {"pipeline/stages"}),
        ("results/search/best.yaml", set()),
    ],
)
def test_paths_are_found_in_a_span(span: str, paths: set[str]) -> None:
    assert paths_in(span) == paths


@pytest.mark.parametrize(
    ("span", "names"),
    [
        ("SplitListing", ["SplitListing"]),
        ("Regularizer.global_count", ["Regularizer", "global_count"]),
        ("PrepareParams.dataset", ["PrepareParams", "dataset"]),
        ("take_step()", ["take_step"]),
        ("search.trials", []),
        ("SAR_SET", []),
        ("asha", []),
    ],
)
def test_names_of_code_are_found_in_a_span(span: str, names: list[str]) -> None:
    assert identifiers_in(span) == names


def test_what_is_not_there_is_noticed() -> None:
    assert _is_there("tune/controller.py")
    assert not _is_there("tune/no_such_module.py")
    assert _can_be_imported("pipeline.errors.UserError")
    assert not _can_be_imported("pipeline.errors.NoSuchError")
    assert "UserError" in _words_of_code()
    assert "NoSuchError" not in _words_of_code()


@cache
def _files() -> frozenset[str]:
    own = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    return frozenset(path.relative_to(ROOT).as_posix() for path in [*own, *ROOT.glob("*")])


def _is_there(path: str) -> bool:
    return any(file == path or file.endswith(f"/{path}") for file in _files())


def _can_be_imported(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        try:
            return hasattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError:
            return False
    return True


@cache
def _words_of_code() -> frozenset[str]:
    sources = [path for folder in ("pipeline", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    sources.remove(Path(__file__))
    return frozenset(word for path in sources for word in re.findall(r"\w+", path.read_text(encoding="utf-8")))

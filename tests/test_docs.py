"""The docs: paths, modules and names of code that they mention exist, links lead somewhere, pages are short and listed."""

import importlib
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RECORDS = sorted(DOCS.glob("benchmarks/*.md"))
PAGES = [*sorted({*DOCS.rglob("*.md")} - {*RECORDS}), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FOLDERS = ("pipeline", "tests", "benchmarks", "docker", "search_spaces")
REFERENCES = {DOCS / "glossary.md", DOCS / "tree.md"}
MOST_WORDS = 1250
"""Of a page, outside of code and tables: five minutes of reading."""
MOST_WORDS_OF_README = 620


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(params=PAGES, ids=page_name)
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def code_spans(page: Path) -> list[str]:
    """What stands between backticks, outside of blocks of code."""
    return re.findall(r"`([^`\n]+)`", without_code(page.read_text(encoding="utf-8")))


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


def without_code(text: str) -> str:
    """The text without blocks of code, indented ones of lists too."""
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def words_to_read(text: str) -> int:
    """The number of words outside of blocks of code and rows of tables."""
    lines = without_code(text).splitlines()
    return sum(len(line.split()) for line in lines if not line.lstrip().startswith("|"))


def links_in(page: Path) -> list[str]:
    """The targets of links to files of this repository: `folder/page.md#section`, relative to the page."""
    targets = re.findall(r"\]\(([^()\s]+)\)", without_code(page.read_text(encoding="utf-8")))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


@cache
def sections_of(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, section = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not section or section in sections_of(target))


@pytest.mark.parametrize("page", [page for page in PAGES if page not in REFERENCES], ids=page_name)
def test_page_can_be_read_in_five_minutes(page: Path) -> None:
    assert words_to_read(page.read_text(encoding="utf-8")) <= MOST_WORDS


def test_readme_is_half_a_page() -> None:
    assert words_to_read((ROOT / "README.md").read_text(encoding="utf-8")) <= MOST_WORDS_OF_README


def test_index_lists_every_page_once() -> None:
    index = DOCS / "README.md"
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES if page.is_relative_to(DOCS)} - {"README.md"}
    listed = re.findall(r"^- \[[^]]+\]\(([^)]+\.md)\): \S", index.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(listed) == sorted(pages)
    assert "docs/README.md" in links_in(ROOT / "README.md")


@pytest.mark.parametrize("page", [*PAGES, *RECORDS], ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    assert [link for link in links_in(page) if not leads_somewhere(page, link)] == []


def test_pages_that_code_names_are_there() -> None:
    files = [
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".yaml", ".sbatch", ""}
    ]
    files += [ROOT / "Makefile", ROOT / "params.yaml", ROOT / "pyproject.toml"]
    missing = [
        f"{page_name(file)}: {link}"
        for file in files
        if file.is_file() and file != Path(__file__)
        for link in re.findall(r"\bdocs/[\w/-]+\.md(?:#[\w-]+)?", file.read_text(encoding="utf-8", errors="ignore"))
        if not leads_somewhere(ROOT / "README.md", link)
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# Two words\n\nthree more words\n", 6),
        ("before\n```\nnot counted\n```\nafter\n", 2),
        ("1. item\n\n   ```yaml\n   a: b\n   ```\n", 2),
        ("| a | table |\n|---|---|\n| of | rows |\nend\n", 1),
    ],
)
def test_words_outside_of_code_and_tables_are_counted(text: str, words: int) -> None:
    assert words_to_read(text) == words


def test_links_that_lead_nowhere_are_noticed() -> None:
    page = DOCS / "tree.md"
    assert leads_somewhere(page, "cluster.md#services-on-one-machine")
    assert not leads_somewhere(page, "cluster.md#no-such-section")
    assert not leads_somewhere(page, "no-such-page.md")


def test_paths_are_there(page: Path) -> None:
    missing = {path for span in code_spans(page) for path in paths_in(span) if not _is_there(path)}
    assert not missing


def test_modules_and_what_is_in_them_are_there(page: Path) -> None:
    missing = {name for name in dotted_names_in(page.read_text(encoding="utf-8")) if not _can_be_imported(name)}
    assert not missing


def test_names_of_code_are_there(page: Path) -> None:
    missing = {name for span in code_spans(page) for name in identifiers_in(span) if name not in _words_of_code()}
    assert not missing


def test_folders_in_the_short_tree_are_there() -> None:
    (tree,) = re.findall(r"## The tree\n\n```\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    listed = [
        ("pipeline/" if line.startswith(" ") else "") + name
        for line in tree.splitlines()
        for name in re.split(r"\s{2,}", line.strip())[0].split()
    ]
    assert "pipeline/tune/" in listed
    assert [name for name in listed if not (ROOT / name).exists()] == []


def test_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    label = re.search(r'image\.version="(.*)"', (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8"))
    archives = re.findall(r"sar_search-([\d.]*\d)", (DOCS / "library.md").read_text(encoding="utf-8"))
    assert {newest and newest[1], label and label[1], *archives} == {version}


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

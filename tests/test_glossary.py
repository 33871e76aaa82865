"""docs/glossary.md: each word is defined and used, and the words that it rules out are in no name of pipeline/.

Those that only this project ever used are in no text either: module docstrings, help, parameters, docs.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from support.defined_names import defined_names, local_names, names_in, words_of

from pipeline.cli import cli
from pipeline.commands.params import describe_parameters

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"

MOST_ENTRIES = 60

SOURCES = {
    "Ray",
    "Ray Tune",
    "Optuna",
    "MLflow",
    "DVC",
    "timm/torch",
    "Syne Tune",
    "Python",
    "statistics",
    "paper",
    "ours",
}

STAYING = {
    *((f"pipeline/artifacts/{name}.py", "setting") for name in ("evaluation", "evaluations", "retraining")),
    ("pipeline/artifacts/search_result.py", "all_settings_tried"),
    ("pipeline/tune/journal/records.py", "known"),
}
"""Fields that are the keys of a file, and so cannot be called otherwise."""

PRIVATE = {"anatomy", "course", "ladder", "ledger", "nursery", "parcel", "postman", "proposer"}
"""Banned words that are in no text either, and name no variable. The other banned ones have ordinary meanings: a letter, a piece, a setting."""


class Entry(NamedTuple):
    word: str
    sentence: str
    source: str


def _rows(heading: str) -> Iterator[list[str]]:
    """The cells of the table whose header begins with a word, row by row."""
    tables = re.split(r"\n\n+", GLOSSARY.read_text(encoding="utf-8"))
    (table,) = [each for each in tables if each.startswith(f"| {heading} |")]
    for line in table.strip().splitlines()[2:]:
        yield [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def entries() -> list[Entry]:
    return [Entry(*row) for row in _rows("word")]


def banned_words() -> dict[str, str]:
    """What is used instead, by the word that is not."""
    banned: dict[str, str] = {}
    for words, instead in _rows("not"):
        banned |= dict.fromkeys(re.findall(r"`([^`]+)`", words), instead)
    return banned


def test_glossary_has_at_most_sixty_entries_in_alphabetical_order() -> None:
    words = [entry.word for entry in entries()]
    assert 40 <= len(words) <= MOST_ENTRIES
    assert words == sorted(words, key=str.casefold)
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.word)
def test_entry_has_one_sentence_and_says_whose_word_it_is(entry: Entry) -> None:
    assert re.fullmatch(r"[A-Z].*[^.]\.", entry.sentence)
    assert not re.search(r"[.!?] [A-Z]", entry.sentence)
    assert set(entry.source.split(", ")) <= SOURCES


@pytest.mark.parametrize("word", [word for entry in entries() for word in entry.word.split(", ")])
def test_word_is_used(word: str) -> None:
    """In the docs, or in code, where it is written `in_code`, `InCode` or `incode`."""
    assert _squeezed(word) in _everything()


def test_no_banned_word_is_in_a_name() -> None:
    banned = banned_words()
    violations = [
        f"{path}:{each.line} {each.kind} {each.name} -> {banned[word]}"
        for each in defined_names(ROOT / "pipeline")
        if (path := each.file.relative_to(ROOT).as_posix()) and (path, each.name) not in STAYING
        for word in words_of(each.name)
        if word in banned
    ]
    assert not violations, f"{len(violations)} names have words that docs/glossary.md rules out:\n" + "\n".join(
        violations
    )


def texts() -> Iterator[tuple[str, str]]:
    """Where each text stands and what it says; of code, the docstrings of modules."""
    records = {*ROOT.glob("docs/benchmarks/*.md")}
    pages = [page for page in ROOT.glob("docs/**/*.md") if page not in records]
    for page in [*pages, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "params.yaml"]:
        if page != GLOSSARY:
            yield page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8")
    for file in sorted(ROOT.glob("pipeline/**/*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        yield file.relative_to(ROOT).as_posix(), ast.get_docstring(tree) or ""
    for name, command in _commands(cli, "sar-search"):
        yield name, command.get_help(click.Context(command))
    yield "sar-search params", describe_parameters("")


def test_private_words_are_in_no_text() -> None:
    """But for the name that the journal's file had in earlier versions."""
    pattern = re.compile(rf"\b(?:{'|'.join(sorted(PRIVATE))})s?\b(?!\.jsonl)", re.IGNORECASE)
    found = [(where, sorted(set(pattern.findall(text)))) for where, text in texts() if pattern.search(text)]
    assert found == []


def test_private_words_name_no_variable() -> None:
    found = [
        f"{file.relative_to(ROOT).as_posix()}:{line} {name}"
        for file in sorted(ROOT.glob("pipeline/**/*.py"))
        for line, name in local_names(ast.parse(file.read_text(encoding="utf-8")))
        if PRIVATE & {word.removesuffix("s") for word in words_of(name)}
    ]
    assert found == []


def test_private_words_are_banned_ones() -> None:
    assert banned_words().keys() >= PRIVATE


def test_texts_are_of_every_kind() -> None:
    said = dict(texts())
    assert {"docs/design.md", "params.yaml", "pipeline/tune/controller.py", "sar-search cluster up"} <= said.keys()
    assert "Train one configuration" in said["sar-search train"]
    assert "Configurations tried" in said["sar-search params"]


def test_what_stays_is_still_there() -> None:
    present = {(each.file.relative_to(ROOT).as_posix(), each.name) for each in defined_names(ROOT / "pipeline")}
    assert present >= STAYING


def test_no_entry_is_banned_by_another() -> None:
    allowed = {word for entry in entries() for word in re.findall(r"[a-z]+", entry.word.lower())}
    assert not allowed & banned_words().keys()


def test_banned_words_and_what_is_used_instead_are_read_from_the_glossary() -> None:
    banned = banned_words()
    assert banned["setting"] == "configuration"
    assert banned["drawn"] == banned["evolved"] == "sample"
    assert banned["parcel"] == "bundle"
    assert "`join_lines`" in banned["told"]
    assert "`stored`" in banned["kept"]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("class KeptSearch: ...", {"class KeptSearch"}),
        ("class A:\n    kept: int\n    told = 1", {"class A", "attribute kept", "attribute told"}),
        ("class A:\n    def f(self):\n        self.a, self.kept = 1, 2", {"class A", "function f", "parameter self", "attribute a", "attribute kept"}),
        ("def f(a, /, b, *c, d, **e):\n    x = 1", {"function f", *(f"parameter {name}" for name in "abcde")}),
        ("async def f():\n    def told(): ...", {"function f", "function told"}),
        ("a.kept = b['told'] = told", set()),
        ("KEPT: int = 1\nA, TOLD = 1, 2", {"constant KEPT", "constant A", "constant TOLD"}),
        ("f = lambda kept: kept", {"constant f", "parameter kept"}),
    ],
)  # fmt: skip
def test_names_that_source_defines_are_found(source: str, found: set[str]) -> None:
    assert {f"{each.kind} {each.name}" for each in names_in(ast.parse(source), Path("a.py"))} == found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kept_search", ["kept", "search"]),
        ("KeptSearch", ["kept", "search"]),
        ("_HTTPServer2", ["http", "server", "2"]),
        ("unknown", ["unknown"]),
        ("MOST_GRID", ["most", "grid"]),
    ],
)
def test_identifier_is_split_by_underscores_and_capitals(name: str, words: list[str]) -> None:
    assert words_of(name) == words


def _commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    for each, below in getattr(command, "commands", {}).items():
        yield from _commands(below, f"{name} {each}")


def _squeezed(text: str) -> str:
    """Without what separates the words of a term: spaces, hyphens, underscores and capitals."""
    return re.sub(r"[\s_-]+", "", text.casefold())


@cache
def _everything() -> str:
    files = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("pipeline/**/*.py")]
    return _squeezed("\n".join(path.read_text(encoding="utf-8") for path in files if path != GLOSSARY))

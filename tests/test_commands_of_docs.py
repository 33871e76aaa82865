"""Every command of README.md, CONTRIBUTING.md and docs/ is one that its program takes, and is run by a test or named.

tests/commands_of_docs.yaml has, for the shape of each command, the tests that run it, or the reason why none does;
docs/commands.md names the latter. Two pages have tests of their own: docs/recipes.md test_recipes_of_docs.py, and
docs/results/on-a-gpu.md test_published_commands.py.
"""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Collection
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides
from support.doc_commands import (
    KINDS,
    PAGES,
    PROGRAMS,
    PROGRAMS_IN_BASH,
    ROOT,
    TABLE_OF_OTHERS,
    Command,
    Unparsable,
    assigned,
    blocks_of,
    commands,
    commands_in,
    lines_of,
    name_of,
    shape_of,
    shows_commands,
    spans_of,
)

from pipeline.commands.train import parse_assignments
from pipeline.compared.compared_methods import read_comparison
from pipeline.config import Params, load_params, parameters
from pipeline.config.yaml import parse_yaml
from pipeline.errors import UserError
from pipeline.tune.space import load_space
from pipeline.workspace import Workspace

COVERAGE: dict[str, Any] = parse_yaml((ROOT / "tests/commands_of_docs.yaml").read_text(), "commands_of_docs.yaml")
RECIPES = "docs/recipes.md"
SECTIONS = {path.partition(".")[0] for path in parameters()}
PLACEHOLDERS = {"evaluate.folds: K", "model.freeze: N", "retrain.json"}
"""Code in sentences that looks like a parameter or its value: a letter for any number, a file."""

PARSED_ONLY = """
import argparse, json, runpy, sys

class Parsed(Exception):
    pass

def parse(parser, *arguments, **options):
    real(parser, *arguments, **options)
    raise Parsed

real, argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_args, parse
for sys.argv in json.loads(sys.argv[1]):
    sys.path.insert(0, sys.argv[0].rpartition("/")[0])
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except Parsed:
        print(*sys.argv)
    except SystemExit:
        print("refused", *sys.argv)
"""
"""Programs of benchmarks, each up to the moment at which it has parsed its arguments."""


def some(*words: str) -> list[Command]:
    return [each for each in commands() if each.words[: len(words)] == words]


@cache
def shapes() -> dict[str, list[Command]]:
    found: dict[str, list[Command]] = {}
    for command in commands():
        found.setdefault(shape_of(command), []).append(command)
    return found


def refusals(texts: dict[str, str], folder: Path) -> list[str]:
    """What the schema says against fragments of params.yaml, by where each stands."""
    found, file = [], folder / "fragment.yaml"
    for where, text in texts.items():
        file.write_text(text)
        try:
            load_params(file)
        except UserError as error:
            found.append(f"{where}: {error}")
    return found


def reason_of(shape: str) -> str | None:
    for entry in COVERAGE["not run"]:
        if any(fnmatchcase(shape, pattern) for pattern in entry["commands"]):
            return str(entry["reason"])
    return None


def make_targets() -> dict[str, str]:
    """What the Makefile does for each target: its prerequisites and recipe."""
    text = (ROOT / "Makefile").read_text()
    return {name: text[at.start() :].partition("\n\n")[0] for at in re.finditer(r"^([a-z][a-z-]*):.*## ", text, re.M) for name in [at[1]]}  # fmt: skip


def test_commands_of_every_kind_are_found() -> None:
    assert all((ROOT / path).is_file() for pair in PROGRAMS_IN_BASH.items() for path in pair)
    assert len(commands()) > 200
    assert {each.words[0] for each in commands()} >= {*PROGRAMS} - {"docker/services.sh"}
    assert "sar-search logs TRIAL --follow" in shapes()
    (job,) = [each for each in commands() if each.words == ("sar-search", "repro") and each.page == "docs/cluster.md"]
    assert job.whole  # within the words of `bash -c`


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_block_is_of_commands_alone_or_of_none(page: Path) -> None:
    """Else a command of a program that is not known here would go by unseen."""
    for block in blocks_of(page):
        assert block.kind in KINDS
        if block.page not in PROGRAMS_IN_BASH and block.kind in ("", "sh") and shows_commands(block.text):
            strange = [words[0] for line in lines_of(block.text) for words in commands_in(line)]
            assert {*strange} <= {*PROGRAMS}, f"{block.page}: {block.text}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_is_one_that_its_program_takes(page: Path) -> None:
    """Subcommands, options, the values of options; of sar-search, DVC, MLflow and Ray by their own parsers."""
    for command in commands():
        if command.page == name_of(page):
            shape_of(command)


@pytest.mark.parametrize(
    ("words", "whole"),
    [
        ("sar-search statsu", True),
        ("sar-search status --finish", False),
        ("sar-search gc --keep many", True),
        ("sar-search logs", True),
        ("sar-search repro --no-such-option", True),
        ("dvc exp runn", False),
        ("dvc repro --no-such-option", False),
        ("mlflow models serve --no-such-option", True),
        ("ray get-auth-tokens", False),
    ],
)
def test_command_that_its_program_refuses_is_noticed(words: str, whole: bool) -> None:
    with pytest.raises(Unparsable):
        shape_of(Command("", tuple(words.split()), whole))


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        ("sar-search logs", "sar-search logs TRIAL"),
        ("sar-search logs t0007 -f --search 7a", "sar-search logs TRIAL --follow --search"),
        ("sar-search train --save", "sar-search train --save"),
        ("dvc repro -s -f search", "dvc repro -f -s"),
        ("make cluster-up CLUSTER=aws", "make cluster-up CLUSTER="),
        ("python benchmarks/power.py --seed=3", "python benchmarks/power.py --seed"),
    ],
)
def test_shape_has_subcommands_arguments_and_options(words: str, shape: str) -> None:
    assert shape_of(Command("", tuple(words.split()), False)) == shape


def test_values_that_commands_set_are_accepted(tmp_path: Path) -> None:
    """Those of `dvc exp run -S` by DVC's own way of writing them into params.yaml, one command after the other."""
    page = None
    for command in some("dvc", "exp", "run"):
        if values := assigned(command, "-S"):
            if page != command.page:
                shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
            page = command.page
            if page != RECIPES:
                apply_overrides(tmp_path / "params.yaml", values)
                load_params(tmp_path / "params.yaml")
    for command in some("sar-search", "train"):
        given = parse_assignments(assigned(command, "--set"))
        load_params(ROOT / "params.yaml").with_values(given, where=str(command))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_snippets_of_yaml_are_accepted(page: Path, tmp_path: Path) -> None:
    """Fragments of params.yaml by its schema; of search spaces by their reader, which a control is added for."""
    fragments: dict[str, str] = {}
    for block in blocks_of(page):
        if block.kind == "yaml" and set(parse_yaml(block.text, block.page)) <= {"parameters", "controls"}:
            (tmp_path / "space.yaml").write_text(
                block.text + ("" if "controls:" in block.text else "controls: {plain: {}}\n")
            )
            load_space(tmp_path / "space.yaml", Params(), shown_as=block.page)
        elif block.kind == "yaml" and block.page != RECIPES:
            fragments[f"{block.page}, block {len(fragments)}"] = block.text
    assert refusals(fragments, tmp_path) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_parameters_and_values_in_sentences_are_accepted(page: Path, tmp_path: Path) -> None:
    """`section.name`, and `section.name: value`, of which ranges of search spaces are left out."""
    known = {path.rsplit(".", up)[0] for path in parameters() for up in range(path.count(".") + 1)}
    fragments: dict[str, str] = {}
    unknown: list[str] = []
    for span in spans_of(page):
        found = re.fullmatch(r"(\w+(?:\.\w+)*)(?:: (.+))?", span)
        if found is None or found[1].partition(".")[0] not in SECTIONS or span in PLACEHOLDERS:
            continue
        path, value = found.groups()
        if value is None:
            unknown += [] if path in known or "." not in path else [path]
        elif not value.startswith("{type:"):
            names = path.split(".")
            fragments[span] = "".join(f"{{{name}: " for name in names) + value + "}" * len(names)
    assert unknown == []
    assert refusals(fragments, tmp_path) == []


def sections_cut_short(text: str, listed: Collection[str]) -> list[str]:
    """The sections in one line, `confirm: {seeds: 0}`, that lack parameters which dvc.yaml lists one by one."""
    short = []
    for path, content in re.findall(r"(?:\w+\.)*(\w+): (\{\w+: [^{}]*\})", text):
        given = set(parse_yaml(content, text))
        needed = {name.rpartition(".")[2] for name in listed if name.split(".")[-2:-1] == [path]}
        short += [f"{path}: {content}"] if given <= needed and given < needed else []
    return short


def test_sections_in_one_line_have_all_parameters_that_dvc_needs() -> None:
    """Written into params.yaml, one without them would be refused. Records of what was run keep their words."""
    stages = parse_yaml((ROOT / "dvc.yaml").read_text(), "dvc.yaml")["stages"].values()
    listed = {name for stage in stages for name in stage.get("params", ()) if isinstance(name, str)}
    assert sections_cut_short("search:\n  confirm: {seeds: 0}", listed) == ["confirm: {seeds: 0}"]
    assert sections_cut_short("cluster: {storage: s3://bucket}", listed) == []  # of no stage
    records = ("docs/results/", "docs/benchmarks/")
    pages = [page for page in PAGES if not name_of(page).startswith(records)]
    found = {name_of(page): sections_cut_short(page.read_text(encoding="utf-8"), listed) for page in pages}
    assert {name: short for name, short in found.items() if short} == {}


def test_values_that_are_wrong_are_noticed(tmp_path: Path) -> None:
    texts = {"name": "{search: {trails: 1}}", "value": "{train: {lr: fast}}", "fine": "{train: {lr: 0.1}}"}
    assert [said.partition(":")[0] for said in refusals(texts, tmp_path)] == ["name", "value"]


def test_compared_methods_are_search_spaces() -> None:
    """Together, in one comparison: their ranges agree. Files of a user's own are left out.

    `sar,gta` needs a source of weights, which the page sets.
    """
    given = {"regularizer.guided_transfer.source": "mine.pth", "model.pretrained": "mine.pth", "evaluate.probe": True}
    params = load_params(ROOT / "params.yaml").with_values(given, where="test")
    lists = {words[at + 1] for words in (each.words for each in some("sar-search", "compare")) if "--run" in words[:-1] for at in [words.index("--run")]}  # fmt: skip
    assert "sar,tv,sp_vit" in lists
    for methods in lists:
        shipped = [method for method in methods.split(",") if not method.endswith(".yaml")]
        found = read_comparison(Workspace(ROOT, ROOT), params, ",".join(shipped))
        assert len(found.methods) == len(shipped)


def test_targets_of_make_are_there_and_use_the_variables_that_they_are_given() -> None:
    targets = make_targets()
    assert {"repro", "test", "cluster-up", "services-up", "clean"} <= set(targets)
    for command in some("make"):
        names = [word for word in command.words[1:] if "=" not in word]
        assert names
        assert set(names) <= set(targets), command
        for name, _, value in (word.partition("=") for word in command.words[1:] if "=" in word):
            assert re.search(rf"\$\([^)]*\b{name}\b", targets[names[0]]), command
            assert name != "CLUSTER" or (ROOT / f"docker/ray-{value}.yaml").is_file(), command


def test_benchmarks_take_the_options_that_they_are_given() -> None:
    asked = [list(each.words[1:]) for each in some("python") if each.words[1].startswith("benchmarks/")]
    assert all((ROOT / words[0]).is_file() for words in asked)
    with_options = sorted({(f"{ROOT / words[0]}", *words[1:]) for words in asked if len(words) > 1})
    refused = (f"{ROOT}/benchmarks/power.py", "--no-such-option")
    run = [sys.executable, "-c", PARSED_ONLY, json.dumps([*with_options, refused])]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [*(" ".join(words) for words in with_options), " ".join(["refused", *refused])]


def test_paths_markers_and_extras_are_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    markers = {line.partition(":")[0] for line in project["tool"]["pytest"]["ini_options"]["markers"]}
    for command in commands():
        words = [part for word in command.words for part in word.split("=")]
        paths = [word for word in words if re.match(r"(docker|tests|benchmarks|search_spaces|pipeline)/", word)]
        assert [path for path in paths if not (ROOT / path).exists()] == [], command
        extras = re.findall(r"^\.\[(\w+)\]$", " ".join(words[-1:])) if words[0] == "pip" else []
        assert {*extras} <= {*project["project"]["optional-dependencies"]}, command
        if words[0] == "pytest":
            assert set(re.findall(r"\w+", words[words.index("-m") + 1])) - {"not", "or", "and"} <= markers, command


def test_every_command_is_run_by_a_test_or_named_with_the_reason() -> None:
    run, found = set(COVERAGE["run"]), set(shapes())
    unaccounted = {shape: commands_of[0].page for shape, commands_of in shapes().items() if shape not in run and not reason_of(shape)}  # fmt: skip
    assert unaccounted == {}
    assert run - found == set()
    patterns = [pattern for entry in COVERAGE["not run"] for pattern in entry["commands"]]
    assert [pattern for pattern in patterns if not any(fnmatchcase(shape, pattern) for shape in found - run)] == []


@pytest.mark.parametrize("shape", COVERAGE["run"])
def test_test_that_runs_a_command_is_there_and_has_its_words(shape: str) -> None:
    """Each word of the shape, apart from its arguments, stands as a string in the tests' files, or in .ci/run."""
    sources = ""
    for where in COVERAGE["run"][shape].split():
        file, _, name = where.partition("::")
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not name or re.search(rf"^def {name}\(", source, re.M), where
        sources += source
    words = [word for word in shape.split()[1:] if not word.isupper() and not word.startswith("benchmarks/")]
    if ".ci/run" in COVERAGE["run"][shape]:
        assert re.search(rf"^{re.escape(shape)}(?![-\w])", sources, re.M)
        return
    spelled = {"-e": "-e", "--content-type": "-t", "--input-path": "-i", "--model-uri": "-m", "--port": "--port|-p"}
    for word in words:
        assert re.search(rf"""["' ](?:{spelled.get(word, re.escape(word))})["'. ]""", sources), (shape, word)


def test_page_on_commands_names_those_that_no_test_runs() -> None:
    text = (ROOT / "docs/commands.md").read_text().partition(TABLE_OF_OTHERS)[2]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    assert [(re.findall(r"`([^`]+)`", shown), why) for shown, why in rows] == [(entry["commands"], entry["reason"]) for entry in COVERAGE["not run"]]  # fmt: skip

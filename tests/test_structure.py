"""Claims about how pipeline/ is laid out: what its folders hold, what may import what, and that its map is right."""

import re
import tomllib
from collections import Counter, defaultdict
from itertools import combinations, takewhile
from pathlib import Path

import pytest
from support.import_graph import ROOT, find_circle, import_graph, is_own_module, modules, room, rooms_reached

from pipeline.config.yaml import read_yaml

MOST_MODULES = 16
MOST_SAME_NAMES = 12
MOST_LINES = 260

SAME_NAMES: dict[str, str] = {}
"""Basenames that occur twice in rooms that know each other: the name, and why no other one would be better."""

COMMANDS_IMPORTED = {
    ("repro.py", "check.py"): "`sar-search repro` begins with what `sar-search check` does",
    ("compare_run.py", "check.py"): "`sar-search compare --run` looks at params.yaml as `sar-search check` does",
    ("compare_run.py", "repro.py"): "`sar-search compare --run` has DVC make the data, as `sar-search repro` does",
    ("repro.py", "results.py"): "`sar-search repro` ends with what `sar-search results` says",
}
"""Commands that another command consists of: who imports which, and why."""

OTHER_STAGES: dict[tuple[str, str], str] = {}
"""Files of a stage's folder that something else imports: who, which, and why."""

WHOLE_SECTIONS = {"model", "train", "regularizer"}

MODULES = modules()
GRAPH = import_graph()
EDGES = [(file, imported) for file, others in GRAPH.items() for imported in sorted(others)]


def test_no_folder_holds_more_modules_than_one_looks_through_at_a_glance() -> None:
    held = Counter(file.parent for file in GRAPH if is_own_module(file))
    crowded = {str(folder): count for folder, count in held.items() if count > MOST_MODULES}
    assert not crowded, f"more than {MOST_MODULES} modules: {crowded}"


def test_no_files_import_each_other_in_a_circle() -> None:
    circle = find_circle(GRAPH)
    assert circle is None, "a circle: " + ", which imports ".join(map(str, circle))


def test_circle_is_found_and_told() -> None:
    a, b, c, d = (Path(name) for name in "abcd")
    assert find_circle({a: [b, c], b: [c], c: [d], d: []}) is None
    assert find_circle({a: [b], b: [c], c: [d], d: [b]}) == [b, c, d, b]


def test_no_basename_occurs_twice_in_rooms_that_know_each_other() -> None:
    by_name: defaultdict[str, list[Path]] = defaultdict(list)
    for file in filter(is_own_module, GRAPH):
        by_name[file.stem].append(file)
    reached = rooms_reached(GRAPH)
    twice = {
        name: f"{one} and {other}"
        for name, files in by_name.items()
        for one, other in combinations(files, 2)
        if room(one) in reached[room(other)] or room(other) in reached[room(one)]
    }
    assert len(SAME_NAMES) <= MOST_SAME_NAMES
    assert twice.keys() == SAME_NAMES.keys(), twice


def test_commands_are_imported_by_the_command_line_alone() -> None:
    found = {
        (file.name, imported.name)
        for file, imported in EDGES
        if room(imported) == "commands" and file != Path("pipeline/cli.py")
    }
    assert found == COMMANDS_IMPORTED.keys()


def test_what_a_stage_alone_does_is_imported_by_nothing_else() -> None:
    found = {
        (str(file), str(imported))
        for file, imported in EDGES
        if room(imported) == "stages" and len(imported.parts) > 3 and file.parts[:3] != imported.parts[:3]
    }
    assert found == OTHER_STAGES.keys()


def test_dvc_yaml_can_be_read_by_a_person() -> None:
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) < MOST_LINES


def test_dvc_yaml_lists_no_section_whole_but_those_of_one_training_run() -> None:
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    whole = {name for stage in stages.values() for name in stage["params"] if "." not in name}
    assert whole == WHOLE_SECTIONS


def _mapped() -> tuple[set[str], set[str]]:
    """The modules and the folders of pipeline/ that docs/tree.md names, by path.

    A line begins with a folder's name and a slash, or with names of modules; what lies in a folder stands further in.
    """
    files: set[str] = set()
    folders: set[str] = set()
    above: list[tuple[int, str]] = []
    for line in (ROOT / "docs" / "tree.md").read_text().splitlines():
        words, indent = line.split(), len(line) - len(line.lstrip())
        above = [(depth, name) for depth, name in above if depth < indent]
        if words and words[0].endswith("/"):
            above.append((indent, words[0].rstrip("/")))
            folders.add("/".join(name for _, name in above))
        files |= {"/".join([*(name for _, name in above), word]) for word in takewhile(_is_module, words)}
    return {file for file in files if file.startswith("pipeline/")}, {
        f for f in folders if f.split("/")[0] == "pipeline"
    }


def _is_module(word: str) -> bool:
    return word.endswith(".py")


def test_map_names_every_module_and_nothing_that_is_not_there() -> None:
    files, folders = _mapped()
    own = {str(file) for file in GRAPH if is_own_module(file)}
    assert files == own, f"docs/tree.md: add {sorted(own - files)}, take out {sorted(files - own)}"
    packages = {str(file.parent) for file in MODULES.values() if file.name == "__init__.py"}
    assert folders == packages, f"docs/tree.md: add {sorted(packages - folders)}, take out {sorted(folders - packages)}"


def test_map_stays_short_enough_to_be_read() -> None:
    assert len((ROOT / "docs" / "tree.md").read_text().splitlines()) < MOST_LINES


@pytest.mark.parametrize("folder", sorted({str(file.parent) for file in GRAPH}))
def test_every_folder_says_what_it_is(folder: str) -> None:
    text = (ROOT / folder / "__init__.py").read_text()
    assert len(text.partition("\n")[0].strip('"').split()) > 2, f"{folder}/__init__.py: a sentence is missing"


def test_contracts_on_libraries_name_every_room_but_those_that_may_import_them() -> None:
    """A contract that a new room is not written into says nothing of it."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    forbidden = {each["name"]: set(each["source_modules"]) for each in contracts if each["name"].startswith("only ")}
    assert len(forbidden) == 3
    rooms = {f"pipeline.{room(file)}" for file in GRAPH if file != Path("pipeline/__init__.py")}
    for name, sources in forbidden.items():
        allowed = {f"pipeline.{word}" for word in re.split(r",? and |, ", re.sub(r"^only | imports? .*", "", name))}
        assert sources == rooms - allowed, name
    (inside,) = (set(each["source_modules"]) for each in contracts if each["name"].startswith("inside tune, ray alone"))
    parts = {file.parts[2].removesuffix(".py") for file in GRAPH if file.parts[:2] == ("pipeline", "tune")}
    assert inside == {f"pipeline.tune.{part}" for part in parts - {"__init__", "ray"}}

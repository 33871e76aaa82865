"""dvc.yaml lists for each stage exactly the code that its module imports, and parameters that exist."""

import ast
from pathlib import Path

import pytest

from pipeline.config import parameters
from pipeline.config.yaml import read_yaml

ROOT = Path(__file__).parent.parent
STAGES = read_yaml(ROOT / "dvc.yaml")["stages"]

WHOLE = ("model", "train", "regularizer")
"""Sections of which every parameter decides what training gives, so that stages that train list them whole."""

BY_PATH = {"register": ["pipeline/models", "pipeline/tracking/registry/model.py", "pipeline/data/decode/pictures.py"]}
"""Code that a stage reads as files, to put it into what it makes, without importing it."""


def _file_of(module: str) -> Path | None:
    path = ROOT / Path(*module.split("."))
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)


def imported_by(file: Path) -> set[Path]:
    package = list(file.relative_to(ROOT).parent.parts)
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {path for name in names if name.startswith("pipeline") and (path := _file_of(name))}


def _code_of(stage: str) -> set[str]:
    """Files that the stage's module reaches by imports, packages' own among them unless they hold a docstring alone."""
    todo, seen = [ROOT / "pipeline" / "stages" / stage / "__main__.py"], set()
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += imported_by(file)
            todo += [folder / "__init__.py" for folder in file.parents if (folder / "__init__.py").is_file()]
    return {str(file.relative_to(ROOT)) for file in seen if holds_code(file)} | _files(BY_PATH.get(stage, []))


def _files(entries: list[str]) -> set[str]:
    found: set[str] = set()
    for entry in entries:
        path = ROOT / entry
        files = path.rglob("*.py") if path.is_dir() else [path]
        found |= {str(file.relative_to(ROOT)) for file in files if holds_code(file)}
    return found


def holds_code(file: Path) -> bool:
    body = ast.parse(file.read_text()).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


@pytest.mark.parametrize("stage", STAGES)
def test_stage_lists_exactly_the_code_that_it_runs(stage: str) -> None:
    listed = _files([dep for dep in STAGES[stage]["deps"] if dep.startswith("pipeline/")])
    needed = _code_of(stage)
    assert listed == needed, f"dvc.yaml, {stage}: add {sorted(needed - listed)}, take out {sorted(listed - needed)}"


@pytest.mark.parametrize("stage", STAGES)
def test_stage_lists_parameters_that_exist(stage: str) -> None:
    unknown = set(STAGES[stage]["params"]) - set(parameters()) - set(WHOLE)
    assert not unknown


OF_OTHER_SECTIONS = {
    "search": {
        "evaluate.metric",
        "evaluate.margin",
    },  # the accuracy that a configuration of equal accuracy may lack at most
    "retrain": {
        *("evaluate.confidence", "evaluate.metric", "evaluate.margin", "evaluate.folds"),
        *(f"search.budget.{name}" for name in ("hours", "gpu_hours", "cost", "price_per_gpu_hour")),
    },
}
"""What decides how many seeds `retrain.seeds: auto` takes."""


@pytest.mark.parametrize(("stage", "sections"), [("search", "base model train regularizer search"), ("retrain", "base model train regularizer retrain")])  # fmt: skip
def test_stage_that_trains_depends_on_every_parameter_of_its_sections(stage: str, sections: str) -> None:
    needed = {path for path in parameters() if path.partition(".")[0] in sections.split()}
    needed -= {path for path in needed if path.startswith("search.cluster.")}  # where trials run is not what they find
    listed = set(STAGES[stage]["params"])
    assert listed.issuperset(WHOLE)
    needed |= OF_OTHER_SECTIONS.get(stage, set())
    assert needed - {path for path in needed if path.partition(".")[0] in WHOLE} == listed - set(WHOLE)

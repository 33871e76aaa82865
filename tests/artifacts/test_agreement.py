"""No stage builds on a best setting of other parameters than those of now, and none is shown for up to date."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from support.partial_results import filled_content

from pipeline.artifacts.agreement import check_agreement, check_dvc_lock
from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.retraining import Retraining
from pipeline.config import Params, parameters, part_params
from pipeline.errors import UserError
from pipeline.provenance.fingerprint import fingerprint_content
from pipeline.stages.evaluate import __main__ as evaluate
from pipeline.stages.register import __main__ as register
from pipeline.stages.report import __main__ as report
from pipeline.stages.retrain import __main__ as retrain
from pipeline.tune.selection.result_files import fingerprint_parameters
from pipeline.workspace import Workspace

OURS = Params()
OTHER = OURS.with_values({"train.epochs": 9, "search.points": {"a": {"train.lr": 1e-05}}}, where="the test")


def _found(workspace: Workspace, params: Params = OURS, fingerprint: str = "f00d" * 16) -> None:
    path = workspace.results / "search" / "best.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"fingerprint": fingerprint, "trial": "t0000", "best": {}, "controls": {}}
    with path.open("w") as file:
        found = json.loads(json.dumps(fingerprint_parameters(params)))
        YAML(typ="safe", pure=True).dump(content | {"parameters": found}, file)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path, tmp_path)
    workspace.params.write_text("{}\n")
    return workspace


def test_parameters_that_are_kept_are_those_that_name_a_search() -> None:
    content = fingerprint_content(OURS, {}, data_hash="d", split_hash="s")
    kept = fingerprint_parameters(OURS)
    sections = {
        "base": {"seed": content["seed"]},
        **{name: content[name] for name in ("model", "train", "regularizer")},
    }
    for name in ("sampler", "scheduler"):
        sections.setdefault("search", {})[name] = content[name]
    listed = {path for path in parameters() if _there(sections, path)}
    extra = {f"search.{name}" for name in ("space", "points", "warm_start", "objectives", "choose.then")}
    extra |= {path for path in parameters() if path.startswith("search.constraints.")}
    assert set(kept) == listed | extra


def _there(tree: Any, path: str) -> bool:
    for key in path.split("."):
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


@pytest.mark.parametrize("params", [OURS, OTHER], ids=["defaults", "others"])
def test_results_of_the_parameters_of_now_are_built_on(params: Params, workspace: Workspace) -> None:
    check_agreement(workspace, params)  # there are none yet
    _found(workspace, params)
    check_agreement(workspace, params)
    check_agreement(workspace, params, "f00d" * 16)
    check_agreement(workspace, params.with_values({"search.trials": 99, "train.workers": 3}, where="the test"))


def test_results_of_other_parameters_are_refused_with_the_parameters_and_what_to_do(workspace: Workspace) -> None:
    _found(workspace)
    with pytest.raises(UserError, match=r"train\.epochs: 8 then, 9 now") as caught:
        check_agreement(workspace, OTHER)
    assert "search.points" in str(caught.value)
    assert "dvc repro --single-item --force search" in str(caught.value)


def test_what_comes_from_another_search_is_refused(workspace: Workspace) -> None:
    _found(workspace)
    with pytest.raises(UserError, match="comes from search f00d"):
        check_agreement(workspace, OURS, "beef" * 16)


def test_results_that_say_nothing_of_their_parameters_are_left_to_dvc(workspace: Workspace) -> None:
    _found(workspace)
    path = workspace.results / "search" / "best.yaml"
    path.write_text("{fingerprint: f, trial: t, best: {}, controls: {}}\n")
    check_agreement(workspace, OTHER)
    check_dvc_lock(workspace, OTHER)


@pytest.mark.parametrize("noted", [9, 8], ids=["dvc takes them for those of now", "dvc sees it"])
def test_results_that_dvc_takes_for_those_of_other_parameters_are_refused(noted: int, workspace: Workspace) -> None:
    _found(workspace)
    check_dvc_lock(workspace, OTHER)  # there is no dvc.lock
    params = {"train.epochs": noted, "search.points": OTHER.search.points, "train.lr": 0.002}
    lock = {"stages": {"search": {"cmd": "x", "params": {"params.yaml": params}}}}
    (workspace.root / "dvc.lock").write_text(json.dumps(lock))
    if noted == 8:
        check_dvc_lock(workspace, OTHER)
        return
    with pytest.raises(UserError, match=r"train\.epochs: 8 then, 9 now"):
        check_dvc_lock(workspace, OTHER)
    check_dvc_lock(workspace, OURS)


@pytest.mark.parametrize(
    ("stage", "of"),
    [(stage, of) for stage in (evaluate, report, register) for of in ("parameters", "search")]
    + [(retrain, "parameters")],  # of a search, it begins with the best setting itself
    ids=lambda given: getattr(given, "__name__", given),
)
def test_stages_after_the_search_refuse_what_is_of_others(stage: Any, of: str, workspace: Workspace) -> None:
    _found(workspace, OTHER if of == "parameters" else OURS)
    of_search = {"fingerprint": ("f00d" if of == "parameters" else "beef") * 16}
    for kind in (Retraining, Evaluation):
        path = workspace.results / kind.MADE_BY / kind.FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(filled_content(kind, of_search)))
    with pytest.raises(UserError, match="its search had other parameters" if of == "parameters" else "Run `dvc repro`"):
        stage.main(workspace)


def test_search_of_every_fold_is_held_against_its_own_parameters_and_what_was_retrained(workspace: Workspace) -> None:
    _found(workspace)
    for number in (1, 2):
        _found(Workspace(workspace.root, workspace.root), part_params(OURS, number), f"{number}" * 64)
        folder = workspace.results / "search" / "folds" / str(number)
        folder.mkdir(parents=True)
        (workspace.results / "search" / "best.yaml").rename(folder / "best.yaml")
    _found(workspace)
    check_agreement(workspace, OURS)
    check_agreement(workspace, OURS, "f00d" * 16, {1: "1" * 64, 2: "2" * 64})
    with pytest.raises(
        UserError,
        match=r"folds/2/best\.yaml: comes from search 2222222222222222, but the retrained networks come from search 333",
    ):
        check_agreement(workspace, OURS, "f00d" * 16, {1: "1" * 64, 2: "3" * 64})
    other = OURS.with_values({"base.seed": 1}, where="a test")
    with pytest.raises(UserError, match=r"base\.seed: 0 then, 1 now"):
        check_agreement(workspace, other)

"""A stage whose parameters or files are others by its end fails, so that DVC does not note those for what it made."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.entry import run_stage
from pipeline.errors import UserError
from pipeline.provenance import stage_inputs
from pipeline.provenance.stage_inputs import check_unchanged, read_inputs
from pipeline.workspace import Workspace

PARAMS = "search: {space: spaces/a.yaml, trials: 2}\ntrain: {epochs: 2, lr: 1e-3}\ntracking: {uri: null}\n"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage_inputs, "PAUSE_S", 0.0)
    stage = {
        "cmd": "true",
        "deps": ["${search.space}", "code", "data"],
        "params": ["search.space", "search.trials", "train.epochs", "train.lr"],
        "outs": ["results"],
    }
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {"search": stage, "other": {"cmd": "true"}}}))
    (tmp_path / "params.yaml").write_text(PARAMS)
    for path in ("spaces/a.yaml", "code/one.py", "code/room/two.py", "data/images.npy"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("1\n")
    return Workspace(tmp_path, tmp_path)


def _set(workspace: Workspace, old: str, new: str) -> None:
    assert old in PARAMS
    workspace.params.write_text(PARAMS.replace(old, new))


def _ended(stage: str, work: Callable[[Workspace], None]) -> None:
    run_stage(stage, work)
    sys.exit(0)


def _run(work: Callable[[Workspace], None], stage: str = "search") -> int:
    with pytest.raises(SystemExit) as ending:
        _ended(stage, work)
    assert isinstance(ending.value.code, int)
    return ending.value.code


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs: 2", "epochs: 3", "params.yaml: train.epochs: 2 when it began, 3 now"),
        ("lr: 1e-3", "lr: 0.01", "params.yaml: train.lr: 0.001 when it began, 0.01 now"),
        (", trials: 2", "", "params.yaml: search.trials: 2 when it began, null now"),
        ("spaces/a.yaml", "spaces/b.yaml", "search.space: 'spaces/a.yaml' when it began"),
        ("train: {", "train: {{", "params.yaml, line 3: not valid YAML"),
    ],
)
def test_stage_whose_parameter_changes_while_it_runs_ends_with_2_and_names_it(
    old: str, new: str, said: str, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.stage_status.parent.mkdir()
    assert _run(lambda where: _set(where, old, new)) == 2
    told = capsys.readouterr().err
    assert "changed while the stage search ran" in told
    assert said in told
    assert workspace.stage_status.read_text() == "2"
    assert _run(lambda where: None) == (2 if "{{" in new else 0)


def test_parameters_that_a_stage_does_not_depend_on_may_change(workspace: Workspace) -> None:
    assert _run(lambda where: _set(where, "uri: null", "uri: http://127.0.0.1:5000")) == 0
    assert _run(lambda where: _set(where, "epochs: 2", "epochs: 4"), stage="other") == 0


def test_other_words_for_the_same_value_are_no_change(workspace: Workspace) -> None:
    assert _run(lambda where: _set(where, "1e-3", "0.0010")) == 0


def _write(path: str, text: str = "2\n") -> Callable[[Workspace], None]:
    return lambda where: (where.root / path).write_text(text) and None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_write("spaces/a.yaml"), "spaces/a.yaml: another content"),
        (_write("code/room/two.py"), "code/room/two.py: another content"),
        (_write("code/room/new.py"), "code/room/new.py: new"),
        (_write("data/images.npy", "longer\n"), "data/images.npy: another content"),
        (lambda where: (where.root / "code/one.py").unlink(), "code/one.py: no longer there"),
    ],
)
def test_files_that_change_are_named(
    change: Callable[[Workspace], None],
    said: str,
    workspace: Workspace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run(change) == 2
    assert said in capsys.readouterr().err


def test_files_that_were_only_touched_and_what_python_leaves_are_no_change(workspace: Workspace) -> None:
    def touch(where: Workspace) -> None:
        os.utime(where.root / "spaces" / "a.yaml", (1, 1))
        (where.root / "code" / "__pycache__").mkdir()
        (where.root / "code" / "__pycache__" / "one.nbi").touch()
        (where.root / "results").mkdir()

    assert _run(touch) == 0


def test_stage_that_fails_by_itself_says_what_it_failed_by(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(where: Workspace) -> None:
        _set(where, "epochs: 2", "epochs: 3")
        raise UserError("the reason")

    assert _run(fail) == 2
    assert capsys.readouterr().err == "error: the reason\n"


@pytest.mark.parametrize("until", range(0, len(PARAMS), 7))
def test_file_that_is_being_written_is_read_when_it_is_whole(
    until: int, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of it is there by then: a part may be valid YAML of fewer parameters."""
    began = read_inputs(workspace, "search")
    workspace.params.write_text(PARAMS[:until])
    monkeypatch.setattr(time, "sleep", lambda seconds: workspace.params.write_text(PARAMS))
    check_unchanged(workspace, "search", began)


def test_file_that_changes_with_every_look_is_a_change(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    began, looks = read_inputs(workspace, "search"), []

    def write(seconds: float) -> None:
        looks.append(seconds)
        _set(workspace, "epochs: 2", f"epochs: {2 + len(looks)}")

    monkeypatch.setattr(time, "sleep", write)
    write(0.0)
    with pytest.raises(UserError, match="2 when it began"):
        check_unchanged(workspace, "search", began)
    assert len(looks) == 1 + stage_inputs.LOOKS


def test_lists_of_dvc_that_are_none_of_ours_are_left_to_dvc(workspace: Workspace) -> None:
    stage = {"deps": [{"a": 1}, "s3://b/c", "gone"], "params": [{"other.yaml": ["x"]}, "train"]}
    (workspace.root / "dvc.yaml").write_text(json.dumps({"stages": {"search": stage}}))
    began = read_inputs(workspace, "search")
    given = {path: value for path, value in began.params.items() if value is not None}
    assert given == {"train.epochs": 2, "train.lr": 0.001}
    assert began.files == {}
    (workspace.root / "dvc.yaml").write_text("stages: []\n")
    check_unchanged(workspace, "search", began)
    assert read_inputs(workspace, "search").deps == ()


def test_experiments_copy_without_a_file_that_git_does_not_know_is_told_what_to_type(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = workspace.root / ".dvc" / "tmp" / "exps" / "tmpabc"
    for name in ("dvc.yaml", "params.yaml", "code/one.py", "code/room/two.py"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((workspace.root / name).read_bytes())
    monkeypatch.chdir(copy)
    assert _run(lambda where: None, stage="other") == 2
    assert "git add spaces/a.yaml" in capsys.readouterr().err
    (copy / "spaces").mkdir()
    (copy / "spaces" / "a.yaml").write_text("1\n")
    assert _run(lambda where: None, stage="other") == 0  # data/ is made by a stage

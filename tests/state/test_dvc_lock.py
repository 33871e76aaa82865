"""A dvc.lock that was cut off while DVC wrote it gives way to the one before."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.state.dvc_lock import keep_lock, repair_lock
from pipeline.workspace import Workspace


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lock file of two stages, as DVC writes it."""
    root = tmp_path_factory.mktemp("locked")
    (root / "in.txt").write_text("something\n")
    stages = {
        "first": {"cmd": "cp in.txt out.txt", "deps": ["in.txt"], "outs": ["out.txt"]},
        "second": {"cmd": "cp out.txt end.txt", "deps": ["out.txt"], "outs": ["end.txt"]},
    }
    (root / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    for command in (["init", "--no-scm", "--quiet"], ["repro", "--quiet"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=root, check=True)
    return (root / "dvc.lock").read_text()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path)


def test_whole_file_is_left_alone_and_kept(workspace: Workspace, written: str) -> None:
    lock = workspace.root / "dvc.lock"
    lock.write_text(written)
    assert repair_lock(workspace) is None
    keep_lock(workspace)
    assert lock.read_text() == (workspace.state / "dvc.lock").read_text() == written


def test_no_file_is_no_fault(workspace: Workspace) -> None:
    assert repair_lock(workspace) is None
    keep_lock(workspace)
    assert not (workspace.root / "dvc.lock").exists()


@pytest.mark.parametrize("until", ["", "schema: ", "  first:\n", "- path: in.txt\n      hash: md5\n      md"])
@pytest.mark.parametrize("before", [True, False], ids=["one is kept", "none is kept"])
def test_file_that_was_cut_off_gives_way_to_the_one_before(
    workspace: Workspace, written: str, until: str, before: bool
) -> None:
    lock = workspace.root / "dvc.lock"
    if before:
        lock.write_text(written)
        keep_lock(workspace)
    cut = written[: written.index(until) + len(until)]
    lock.write_text(cut)
    said = repair_lock(workspace)
    assert said is not None
    assert "dvc.lock was cut off" in said
    assert (workspace.state / "dvc.lock.broken").read_text() == cut
    assert lock.exists() == before
    assert not before or lock.read_text() == written


def test_file_that_was_cut_off_is_never_kept(workspace: Workspace, written: str) -> None:
    lock = workspace.root / "dvc.lock"
    lock.write_text(written)
    keep_lock(workspace)
    lock.write_text("")
    keep_lock(workspace)
    assert (workspace.state / "dvc.lock").read_text() == written


def test_marks_of_a_merge_are_the_users_to_settle(workspace: Workspace, written: str) -> None:
    lock = workspace.root / "dvc.lock"
    lock.write_text(f"<<<<<<< ours\n{written}=======\n{written}>>>>>>> theirs\n")
    with pytest.raises(UserError, match="git checkout --ours"):
        repair_lock(workspace)
    assert lock.exists()

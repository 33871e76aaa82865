"""Claims about a checkout: where everything lies, and that one stage at a time works there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from pipeline.errors import UserError
from pipeline.workspace import Workspace, find_workspace

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like a checkout."""
    root = tmp_path.resolve() / "checkout"
    root.mkdir()
    (root / "dvc.yaml").touch()
    (root / "params.yaml").touch()
    return root


@pytest.fixture
def workspace(checkout: Path) -> Workspace:
    return Workspace(checkout, checkout)


HOLD = """
import sys
from pathlib import Path
from pipeline.workspace import Workspace
with Workspace(Path(sys.argv[1]), Path(sys.argv[1])).locked("search"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held_by_another_process(root: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process holds the checkout while the block runs, unless the block ends it."""
    command = [sys.executable, "-c", HOLD, str(root)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_workspace_is_found_from_a_folder_below(checkout: Path) -> None:
    below = checkout / "data" / "prepared"
    below.mkdir(parents=True)
    assert find_workspace(below) == find_workspace(checkout) == Workspace(checkout, checkout)


def test_workspace_is_found_from_the_current_folder(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "docs").mkdir()
    monkeypatch.chdir(checkout / "docs")
    assert find_workspace() == Workspace(checkout, checkout)


def test_workspace_is_the_nearest_one_above(checkout: Path) -> None:
    inner = checkout / "inner"
    inner.mkdir()
    (inner / "dvc.yaml").touch()
    (inner / "params.yaml").touch()
    assert find_workspace(inner).root == inner


@pytest.mark.parametrize("missing", ["dvc.yaml", "params.yaml"])
def test_folder_that_is_in_no_checkout_is_told(checkout: Path, missing: str) -> None:
    (checkout / missing).unlink()
    with pytest.raises(UserError, match=r"no dvc\.yaml and params\.yaml here or above"):
        find_workspace(checkout)


def test_everything_lies_where_dvc_declares_it(workspace: Workspace, checkout: Path) -> None:
    places = [workspace.params, workspace.prepared, workspace.split, workspace.models, workspace.results]
    assert [str(place.relative_to(checkout)) for place in places] == [
        "params.yaml",
        "data/prepared",
        "data/split.json",
        "models",
        "results",
    ]
    assert workspace.state == checkout / "state"


@pytest.mark.parametrize("name", [".dvc/tmp/exps/tmpabc", ".dvc/tmp/exps/standalone/tmpabc"])
def test_state_of_a_temporary_copy_lies_with_the_checkout_it_was_made_from(checkout: Path, name: str) -> None:
    copy = checkout / name
    (copy / "docs").mkdir(parents=True)
    (copy / "dvc.yaml").touch()
    (copy / "params.yaml").touch()
    found = find_workspace(copy / "docs")
    assert found == Workspace(root=copy, anchor=checkout)
    assert found.state == checkout / "state"
    assert found.results == copy / "results"


def test_checkout_below_another_hidden_folder_is_its_own_anchor(tmp_path: Path) -> None:
    root = tmp_path.resolve() / ".dvc" / "tmp" / "other"
    root.mkdir(parents=True)
    (root / "dvc.yaml").touch()
    (root / "params.yaml").touch()
    assert find_workspace(root).anchor == root


def test_lock_that_another_process_holds_is_refused_with_its_stage_and_number(
    workspace: Workspace, checkout: Path
) -> None:
    with held_by_another_process(checkout) as other:
        said = rf"another process is running a stage of this checkout \(search, process {other.pid}\).*retrain"
        with pytest.raises(UserError, match=said), workspace.locked("retrain"):
            pass


def test_lock_goes_with_the_process_that_held_it(workspace: Workspace, checkout: Path) -> None:
    with held_by_another_process(checkout) as other:
        other.kill()
        other.wait()
        with workspace.locked("retrain"):
            pass


def test_stage_of_a_temporary_copy_waits_for_its_turn_and_says_for_what(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Experiments of one queue run side by side; nobody starts again one that was refused."""
    copy = Workspace(checkout / ".dvc" / "tmp" / "exps" / "tmpabc", checkout)
    with held_by_another_process(checkout) as holder:
        tries: list[float] = []
        acquire = FileLock.acquire

        def try_again(lock: FileLock, timeout: float | None = None, **options: Any) -> Any:
            tries.append(-1 if timeout is None else timeout)
            if timeout is None:
                holder.kill()
            return acquire(lock, timeout, **options)

        monkeypatch.setattr(FileLock, "acquire", try_again)
        with copy.locked("split"):
            assert tries == [0, -1]
            assert (checkout / "state" / "stage.pid").read_text() == f"split, process {os.getpid()}"
        said = capsys.readouterr().out
        assert said == f"split waits for another stage of {checkout} to end (search, process {holder.pid})\n"


def test_stage_of_the_checkout_itself_does_not_wait_for_an_experiments(checkout: Path, workspace: Workspace) -> None:
    with (
        held_by_another_process(checkout),
        pytest.raises(UserError, match="another process is running a stage"),
        workspace.locked("split"),
    ):
        pass


def test_lock_is_given_back_after_an_error(workspace: Workspace) -> None:
    with pytest.raises(RuntimeError, match="a stage failed"), workspace.locked("split"):
        raise RuntimeError("a stage failed")
    with workspace.locked("split"):
        pass


def test_lock_that_cannot_be_made_is_told(workspace: Workspace, checkout: Path) -> None:
    (checkout / "state").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"stage\.lock: cannot be written"), workspace.locked("split"):
        pass


def test_trying_to_write_leaves_everything_as_it_was(workspace: Workspace, checkout: Path) -> None:
    (checkout / "models").mkdir()
    before = sorted(checkout.rglob("*"))
    workspace.check_writable()
    assert sorted(checkout.rglob("*")) == before


@pytest.mark.parametrize("name", ["data", "models", "results", "state"])
def test_file_where_a_folder_should_be_is_told(workspace: Workspace, checkout: Path, name: str) -> None:
    (checkout / name).write_text("not a folder")
    with pytest.raises(UserError, match=rf"{name}: cannot be written .*Make it a folder"):
        workspace.check_writable()


def test_link_to_a_folder_that_is_gone_is_told(workspace: Workspace, checkout: Path) -> None:
    (checkout / "data").symlink_to(checkout / "disk" / "not mounted")
    with pytest.raises(UserError, match="data: cannot be written"):
        workspace.check_writable()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a:b", "colon"),
        ("a$b", "dollar"),
        ("a{b", "brace"),
        ("50% off", "percent"),
        ("ann's", "apostrophe"),
        ("b}", "brace"),
        ("a\nb", "cannot be printed"),
        ("a\tb", "cannot be printed"),
    ],
)
def test_checkout_whose_path_engines_fail_with_is_refused(tmp_path: Path, name: str, why: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for each in ("dvc.yaml", "params.yaml"):
        (folder / each).touch()
    with pytest.raises(UserError, match=f"{why}.*Rename the folder"):
        find_workspace(folder)


def test_path_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"a\xffb")
    folder.mkdir()
    for each in ("dvc.yaml", "params.yaml"):
        (folder / each).touch()
    with pytest.raises(UserError, match="cannot be printed") as told:
        find_workspace(folder)
    str(told.value).encode()

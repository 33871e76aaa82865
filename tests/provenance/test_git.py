"""Where git says nothing of a checkout, it is told why, and what to type."""

import os
import subprocess
from pathlib import Path

import pytest

from pipeline.cluster.launch.launcher import _archive
from pipeline.errors import UserError
from pipeline.provenance.git import check_for_dvc, git_problem, run_git, unknown_files
from pipeline.provenance.trace import commit


def _git(root: Path, *arguments: str) -> None:
    command = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "known.yaml").write_text("a: 1\n")
    _git(root, "init", "-q")
    _git(root, "add", "-A")
    _git(root, "commit", "-qm", "one")
    (root / "new.yaml").write_text("a: 1\n")
    return root


@pytest.fixture
def of_another(checkout: Path) -> Path:
    """The checkout, in the hands of another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")
    for path in (checkout, checkout / ".git"):
        os.chown(path, 12345, 12345)
    return checkout


def test_nothing_is_wrong_with_a_checkout_of_ones_own(checkout: Path) -> None:
    assert git_problem(checkout) is None
    assert commit(checkout) == run_git(checkout, "rev-parse", "HEAD").strip()
    check_for_dvc(checkout)


def test_checkout_of_another_user_is_told_with_what_to_type(of_another: Path) -> None:
    said = git_problem(of_another)
    assert said is not None
    assert "belongs to another user" in said
    assert f"git config --global --add safe.directory {of_another}" in said
    assert commit(of_another) == "unknown"
    with pytest.raises(UserError, match="belongs to another user"), _archive(of_another):
        pass
    assert unknown_files(of_another, ".") == []
    (of_another / ".dvc").mkdir()
    check_for_dvc(of_another)  # which DVC takes


def test_what_is_typed_then_helps(of_another: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    subprocess.run(["git", "config", "--global", "--add", "safe.directory", str(of_another)], check=True)
    assert git_problem(of_another) is None


@pytest.mark.parametrize(
    ("made", "said"), [("nothing", "not a git repository"), ("empty", "a git repository without a commit")]
)
def test_other_reasons_are_told_as_what_they_are(made: str, said: str, tmp_path: Path) -> None:
    if made == "empty":
        _git(tmp_path, "init", "-q")
    assert git_problem(tmp_path) == f"{tmp_path}: {said}"
    assert commit(tmp_path) == "unknown"


def test_machine_without_git_is_told(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert git_problem(checkout) == "git is not installed"
    assert commit(checkout) == "unknown"


def test_file_that_git_does_not_know_is_known_as_such(checkout: Path) -> None:
    (checkout / "spaces").mkdir()
    (checkout / "spaces" / "own one.yaml").touch()
    assert unknown_files(checkout, "spaces", "new.yaml", "known.yaml", "missing.yaml") == [
        "new.yaml",
        "spaces/own one.yaml",
    ]
    _git(checkout, "add", "new.yaml", "spaces")
    assert unknown_files(checkout, "spaces", "new.yaml") == []


def test_archive_that_was_unpacked_without_git_is_told_before_dvc_starts(tmp_path: Path) -> None:
    check_for_dvc(tmp_path)  # no checkout at all, as in tests
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(UserError, match="git init"):
        check_for_dvc(tmp_path)
    (tmp_path / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    check_for_dvc(tmp_path)


def test_folder_inside_a_larger_repository_is_taken(checkout: Path) -> None:
    (checkout / "below" / ".dvc").mkdir(parents=True)
    check_for_dvc(checkout / "below")
    assert git_problem(checkout / "below") is None

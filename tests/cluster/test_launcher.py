"""What `sar-search cluster` sends to the head, and how a run there begins and is told of."""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from pipeline.cluster.launch.cluster_files import open_cluster
from pipeline.cluster.launch.launcher import STATUS, _archive, _start_command, _state_command
from pipeline.errors import UserError
from pipeline.workspace import Workspace


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    root.mkdir()
    _git(root, "init", "-q")
    (root / ".gitignore").write_text("/data/\n.env\n")
    for name in ("old", "kept"):
        (root / name).write_text(name)
    _git(root, "add", "-A")
    _git(root, "commit", "-qm", "first")
    _git(root, "rm", "-q", "old")
    _git(root, "commit", "-qm", "second")
    _git(root, "remote", "add", "origin", "https://me:pa55word@example.org/x.git")
    return root


def test_what_is_sent_is_what_git_knows_or_would_take_and_the_commit(repository: Path, tmp_path: Path) -> None:
    (repository / "kept").write_text("changed")
    (repository / "new").write_text("new")
    (repository / ".env").write_text("SECRET=1")
    (repository / "data").mkdir()
    (repository / "data" / "images.npy").write_text("many")
    there = tmp_path / "there"
    with _archive(repository) as path, tarfile.open(path) as tar:
        tar.extractall(there, filter="data")
    assert {path.name for path in there.iterdir()} == {".git", ".gitignore", "kept", "new"}
    assert (there / "kept").read_text() == "changed"
    _git(there, "reset", "-q")
    assert _git(there, "rev-parse", "HEAD") == _git(repository, "rev-parse", "HEAD")
    assert _git(there, "status", "--porcelain", "--untracked-files=no") == "M kept"
    assert not [path for path in there.rglob("*") if path.is_file() and b"pa55word" in path.read_bytes()]


def test_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a git repository"), _archive(tmp_path):
        pass


def test_run_on_the_head_outlives_its_shell_gets_its_arguments_and_leaves_its_status(tmp_path: Path) -> None:
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\nexit 3\n')
    stub.chmod(0o755)
    environment = os.environ | {"PATH": f"{stub.parent}:{os.environ['PATH']}"}

    def say(command: str) -> str:
        return subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert say(_state_command()) == "none"
    say(_start_command(["--force", "it's $HOME"]))
    say(f"until [ -s {STATUS} ]; do sleep 0.05; done")
    assert say(_state_command()) == "ended with status 3"
    log = (tmp_path / "state" / "cluster-repro.log").read_text()
    assert log.splitlines() == ["<-m>", "<pipeline.cli>", "<repro>", "<--force>", "<it's $HOME>"]


def test_file_that_is_no_clusters_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("cluster_name: x\n")
    with pytest.raises(UserError, match="it has no provider"):
        open_cluster(Workspace(tmp_path, tmp_path), str(tmp_path / "mine.yaml"))

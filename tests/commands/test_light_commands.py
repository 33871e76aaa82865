"""Claims about commands that answer at once: they import none of the engines, which take seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.import_graph import ROOT
from support.search_state import ledger_folder, make_workspace, open_search, run, write_search

from pipeline.workspace import Workspace

ENGINES = {"ray", "torch", "mlflow"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("checkout"))
    write_search(workspace)
    return workspace


def run_command(workspace: Workspace, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`sar-search`, run as a process of its own, which also lists the modules that it imports."""
    command = [sys.executable, "-X", "importtime", "-m", "pipeline.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=workspace.root, env=environment, capture_output=True, text=True, check=False)


def modules_of(listed: str) -> set[str]:
    """The modules that a command has listed."""
    return {line.rpartition("|")[2].strip() for line in listed.splitlines()}


def imported_by(workspace: Workspace, *arguments: str) -> tuple[str, set[str]]:
    """What `sar-search` prints, and the modules that it imports."""
    done = run_command(workspace, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout, modules_of(done.stderr)


@pytest.mark.parametrize(
    ("arguments", "module", "said"),
    [
        (["--help"], "pipeline.entry", "Usage: "),
        (["status"], "pipeline.commands.status", "digits"),
        (["status", ""], "pipeline.commands.status", "stopped early"),
        (["logs", "t0000"], "pipeline.commands.logs", "val/accuracy"),
        (["logs", "t0000", "--follow"], "pipeline.commands.logs", "val/accuracy"),
        (["gc", "--dry-run"], "pipeline.commands.gc", ""),
    ],
    ids=["help", "status", "status of one", "logs", "followed logs", "gc"],
)  # fmt: skip
def test_command_answers_without_importing_an_engine(
    workspace: Workspace, arguments: list[str], module: str, said: str
) -> None:
    printed, modules = imported_by(workspace, *arguments)
    assert said in printed
    assert module in modules
    assert not ENGINES & modules


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check"], "params.yaml: search.space: no file search_spaces/none.yaml"),
        (["repro"], "params.yaml: search.space: no file search_spaces/none.yaml"),
        (["predict", "nowhere.png"], "nowhere.png: No such file or directory"),
        (["predict"], "Name image files or folders, as in: sar-search predict photo.jpg"),
    ],
    ids=["check", "repro", "predict", "predict nothing"],
)
def test_mistake_that_is_plain_is_told_before_an_engine_is_imported(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    workspace = make_workspace(tmp_path)
    workspace.params.write_text("search: {space: search_spaces/none.yaml}\n")
    done = run_command(workspace, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ("checking the parameters, and estimating the run\n" if arguments == ["repro"] else "")
    assert not ENGINES & modules_of(done.stderr)


@pytest.mark.parametrize("command", ["check", "repro", "models", "promote", "train"])
def test_wrong_parameter_is_told_before_an_engine_is_imported(tmp_path: Path, command: str) -> None:
    workspace = make_workspace(tmp_path)
    workspace.params.write_text("train: {epoch: 3}\n")
    done = run_command(workspace, command)
    assert done.returncode == 2
    assert "did you mean train.epochs?" in done.stderr
    assert not ENGINES & modules_of(done.stderr)


def test_second_repro_is_refused_before_an_engine_is_imported(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    with workspace.locked("make repro", lock="repro"):
        done = run_command(workspace, "repro")
    assert done.returncode == 2
    assert (
        f"another process is running the pipeline of this checkout (make repro, process {os.getpid()})" in done.stderr
    )
    assert not ENGINES & modules_of(done.stderr)


def test_running_search_is_stopped_without_importing_an_engine(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    with open_search(workspace) as journal:  # this process is the one that runs it
        run(journal, "t0000", epochs=1, state=None)
        printed, modules = imported_by(workspace, "stop", "--finish")
        assert "starts no further trials" in printed
        assert (ledger_folder(journal) / "stop").exists()
    assert "pipeline.commands.stop" in modules
    assert not ENGINES & modules

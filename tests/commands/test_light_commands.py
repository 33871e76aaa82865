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


def imported_by(workspace: Workspace, *arguments: str) -> tuple[str, set[str]]:
    """What `sar-search` prints, run as a process of its own, and the modules that it imports."""
    command = [sys.executable, "-X", "importtime", "-m", "pipeline.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=workspace.root, env=environment, capture_output=True, text=True, check=True)
    return done.stdout, {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


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


def test_running_search_is_stopped_without_importing_an_engine(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    with open_search(workspace) as journal:  # this process is the one that runs it
        run(journal, "t0000", epochs=1, state=None)
        printed, modules = imported_by(workspace, "stop", "--finish")
        assert "starts no further trials" in printed
        assert (ledger_folder(journal) / "stop").exists()
    assert "pipeline.commands.stop" in modules
    assert not ENGINES & modules

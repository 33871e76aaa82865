"""The study in optuna-dashboard: on loopback, from a copy, and with a sentence where there is none."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import optuna
import pytest
from mlflow_server import free_port

from pipeline.commands import dashboard
from pipeline.commands.dashboard import serve_dashboard
from pipeline.errors import UserError
from pipeline.workspace import Workspace

PROGRAM = (
    "import sys; from pathlib import Path; from pipeline.commands.dashboard import serve_dashboard; "
    "from pipeline.workspace import Workspace; root = Path(sys.argv[1]); "
    "serve_dashboard(Workspace(root, root), int(sys.argv[2]))"
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "results" / "search").mkdir(parents=True)
    return Workspace(tmp_path, tmp_path)


def test_no_study_yet_is_told_with_what_makes_one(workspace: Workspace) -> None:
    with pytest.raises(UserError, match=r"no study yet.*\n.*make repro"):
        serve_dashboard(workspace, 8080)


def test_without_the_package_it_is_told_how_to_install_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.results / "search" / "study.db").touch()
    monkeypatch.setattr(dashboard, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\[dashboard\]"):
        serve_dashboard(workspace, 8080)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("optuna_dashboard") is None, reason="needs optuna-dashboard (the extra `dashboard`)")
def test_what_is_deleted_in_the_dashboard_stays_in_the_results(workspace: Workspace, tmp_path: Path) -> None:
    study = workspace.results / "search" / "study.db"
    storage = optuna.storages.RDBStorage(f"sqlite:///{study}")
    optuna.create_study(storage=storage, study_name="kept").add_trial(
        optuna.create_trial(value=0.5, params={}, distributions={})
    )
    storage.remove_session()
    storage.engine.dispose()
    before, port = study.read_bytes(), free_port()
    served = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), str(port)], start_new_session=True)

    def ask(path: str, method: str = "GET") -> Any:
        with urlopen(Request(f"http://127.0.0.1:{port}/api/{path}", method=method), timeout=5) as answer:
            return json.loads(answer.read() or b"{}")

    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                (listed,) = ask("studies")["study_summaries"]
                break
            except OSError:
                assert served.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        assert listed["study_name"] == "kept"
        ask(f"studies/{listed['study_id']}", "DELETE")
        assert ask("studies")["study_summaries"] == []
    finally:
        os.kill(served.pid, signal.SIGINT)
        served.wait(30)
    assert study.read_bytes() == before

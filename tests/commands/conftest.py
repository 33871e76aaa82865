"""Fixtures of the tests of `sar-search check`: a checkout whose data are prepared and split."""

import shutil
from pathlib import Path

import pytest
from copied import ROOT, set_parameters
from support.checkout import TINY

from pipeline.preflight import profile
from pipeline.stages.prepare import __main__ as prepare
from pipeline.stages.split import __main__ as split
from pipeline.tracking.store import prepare_store, resolve_store
from pipeline.workspace import Workspace


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose data are prepared and split by the real stages, and whose store has its schema."""
    folder = tmp_path_factory.mktemp("ready")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "search_spaces", folder / "search_spaces")
    set_parameters(folder / "params.yaml", TINY | {"base.device": "cpu"})
    made = Workspace(folder, folder)
    prepare.main(made)
    split.main(made)
    prepare_store(resolve_store("sqlite:///mlflow.db", folder))
    return folder


@pytest.fixture
def workspace(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of that checkout."""
    monkeypatch.setattr(profile, "BUDGET_S", 0.0)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(ready, tmp_path, dirs_exist_ok=True)
    return Workspace(tmp_path, tmp_path)

"""How runs are called and tagged; that MLflow has them is tested in tests/track and tests/test_pipeline.py."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from copied import ROOT
from support.simulated_search import WIDE

from pipeline.config import Params, load_params
from pipeline.errors import UserError
from pipeline.preflight.plan import Plan
from pipeline.stages.search import mlflow_callback
from pipeline.stages.search.mlflow_callback import MlflowCallback, run_name, rung_marks
from pipeline.tracking.runs import SearchLog
from pipeline.tracking.store import Store
from pipeline.tune.journal.records import CONTROL, TrialRecord
from pipeline.tune.space import load_space
from pipeline.tune.task import SearchTask
from pipeline.workspace import Workspace

ENTROPY = "regularizer.spatial_entropy"


def test_a_trials_name_reads_well_in_a_list() -> None:
    values = {f"{ENTROPY}.weight": 0.0123456, f"{ENTROPY}.layers": "last", f"{ENTROPY}.threshold": 0.3}
    assert run_name(TrialRecord("t0007", 7, values)) == "w=0.0123 layers=last t=0.3 (t0007)"
    control = TrialRecord("baseline", None, {f"{ENTROPY}.weight": 0.0}, role=CONTROL)
    assert run_name(control) == "baseline w=0"


def test_two_methods_weights_are_told_apart() -> None:
    values = {f"{ENTROPY}.weight": 0.5, "regularizer.total_variation.weight": 1.0, "train.lr": 0.001}
    assert run_name(TrialRecord("t1", 1, values)) == "spatial_entropy.w=0.5 total_variation.w=1 lr=0.001 (t1)"


def test_rungs_are_those_of_the_scheduler() -> None:
    params = load_params(ROOT / "params.yaml")
    space = load_space(ROOT / "search_spaces" / "sar.yaml", params, shown_as="sar.yaml")
    assert rung_marks(params, space) == [2]
    stopping = {"search.scheduler.name": "asha_stopping", "search.scheduler.reduction_factor": 2.0}
    assert rung_marks(params.with_values(stopping, where="here"), space) == [2, 4]
    assert rung_marks(params.with_values({"search.scheduler.name": "none"}, where="here"), space) == []


def test_entries_that_did_not_reach_the_store_are_told_once_with_the_command_that_sends_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    callback = object.__new__(MlflowCallback)
    callback._log = cast("SearchLog", SimpleNamespace(close=lambda status: 284))
    callback._plan, callback._pictures = cast("Plan", SimpleNamespace(store=Store("http://a:5000", tmp_path))), tmp_path
    callback.close("FAILED")
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("warning: 284 entries (metrics, tags, files and ends of runs) of this search did not reach ")
    assert "http://a:5000; to send them, run the same command" in said


def test_search_stores_a_file_in_a_new_experiment_before_it_trains(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The check cannot, because the experiment does not exist yet."""
    store = Store("http://a:5000", tmp_path)
    made = []

    def refuse(there: Store, *, experiment: str, model: str) -> None:
        assert (there, made) == (store, [experiment])
        raise UserError("it cannot store files")

    data = SimpleNamespace(prepared=SimpleNamespace(data_hash="1f3a", manifest={}))
    monkeypatch.setattr(mlflow_callback, "load_data", lambda *given: data)
    monkeypatch.setattr(mlflow_callback, "trace", lambda *given: {})
    monkeypatch.setattr(mlflow_callback, "experiment_id", lambda there, name: made.append(name))
    monkeypatch.setattr(mlflow_callback, "require_access", refuse)
    params = Params()
    plan = SimpleNamespace(params=params, store=store, space=WIDE, workspace=Workspace(tmp_path, tmp_path))
    task = SimpleNamespace(
        params=params, prepared=tmp_path, split=tmp_path, fingerprint="1f3a", folder=tmp_path, header={}
    )
    with pytest.raises(UserError, match="cannot store files"):
        MlflowCallback(cast("Plan", plan), cast("SearchTask", task))

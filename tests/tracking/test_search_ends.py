"""What MLflow has of a search whose trials pause, however it ends: no run is left running."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from support.mlflow_search import Open, points
from support.simulated_search import WEIGHT, WIDE, Kill, Search

from pipeline.config import Params
from pipeline.stages.search.mlflow_callback import MlflowCallback
from pipeline.tracking.runs import SearchLog
from pipeline.tracking.store import Store
from pipeline.tune.controller import STOP_FILE
from pipeline.tune.journal.records import COMPLETE, PRUNED, TrialRecord, read_history
from pipeline.tune.objectives.objectives import ACCURACY_ALONE

BY_EPOCHS: dict[str, Any] = {
    "search.trials": None,
    "search.budget.full_trainings": 9.0,
    "search.scheduler.grace_period": 1,
    "search.confirm.top": 1,
}


class Tracked(MlflowCallback):
    """The callback, without a plan and data."""

    def __init__(self, log: SearchLog) -> None:
        self._log, self._tags, self._rung_epochs = log, {}, [1, 2]
        self._objectives, self._params = ACCURACY_ALONE, Params()
        self._plan: Any = type("Plan", (), {"space": WIDE})()


def states(runs: dict[str, Run]) -> dict[str, str]:
    return {
        run.data.tags["sar.trial"]: run.data.tags["sar.state"] for run in runs.values() if "sar.trial" in run.data.tags
    }


def test_what_an_epoch_used_is_among_the_metrics_of_its_trial_by_mlflows_names(
    open_search: Open, runs: Callable[[], dict[str, Run]], store: Store
) -> None:
    used = {"system/cpu_utilization_percentage": 97.5, "system/gpu_0_utilization_percentage": 40.0}
    record = TrialRecord("t0000", 0, {WEIGHT: 0.1}, study="search")
    for _ in range(2):  # told again by the next process, it is not logged again
        with open_search() as log:
            callback = Tracked(log)
            callback.trial_started(record)
            for epoch in (1, 2):
                record.epochs[epoch] = {"val/accuracy": 0.5}
                record.usage |= {2: used} if epoch == 2 else {}
                callback.epoch_reported(record, epoch)
    (found,) = [run for run in runs().values() if "sar.trial" in run.data.tags]
    assert found.data.metrics == {"val/accuracy": 0.5, **used}
    assert points(store, found, "system/cpu_utilization_percentage") == [(2, 97.5)]


@pytest.mark.parametrize("how", ["budget", "patience", "finish", "killed"])
def test_paused_trials_end_as_pruned_and_no_run_is_left_running(
    tmp_path: Path, open_search: Open, runs: Callable[[], dict[str, Run]], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    search = Search(tmp_path, BY_EPOCHS | ({"search.budget.patience": 2} if how == "patience" else {}), WIDE)

    def result(record: TrialRecord, epoch: int) -> float:
        if how == "finish" and record.number == 4:
            (search.folder / STOP_FILE).touch()
        return 0.5 + 0.01 * ((record.number or 0) * 3 % 5)

    search.results = result
    if how == "killed":
        with suppress(Kill), open_search() as log:
            search.callbacks = [Tracked(log)]
            search.run(kill_at=14)
        assert any(record.paused for record in read_history(search.journal).trials.values())
        assert {run.info.status for run in runs().values()} == {"FINISHED", "KILLED"}
    for full in (9.0, 14.0):
        with open_search() as log:
            search.callbacks = [Tracked(log)]
            search.run(search__budget__full_trainings=full)
        (search.folder / STOP_FILE).unlink(missing_ok=True)
        found = runs()
        assert {run.info.status for run in found.values()} == {"FINISHED"}
        recorded = {record.id: record.state for record in read_history(search.journal).trials.values()}
        assert states(found) == recorded
        assert set(recorded.values()) == {COMPLETE, PRUNED}
    assert WEIGHT in next(run for run in found.values() if "sar.trial" in run.data.tags).data.params

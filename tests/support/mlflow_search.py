"""A search of three trials, told to MLflow, and what MLflow then has of it."""

import time
from collections.abc import Callable

from mlflow.entities import DatasetInput, Run

from pipeline.tracking.runs import SearchLog
from pipeline.tracking.store import Store, client

Open = Callable[..., SearchLog]


def points(store: Store, run: Run, metric: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in client(store).get_metric_history(run.info.run_id, metric)]


def datasets(run: Run) -> list[DatasetInput]:
    assert run.inputs
    return run.inputs.dataset_inputs


def play(log: SearchLog, epochs: int = 3) -> None:
    """One trial of each ending."""
    for trial, state in (("a", "complete"), ("b", "pruned"), ("c", "failed")):
        log.start_trial(
            trial,
            f"trial {trial}",
            {"train.lr": 0.1, "model.kwargs": {"depth": 1}},
            {"sar.role": "trial"},
        )
        for epoch in range(1, epochs + 1):
            log.log_epoch(trial, epoch, {"loss": 1 / epoch, "accuracy": epoch / 10})
        log.end_trial(trial, state, metrics={"best": 0.5}, tags={"note": state})


def until(true: Callable[[], bool]) -> None:
    """Waits for the background thread."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)

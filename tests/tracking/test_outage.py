"""A real MLflow server that goes away in the middle of a search, or before its end, costs no waiting and no entry."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow_server import MlflowServer

from pipeline.tracking.runs import SearchLog
from pipeline.tracking.store import Store, client, experiment_id, prepare_store, resolve_store

pytestmark = pytest.mark.slow

EPOCHS = 40


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path) as started:
        yield started


@pytest.fixture
def store(server: MlflowServer, tmp_path: Path) -> Store:
    made = resolve_store(server.uri, tmp_path)
    prepare_store(made)
    return made


def open_log(store: Store) -> SearchLog:
    return SearchLog(
        store, experiment="outage", fingerprint="1f3a", name="a search", description="", params={"base.seed": 1}
    )


class Stopwatch:
    """The longest that any of the calls took."""

    longest = 0.0

    def __call__(self, call: Callable[[], None]) -> None:
        before = time.monotonic()
        call()
        self.longest = max(self.longest, time.monotonic() - before)


def tell(log: SearchLog, trial: str, epochs: range, timed: Stopwatch, *, end: bool) -> None:
    if epochs.start == 1:
        timed(lambda: log.start_trial(trial, f"trial {trial}", {"train.lr": 0.1}))
    for epoch in epochs:
        timed(lambda: log.log_epoch(trial, epoch, {"loss": 1 / epoch, "accuracy": epoch / 100}))  # noqa: B023
    if end:
        timed(lambda: log.end_trial(trial, "complete"))


def assert_complete(store: Store, trials: set[str]) -> None:
    """Every run once, ended, and with every epoch of every metric once."""
    mlflow = client(store)
    runs: list[Run] = list(mlflow.search_runs([experiment_id(store, "outage")]))
    assert Counter(run.info.run_name for run in runs) == Counter({"a search": 1, **{f"trial {t}": 1 for t in trials}})
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        if run.info.run_name != "a search":
            assert run.data.params == {"train.lr": "0.1"}
            for metric, value in (("loss", lambda epoch: 1 / epoch), ("accuracy", lambda epoch: epoch / 100)):
                points = [(point.step, point.value) for point in mlflow.get_metric_history(run.info.run_id, metric)]
                assert sorted(points) == [(epoch, value(epoch)) for epoch in range(1, EPOCHS + 1)]


def test_server_killed_in_the_middle_of_a_search_delays_its_record_and_loses_nothing(
    server: MlflowServer, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    log, timed = open_log(store), Stopwatch()
    tell(log, "a", range(1, 11), timed, end=False)
    time.sleep(3)
    server.kill()
    away = time.monotonic()
    tell(log, "a", range(11, 31), timed, end=False)
    for trial in "bcd":
        tell(log, trial, range(1, EPOCHS + 1), timed, end=True)
        time.sleep(8)
    assert time.monotonic() - away > 20
    assert log.num_pending > 3 * 2 * EPOCHS
    server.start()
    tell(log, "a", range(31, EPOCHS + 1), timed, end=True)
    assert log.close() == 0
    assert timed.longest < 0.1
    assert_complete(store, set("abcd"))
    warned = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warned) == 1
    said = f"does not reach {server.uri}: connection refused, nothing listens there. The search goes on"
    assert said in warned[0]


def test_server_away_at_the_end_is_waited_for_with_a_word(
    server: MlflowServer,
    store: Store,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.tracking.runs.HEARTBEAT_S", 0.5)
    log = open_log(store)
    tell(log, "a", range(1, 11), Stopwatch(), end=False)
    time.sleep(2)
    server.kill()
    tell(log, "a", range(11, EPOCHS + 1), Stopwatch(), end=True)
    back = threading.Timer(8, server.start)
    back.start()
    try:
        assert log.close() == 0
    finally:
        back.join()
    said = next(each.message for each in caplog.records if "waiting up to 600 s" in each.message)
    assert "(connection refused, nothing listens there)" in said
    assert "Ctrl-C ends the wait and loses nothing" in said
    assert f"waiting for {server.uri} | at most " in capsys.readouterr().out  # the count-down
    assert_complete(store, {"a"})


def test_server_that_stays_away_is_given_up_in_time_and_told_everything_by_the_next_search(
    server: MlflowServer, store: Store
) -> None:
    log = open_log(store)
    tell(log, "a", range(1, 11), Stopwatch(), end=False)
    time.sleep(2)
    server.kill()
    tell(log, "a", range(11, EPOCHS + 1), Stopwatch(), end=True)
    tell(log, "b", range(1, EPOCHS + 1), Stopwatch(), end=True)
    before = time.monotonic()
    undelivered = log.close(timeout_s=5)
    assert time.monotonic() - before < 8
    assert undelivered > 2 * EPOCHS
    server.start()
    again = open_log(store)
    for trial in "ab":
        tell(again, trial, range(1, EPOCHS + 1), Stopwatch(), end=True)
    assert again.close() == 0
    assert_complete(store, {"a", "b"})

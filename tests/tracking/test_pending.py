"""A search's record costs it no waiting, outlasts the store's absence, and takes whatever it is given."""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from support.mlflow_search import Open, play, points, until

from pipeline.tracking.pending import legal_name
from pipeline.tracking.store import Store, client


def test_trials_never_wait_for_the_store(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MlflowClient.create_run

    def slow(self: MlflowClient, *given: Any, **named: Any) -> Run:
        time.sleep(0.5)
        return real(self, *given, **named)

    log = open_search()
    monkeypatch.setattr(MlflowClient, "create_run", slow)
    before = time.monotonic()
    play(log, epochs=100)
    assert time.monotonic() - before < 0.3
    assert log.close() == 0


def test_a_hundred_epochs_are_a_handful_of_calls(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            calls.append(name)
            return real(*given, **named)

        return call

    for name in ("create_run", "log_batch", "set_terminated", "get_run", "get_metric_history", "search_runs"):
        monkeypatch.setattr(MlflowClient, name, counted(name, getattr(MlflowClient, name)))
    log = open_search(flush_s=60)
    calls.clear()
    log.start_trial("a", "trial a", {"train.lr": 0.1})
    for epoch in range(100):
        log.log_epoch("a", epoch, {f"metric {k}": epoch / (k + 1) for k in range(8)})
    log.end_trial("a", "complete")
    assert log.close() == 0
    assert calls == ["create_run", "log_batch", "set_terminated", "set_terminated"]


class Outage:
    """A store that fails every call while it is on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = True
        self.refused = 0
        for name in (
            "create_run",
            "log_batch",
            "set_terminated",
            "get_run",
            "search_runs",
            "log_artifacts",
        ):
            monkeypatch.setattr(MlflowClient, name, self._wrapped(getattr(MlflowClient, name)))

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if self.on:
                self.refused += 1
                raise MlflowException("the database went away", TEMPORARILY_UNAVAILABLE)
            return real(*given, **named)

        return call


def test_an_outage_delays_the_record_and_loses_nothing(
    store: Store,
    open_search: Open,
    runs: Callable[[], dict[str, Run]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    (tmp_path / "map.txt").write_text("attention")
    with open_search() as log:
        log.start_trial("z", "trial z", {"train.lr": 0.1})
        log.log_epoch("z", 1, {"loss": 1.0})
        until(lambda: "trial z" in runs() and "loss" in runs()["trial z"].data.metrics)
        outage = Outage(monkeypatch)
        log.log_epoch("z", 2, {"loss": 0.5})
        log.log_artifacts("z", tmp_path)
        play(log)
        until(lambda: outage.refused > 2)
        log.end_trial("z", "complete")
        outage.on = False
    assert log.num_pending == 0
    assert points(store, runs()["trial z"], "loss") == [(1, 1.0), (2, 0.5)]
    assert points(store, runs()["trial c"], "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert [each.path for each in client(store).list_artifacts(runs()["trial z"].info.run_id)] == ["map.txt"]
    assert {run.info.status for name, run in runs().items() if name != "trial c"} == {"FINISHED"}
    warnings = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "The search goes on" in warnings[0]


def test_what_an_outage_keeps_back_is_counted_and_told_by_the_next_search(
    open_search: Open,
    runs: Callable[[], dict[str, Run]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = open_search()
    outage = Outage(monkeypatch)
    play(log)
    before = time.monotonic()
    undelivered = log.close(timeout_s=0.2)
    assert time.monotonic() - before < 3
    assert undelivered > 3 * (3 * 2 + 2)  # every metric, every parameter, and more
    outage.on = False
    with open_search() as log:
        play(log)
    assert log.num_pending == 0
    assert runs()["trial a"].data.metrics.keys() == {"loss", "accuracy", "best"}
    assert runs()["a search"].info.status == "FINISHED"


def test_a_run_whose_making_was_not_confirmed_is_not_made_twice(
    open_search: Open,
    runs: Callable[[], dict[str, Run]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, failures = MlflowClient.create_run, list[Run]()

    def unconfirmed(self: MlflowClient, *given: Any, **named: Any) -> Run:
        run = real(self, *given, **named)
        if not failures:
            failures.append(run)
            raise MlflowException("the connection broke")
        return run

    with open_search() as log:
        monkeypatch.setattr(MlflowClient, "create_run", unconfirmed)
        log.start_trial("a", "trial a", {"train.lr": 0.1})
        log.end_trial("a", "complete")
    assert failures
    assert runs().keys() == {"a search", "trial a"}
    assert runs()["trial a"].data.params == {"train.lr": "0.1"}


def test_a_run_that_somebody_deletes_holds_up_no_other(
    store: Store,
    open_search: Open,
    runs: Callable[[], dict[str, Run]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with open_search() as log:
        log.start_trial("a", "trial a", {})
        until(lambda: "trial a" in runs())
        client(store).delete_run(runs()["trial a"].info.run_id)
        for epoch in range(1, 4):
            log.log_epoch("a", epoch, {"loss": 1.0})
            time.sleep(0.05)
        log.start_trial("b", "trial b", {})
        log.end_trial("b", "complete")
    assert runs()["trial b"].info.status == "FINISHED"
    assert log.num_pending > 0
    assert len([each for each in caplog.records if "trial a is lost" in each.message]) == 1


def test_values_that_are_not_finite_become_a_tag_with_their_first_epoch(
    open_search: Open, runs: Callable[[], dict[str, Run]]
) -> None:
    losses = {1: 1.0, 2: math.inf, 3: math.nan}
    for epochs in ([1, 2, 3], [3]):
        with open_search() as log:
            log.start_trial("a", "trial a", {})
            for epoch in epochs:
                log.log_epoch("a", epoch, {"loss": losses[epoch], "accuracy": 0.5})
            log.end_trial("a", "failed")
    assert runs()["trial a"].data.metrics == {"loss": 1.0, "accuracy": 0.5}
    assert runs()["trial a"].data.tags["sar.nonfinite.loss"] == "2"


def test_what_is_too_long_or_oddly_named_is_written_all_the_same(
    open_search: Open, runs: Callable[[], dict[str, Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", "false")
    with open_search(tags={"long": "x" * 9000}) as log:
        log.start_trial("a", "trial a", {"long": "y" * 9000, **{f"p{k}": k for k in range(250)}})
        log.log_epoch("a", 1, {"accuracy (%)": 50.0})
    run = runs()["trial a"]
    assert log.num_pending == 0
    assert run.data.params["long"] == "y" * 6000
    assert runs()["a search"].data.tags["long"] == "x" * 8000
    assert len(run.data.params) == 251
    assert run.data.metrics == {"accuracy ___": 50.0}


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("val/accuracy", "val/accuracy"),
        ("a b-c_d.e", "a b-c_d.e"),
        ("../up", "___up"),
        ("/top", "_top"),
        (".", "_"),
        ("", "_"),
    ],
)
def test_names_become_what_mlflow_takes(name: str, legal: str) -> None:
    assert legal_name(name) == legal


def test_a_trials_files_are_kept_and_a_missing_folder_costs_only_itself(
    store: Store, open_search: Open, runs: Callable[[], dict[str, Run]], tmp_path: Path
) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "one.txt").write_text("1")
    with open_search() as log:
        log.log_artifacts(None, tmp_path)
        log.start_trial("a", "trial a", {})
        log.log_artifacts("a", tmp_path / "nowhere")
        log.end_trial("a", "complete", metrics={"best": 1.0})
    assert [each.path for each in client(store).list_artifacts(log.run_id, "maps")] == ["maps/one.txt"]
    assert runs()["trial a"].info.status == "FINISHED"
    assert runs()["trial a"].data.metrics == {"best": 1.0}
    assert log.num_pending == 1


def test_a_closed_record_takes_nothing_more(open_search: Open) -> None:
    log = open_search()
    log.close()
    with pytest.raises(RuntimeError, match="closed"):
        log.log_epoch("a", 1, {})


def test_an_ending_that_does_not_exist_is_refused(open_search: Open) -> None:
    with (
        open_search() as log,
        pytest.raises(ValueError, match="complete, pruned, failed"),
    ):
        log.end_trial("a", "done")

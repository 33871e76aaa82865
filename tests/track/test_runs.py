"""A search's record is complete, is never doubled, and costs the search no waiting."""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from pipeline.errors import UserError
from pipeline.track.datasets import DataUsed
from pipeline.track.once import log_run
from pipeline.track.outbox import legal_name
from pipeline.track.runs import SearchLog
from pipeline.track.store import Store, client, experiment_id

Open = Callable[..., SearchLog]


@pytest.fixture
def open_search(store: Store, experiment: str) -> Open:
    """Opens the same search again and again."""

    def open_it(**changes: Any) -> SearchLog:
        fixed = {
            "experiment": experiment,
            "fingerprint": "1f3a",
            "name": "a search",
            "description": "what it is about",
            "params": {"base.seed": 1},
            "flush_s": 0.02,
        }
        return SearchLog(store, **{**fixed, **changes})

    return open_it


@pytest.fixture
def runs(store: Store, experiment: str) -> Callable[[], dict[str, Run]]:
    """The experiment's runs by their names."""

    def listed() -> dict[str, Run]:
        found = client(store).search_runs([experiment_id(store, experiment)])
        names = [run.info.run_name for run in found]
        assert len(set(names)) == len(names), f"doubled: {names}"
        return dict(zip(names, found, strict=True))

    return listed


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


def test_trials_are_nested_with_parameters_curves_and_how_they_ended(
    store: Store, open_search: Open, runs: Callable[[], dict[str, Run]]
) -> None:
    with open_search(datasets=[DataUsed("digits", "9a", "data/prepared", "training", {"train": 10})]) as log:
        play(log)
        log.log_metrics({"best.accuracy": 0.3})
    found = runs()
    parent, a, b, c = (found[name] for name in ("a search", "trial a", "trial b", "trial c"))
    assert {run.data.tags["mlflow.parentRunId"] for run in (a, b, c)} == {log.run_id} == {parent.info.run_id}
    assert [run.info.status for run in (parent, a, b, c)] == [
        "FINISHED",
        "FINISHED",
        "FINISHED",
        "FAILED",
    ]
    assert [run.data.tags["sar.state"] for run in (a, b, c)] == [
        "complete",
        "pruned",
        "failed",
    ]
    assert a.data.params == {"train.lr": "0.1", "model.kwargs": "{'depth': 1}"}
    assert points(store, a, "accuracy") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert points(store, a, "best") == [(3, 0.5)]
    assert parent.data.params == {"base.seed": "1"}
    assert parent.data.metrics == {"best.accuracy": 0.3}
    assert parent.data.tags["mlflow.note.content"] == "what it is about"
    assert [each.dataset.name for each in datasets(parent)] == ["digits"]
    assert log.undelivered == 0


def test_telling_a_search_again_doubles_and_changes_nothing(
    store: Store, open_search: Open, runs: Callable[[], dict[str, Run]]
) -> None:
    with open_search() as first:
        play(first)
    before = runs()
    with open_search() as second:
        play(second)
    after = runs()
    assert first.run_id == second.run_id
    assert points(store, after["trial b"], "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert points(store, after["trial b"], "best") == [(3, 0.5)]
    for name in ("trial a", "trial b", "trial c"):
        assert after[name].to_dictionary() == before[name].to_dictionary()


def test_a_resumed_trial_goes_on_where_it_was(
    store: Store, open_search: Open, runs: Callable[[], dict[str, Run]]
) -> None:
    with open_search() as log:
        log.start_trial("a", "trial a", {"train.lr": 0.1})
        log.log_epoch("a", 1, {"loss": 1.0})
    assert runs()["trial a"].info.status == "KILLED"
    assert runs()["trial a"].data.tags["sar.state"] == "interrupted"
    with open_search() as log:
        log.start_trial("a", "trial a", {"train.lr": 0.1})
        log.log_epoch("a", 1, {"loss": 1.0})
        until(lambda: log.undelivered == 0)
        assert runs()["trial a"].data.tags["sar.state"] == "interrupted"  # so far it has done nothing new
        log.log_epoch("a", 2, {"loss": 0.5})
        until(lambda: runs()["trial a"].data.tags["sar.state"] == "running")
        assert runs()["trial a"].info.status == "RUNNING"
        log.end_trial("a", "complete")
    assert points(store, runs()["trial a"], "loss") == [(1, 1.0), (2, 0.5)]
    assert runs()["trial a"].info.status == "FINISHED"
    assert runs()["trial a"].data.tags["sar.state"] == "complete"


def test_parameters_that_changed_do_not_stop_a_resumed_search(
    open_search: Open, runs: Callable[[], dict[str, Run]]
) -> None:
    open_search(params={"search.trials": 8}, tags={"budget": "8"}).close()
    assert open_search(params={"search.trials": 16, "new": 1}, tags={"budget": "16"}).close() == 0
    assert runs()["a search"].data.params == {"search.trials": "8", "new": "1"}
    assert runs()["a search"].data.tags["budget"] == "16"


def test_a_trial_that_starts_again_with_other_parameters_loses_no_metrics(
    open_search: Open, runs: Callable[[], dict[str, Run]]
) -> None:
    with open_search() as log:
        log.start_trial("a", "trial a", {"train.lr": 0.1})
        until(lambda: "trial a" in runs())
        log.start_trial("a", "trial a", {"train.lr": 0.2})
        log.log_epoch("a", 1, {"loss": 1.0})
    assert log.undelivered == 0
    assert runs()["trial a"].data.metrics == {"loss": 1.0}
    assert runs()["trial a"].data.params == {"train.lr": "0.1"}


def test_another_fingerprint_is_another_search(open_search: Open) -> None:
    ids = set()
    for fingerprint in ("1f3a", "77b0"):
        with open_search(fingerprint=fingerprint) as log:
            ids.add(log.run_id)
    assert len(ids) == 2


def test_nothing_is_left_running(
    store: Store, experiment: str, open_search: Open, runs: Callable[[], dict[str, Run]]
) -> None:
    log = open_search()
    log.close()
    # What an earlier process, killed, has left behind.
    client(store).create_run(
        experiment_id(store, experiment),
        tags={
            "mlflow.parentRunId": log.run_id,
            "sar.trial": "old",
            "sar.kind": "trial",
        },
        run_name="old",
    )
    log = open_search()
    log.start_trial("new", "new", {})
    log.close("KILLED")
    assert {name: run.info.status for name, run in runs().items()} == dict.fromkeys(
        ["a search", "old", "new"], "KILLED"
    )


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_search_that_breaks_off_says_so(
    error: type[BaseException],
    status: str,
    open_search: Open,
    runs: Callable[[], dict[str, Run]],
) -> None:
    with pytest.raises(error), open_search():
        raise error
    assert runs()["a search"].info.status == status


def _tell_a_finished_trial(log: SearchLog) -> None:
    log.start_trial("a", "trial a", {})
    log.log_epoch("a", 1, {"loss": 1.0})
    log.end_trial("a", "complete")


def test_finished_search_that_is_told_again_stays_finished_whatever_breaks_that_off(
    open_search: Open, runs: Callable[[], dict[str, Run]]
) -> None:
    """DVC may have its results in its cache, and then nobody would ever set it right."""
    with open_search() as log:
        _tell_a_finished_trial(log)
    again = open_search()
    _tell_a_finished_trial(again)
    again.log_metrics({"epochs_spent": 2.0})
    until(lambda: again.undelivered == 0)
    assert runs()["a search"].info.status == "FINISHED", "a process killed here would have left it running"
    assert again.close("KILLED") == 0
    assert {run.info.status for run in runs().values()} == {"FINISHED"}


@pytest.mark.parametrize("at_once", [False, True])
def test_finished_search_that_goes_on_with_something_new_runs_again_and_may_be_broken_off(
    open_search: Open, runs: Callable[[], dict[str, Run]], at_once: bool
) -> None:
    with open_search() as log:
        _tell_a_finished_trial(log)
    again = open_search()
    again.start_trial("b", "trial b", {})
    again.log_epoch("b", 1, {"loss": 2.0})
    if not at_once:
        until(lambda: runs()["a search"].info.status == "RUNNING")
    again.end_trial("b", "complete")
    assert again.close("KILLED") == 0
    assert runs()["a search"].info.status == "KILLED"
    open_search().close()
    assert runs()["a search"].info.status == "FINISHED"


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
    assert log.undelivered == 0
    assert points(store, runs()["trial z"], "loss") == [(1, 1.0), (2, 0.5)]
    assert points(store, runs()["trial c"], "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert [each.path for each in client(store).list_artifacts(runs()["trial z"].info.run_id)] == ["map.txt"]
    assert {run.info.status for name, run in runs().items() if name != "trial c"} == {"FINISHED"}
    warnings = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "the search goes on" in warnings[0]


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
    assert log.undelivered == 0
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
    assert log.undelivered > 0
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
    assert log.undelivered == 0
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
    assert log.undelivered == 1


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


def test_a_whole_run_is_written_once(store: Store, experiment: str, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "one.txt").write_text("1")
    (tmp_path / "card.md").write_text("# card")
    parent = log_run(store, experiment=experiment, key="p", name="parent", params={}, metrics={})

    def write(accuracy: float) -> str:
        return log_run(
            store,
            experiment=experiment,
            key="retrain/0",
            name="seed 0",
            params={"train.lr": 0.1},
            metrics={"test.accuracy": accuracy},
            curves=[(1, {"loss": 1.0}), (2, {"loss": math.nan})],
            tags={"sar.kind": "retrain"},
            parent_run_id=parent,
            artifacts={"maps": tmp_path / "maps", "": tmp_path / "card.md"},
            datasets=[DataUsed("digits", "9a" * 32, "data/prepared", "test")],
        )

    first = write(0.9)
    assert write(0.1) == first
    run = client(store).get_run(first)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"loss": 1.0, "test.accuracy": 0.9}
    assert points(store, run, "test.accuracy") == [(1, 0.9)]
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert {each.path for each in client(store).list_artifacts(first)} == {
        "maps",
        "card.md",
    }
    assert [each.tags[0].value for each in datasets(run)] == ["test"]


def test_a_whole_run_that_was_begun_is_completed(
    store: Store,
    experiment: str,
    runs: Callable[[], dict[str, Run]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write() -> str:
        return log_run(
            store,
            experiment=experiment,
            key="k",
            name="seed 0",
            params={"a": 1},
            metrics={"b": 2.0},
            curves=[(5, {"c": 3.0})],
        )

    with monkeypatch.context() as broken:

        def fail(*given: Any, **named: Any) -> None:
            raise MlflowException("gone")

        broken.setattr(MlflowClient, "set_terminated", fail)
        with pytest.raises(UserError, match="logging the run 'seed 0' failed"):
            write()
    assert runs()["seed 0"].info.status == "RUNNING"
    write()
    assert runs()["seed 0"].info.status == "FINISHED"
    assert points(store, runs()["seed 0"], "c") == [(5, 3.0)]
    assert points(store, runs()["seed 0"], "b") == [(5, 2.0)]

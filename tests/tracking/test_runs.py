"""A search's record is complete and is never doubled."""

import time
from collections.abc import Callable
from contextlib import nullcontext

import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from support.mlflow_search import Open, datasets, play, points, until

from pipeline.console.progress import ProgressLine
from pipeline.tracking.dataset_inputs import DataUsed
from pipeline.tracking.pending import RunUpdate
from pipeline.tracking.runs import SearchLog
from pipeline.tracking.store import Store, client, experiment_id


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
    assert log.num_pending == 0


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
        until(lambda: log.num_pending == 0)
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
    assert log.num_pending == 0
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
    until(lambda: again.num_pending == 0)
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


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_ctrl_c_ends_the_wait_for_a_store_and_does_not_hide_why_a_search_failed(
    open_search: Open, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    def answer_nothing(update: RunUpdate) -> None:
        raise MlflowException("API request to http://a failed with exception Connection refused")

    def press(line: ProgressLine) -> None:
        raise KeyboardInterrupt

    log = open_search()
    monkeypatch.setattr(log._writer, "steps", ((answer_nothing, ()),))
    monkeypatch.setattr("pipeline.tracking.runs.SILENT_WAIT_S", 0.05)
    monkeypatch.setattr(ProgressLine, "beat", press)
    log.start_trial("a", "trial 1", {})
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt) if status == "FINISHED" else nullcontext():
        assert log.close(status) > 0
    assert time.monotonic() - began < 10
    log._given_up = True
    log._wake.set()

"""A search in MLflow: one run with its trials nested under it. `pipeline.tracking.single_run` writes single runs.

A search writes through a queue. Calls that log something return at once, and a background thread of the
driver sends the entries in batches. If the store does not answer, the search continues and the entries wait.

    with SearchLog(store, experiment="digits", fingerprint="1f3a", name="sar", description="", params={}) as log:
        log.start_trial("a1", "trial 1", {"train.lr": 0.001})
        log.log_epoch("a1", 1, {"val_accuracy": 0.5})
        log.end_trial("a1", "complete")
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from mlflow.exceptions import MlflowException

from pipeline.console.format import format_clock
from pipeline.console.progress import HEARTBEAT_S, ProgressLine
from pipeline.tracking.dataset_inputs import DataUsed, dataset_inputs
from pipeline.tracking.pending import PARENT_TAG, STATE_TAG, RunUpdate, RunWriter, now_ms
from pipeline.tracking.store import Store, as_user_error, client, experiment_id, is_unreachable, refusal, user_name

KIND_TAG = "sar.kind"
FINGERPRINT_TAG = "sar.fingerprint"
TRIAL_TAG = "sar.trial"

STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "infeasible": "FINISHED"}
"""MLflow's status by the state of an ended trial. A pruned trial is finished; the tag `sar.state` marks it."""

ENTRIES = "entries (metrics, tags, files and ends of runs)"
"""What a search has for its record in MLflow, in words."""

LONGEST_PAUSE_S = 30.0
SILENT_WAIT_S = 5.0
"""Seconds that `close` waits before it logs a warning about the wait."""

PATIENCE_S = {"FINISHED": 600.0, "FAILED": 60.0, "KILLED": 15.0}
"""Seconds that `close` waits for an unreachable store, by status. A finished search is not run again, so its end would
never be logged later. An interrupted search is resumed, and its user expects it to end soon."""

PERMANENT_ERRORS = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"})
"""MLflow's errors that a repeated call cannot repair, such as a run that somebody has deleted."""

_log = logging.getLogger(__name__)


class ClosedByStatus(ABC):
    """Base of objects that end an MLflow run at the end of a `with` block. The block's exception determines
    the run's status.
    """

    @abstractmethod
    def close(self, status: str) -> object:
        """Ends the run with one of MLflow's statuses."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = kind is not None and not issubclass(kind, Exception)
        self.close("KILLED" if interrupted else "FAILED" if kind else "FINISHED")


class SearchLog(ClosedByStatus):
    """The record of one search: a parent run, found again by its fingerprint, and a run for each trial.

    Logging the same again, in this process or the next, duplicates nothing. Runs are found by their tags, parameters
    are written once, and a metric that a step already has is skipped. Values that are not finite are not sent; the tag
    `sar.nonfinite.METRIC` holds the first epoch of each. MLflow's parameters cannot change. A parameter of the search
    that may change on resuming (a budget, for example) therefore belongs in `tags`.

    Args:
        store: the tracking store.
        experiment: name of the experiment.
        fingerprint: fingerprint of the search.
        name: name of the search's run.
        description: note that MLflow shows with the run.
        params: parameters of the search that never change.
        tags: further tags; None: none.
        datasets: data that the search reads.
        flush_s: seconds between two attempts to send.

    Raises:
        UserError: the store does not answer at the start.
    """

    def __init__(
        self,
        store: Store,
        *,
        experiment: str,
        fingerprint: str,
        name: str,
        description: str,
        params: Mapping[str, object],
        tags: Mapping[str, str] | None = None,
        datasets: Sequence[DataUsed] = (),
        flush_s: float = 1.0,
    ) -> None:
        self._store = store
        self._flush_s = flush_s
        self._parent = RunUpdate({KIND_TAG: "search", FINGERPRINT_TAG: fingerprint}, name)
        self._parent.add_params(params)
        self._parent.add_tags({"mlflow.note.content": description, "mlflow.user": user_name(store), **(tags or {})})
        self._parent.datasets += dataset_inputs(datasets)
        self._ids: dict[str, str] = {}  # MLflow's ids of trials that are not in self._updates
        self._open: set[str] = set()
        with as_user_error(store, f"opening the search {name!r}"):
            self._writer = RunWriter(client(store), experiment_id(store, experiment))
            if found := self._writer.find(self._parent.identity):
                self._take_over_run(str(found[0].info.run_id))
            self._writer.flush(self._parent)
        assert self._parent.run_id is not None
        self.run_id: str = self._parent.run_id

        # Once the thread runs, only the thread uses the updates, the ids and the set of open trials.
        self._updates: dict[str, RunUpdate] = {}
        self._notes: SimpleQueue[tuple[str | None, Callable[[RunUpdate], None]]] = SimpleQueue()
        self._lost = 0
        self._outage = ""  # why the store takes nothing now
        self._closing = False
        self._given_up = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._work, name="search-log", daemon=True)
        self._thread.start()

    def start_trial(
        self, trial_id: str, name: str, params: Mapping[str, object], tags: Mapping[str, str] | None = None
    ) -> None:
        """Logs that a trial starts or resumes.

        Args:
            trial_id: id of the trial.
            name: name of its run.
            params: configuration by dotted path.
            tags: further tags; None: none.
        """
        fixed, labels, started = {key: str(value) for key, value in params.items()}, dict(tags or {}), now_ms()

        def note(update: RunUpdate) -> None:
            update.name, update.started_ms, update.status, update.ended_ms = name, started, None, None
            update.add_params(fixed)
            update.add_tags({STATE_TAG: "running", **labels})
            self._open.add(trial_id)

        self._enqueue(trial_id, note)

    def log_epoch(self, trial_id: str | None, epoch: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of a trial after an epoch.

        Args:
            trial_id: id of the trial; None: the search as a whole.
            epoch: counted from 1; it becomes MLflow's step.
            metrics: values by name.
        """
        values, time_ms = {key: float(value) for key, value in metrics.items()}, now_ms()
        self._enqueue(trial_id, lambda update: update.add_metrics(values, epoch, time_ms))

    def end_trial(
        self,
        trial_id: str,
        state: str,
        *,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Logs that a trial has ended.

        Args:
            trial_id: id of the trial.
            state: "complete", "pruned", "failed" or "infeasible".
            tags: further tags; None: none.
            metrics: values by name, logged at the trial's last epoch; None: none.

        Raises:
            ValueError: another state.
        """
        if state not in STATUS:
            raise ValueError(f"a trial ends as one of {', '.join(STATUS)}, not {state!r}")
        values = {key: float(value) for key, value in (metrics or {}).items()}
        labels, time_ms = {STATE_TAG: state, **(tags or {})}, now_ms()

        def note(update: RunUpdate) -> None:
            update.add_metrics(values, None, time_ms)
            update.add_tags(labels)
            update.end_run(STATUS[state], time_ms)
            self._open.discard(trial_id)

        self._enqueue(trial_id, note)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Logs metrics of the search as a whole."""
        self.log_epoch(None, step, metrics)

    def log_artifacts(self, trial_id: str | None, folder: Path) -> None:
        """Logs the files in a folder, for a trial or, if `trial_id` is None, for the search.

        The files must not change until `close`.
        """
        self._enqueue(trial_id, lambda update: update.artifacts.append((folder, None)))

    @property
    def num_pending(self) -> int:
        """Number of entries that the store does not have: values, parameters, tags, artifacts, ends of runs."""
        updates = [self._parent, *self._updates.copy().values()]
        return self._lost + self._notes.qsize() + sum(update.num_pending for update in updates)

    def close(self, status: str = "FINISHED", *, timeout_s: float | None = None) -> int:
        """Ends the search's run, as "FINISHED", "FAILED" or "KILLED", and trials that have not ended as "KILLED".

        It waits up to `timeout_s` seconds (None: `PATIENCE_S` of the status) until all entries are sent. It
        returns the number of entries that were not sent. Entries that are also in the search's state can be
        logged again when it is resumed.
        """
        if not self._closing:
            time_ms, timeout_s = now_ms(), PATIENCE_S[status] if timeout_s is None else timeout_s
            self._enqueue(None, lambda update: update.end_run(status, time_ms))
            self._closing = True
            self._wake.set()
            try:
                self._thread.join(min(timeout_s, SILENT_WAIT_S))
                if self._thread.is_alive() and timeout_s > SILENT_WAIT_S:
                    self._wait(timeout_s)
            except KeyboardInterrupt:
                if status == "FINISHED":
                    raise  # what follows the search would be started otherwise
            if self._thread.is_alive():
                self._given_up = True
                self._wake.set()
                self._thread.join(1.0)
        return self.num_pending

    def _wait(self, timeout_s: float) -> None:
        """Waits until all entries are sent, and shows how long that may still take.

        Args:
            timeout_s: seconds of the whole wait, of which `SILENT_WAIT_S` have passed.
        """
        until = time.monotonic() + timeout_s - SILENT_WAIT_S

        def parts() -> list[str]:
            left = format_clock(max(0.0, until - time.monotonic()))
            return [f"waiting for {self._store.shown}", f"at most {left} more", *filter(None, [self._outage])]

        _log.warning(
            "waiting up to %.0f s for %s to take %d %s of this search%s; it is tried again every few seconds. Ctrl-C "
            "ends the wait and loses nothing: the same command sends them later",
            *(timeout_s, self._store.shown, self.num_pending, ENTRIES, self._outage and f" ({self._outage})"),
        )
        with ProgressLine(parts, every_s=HEARTBEAT_S) as line:
            while self._thread.is_alive() and (left := until - time.monotonic()) > 0:
                self._thread.join(min(left, 1.0))
                line.beat()

    def _enqueue(self, trial_id: str | None, note: Callable[[RunUpdate], None]) -> None:
        if self._closing:
            raise RuntimeError("the record of this search is closed")
        self._notes.put((trial_id, note))

    def _take_over_run(self, run_id: str) -> None:
        """Continues the search's run of an earlier process, and the runs of its trials."""
        self._parent.run_id = run_id
        self._writer.open(self._parent)
        for run in reversed(self._writer.find({PARENT_TAG: run_id, KIND_TAG: "trial"})):
            self._ids[run.data.tags[TRIAL_TAG]] = str(run.info.run_id)
            if run.info.status not in ("FINISHED", "FAILED", "KILLED"):
                self._open.add(run.data.tags[TRIAL_TAG])

    def _update_of(self, trial_id: str | None) -> RunUpdate:
        if trial_id is None:
            return self._parent
        if trial_id not in self._updates:
            identity = {PARENT_TAG: self.run_id, KIND_TAG: "trial", TRIAL_TAG: trial_id}
            update = RunUpdate(identity, trial_id, run_id=self._ids.pop(trial_id, None))
            update.add_tags({"mlflow.user": user_name(self._store)})
            self._updates[trial_id] = update
        return self._updates[trial_id]

    def _work(self) -> None:
        pause = backoff = self._flush_s
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            closing = self._closing
            self._take_updates()
            if closing:
                for trial_id in tuple(self._open):
                    self._update_of(trial_id).add_tags({STATE_TAG: "interrupted"})
                    self._update_of(trial_id).end_run("KILLED", now_ms())
                self._open.clear()
            started = time.monotonic()
            delivered = self._flush()
            if closing and (delivered or self._given_up):
                return
            if delivered:
                backoff = self._flush_s
                # Sending takes at most a quarter of the time, since this thread and the driver share a processor.
                pause = max(self._flush_s, 3 * (time.monotonic() - started))
            else:
                backoff = min(2 * backoff, LONGEST_PAUSE_S)
                pause = min(backoff, 2.0) if closing else backoff

    def _take_updates(self) -> None:
        while not self._notes.empty():  # no other thread takes notes
            trial_id, note = self._notes.get()
            note(self._update_of(trial_id))

    def _flush(self) -> bool:
        """Sends every update, the search's own last; returns False if the store does not answer."""
        for trial_id, update in list(self._updates.items()):
            if not self._flush_update(update):
                # This update is moved to the end, so that the others are still sent if it alone causes the error.
                self._updates[trial_id] = self._updates.pop(trial_id)
                return False
            if update.ran and self._parent.stored_status != "RUNNING":
                self._parent.reopen = True
            if update.is_open and update.ended_ms is not None:
                assert update.run_id is not None
                self._ids[trial_id] = update.run_id
                del self._updates[trial_id]
        parent = self._parent
        if parent.stored_status == "FINISHED" and not parent.reopen and parent.status != "FINISHED":
            # Nothing was trained: an earlier search is only logged again. Its run stays finished even if the logging is
            # interrupted, since DVC may have the results in its cache and never run the search again.
            parent.status = None
        if not self._flush_update(parent):
            return False
        if self._outage:
            _log.info("%s answers again; the record of the search is complete", self._store.shown)
            self._outage = ""
        return True

    def _flush_update(self, update: RunUpdate) -> bool:
        """Sends one update; returns False if the store does not answer. Parts that the store refuses are discarded."""
        if not update.num_pending:
            return True
        for step, parts in self._writer.steps:
            try:
                step(update)
            except Exception as error:  # a store or a network may raise anything, and this thread must continue
                if _is_temporary(error):
                    self._warn(error)
                    return False
                self._lost += update.discard(parts)
                if not update.has_lost:  # once per run: a deleted run would fail at every attempt
                    _log.error("part of the record of %s is lost: %s", update.name, refusal(self._store, error)[0])
                update.has_lost = True
                if not update.is_open:
                    break
        return True

    def _warn(self, error: Exception) -> None:
        """Logs a warning, once per outage."""
        before, (self._outage, advice) = self._outage, refusal(self._store, error)
        if not before:
            _log.warning(
                "the record of this search does not reach %s: %s. The search goes on; what is missing there is sent "
                "later%s",
                *(self._store.shown, self._outage, advice and f" ({advice})"),
            )


def _is_temporary(error: Exception) -> bool:
    """Returns whether a later attempt may succeed, because the store is unreachable and the call is not wrong."""
    if isinstance(error, MlflowException):
        return error.error_code not in PERMANENT_ERRORS
    return is_unreachable(error) or (isinstance(error, OSError) and not isinstance(error, FileNotFoundError))

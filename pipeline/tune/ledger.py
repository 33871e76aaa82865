"""The ledger of a search: an append-only record of every trial's life, and the truth that resuming is built on.

One JSON object a line. A trial is *started*, reports each *epoch*, writes a *checkpoint* now and then, and has *ended*
as complete (ran in full), pruned (stopped by the scheduler) or failed. Nothing else is needed to rebuild the study, the
scheduler's rungs, the queue and the tracker. A last line that a crash has torn is dropped; one writer holds a lock.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from filelock import FileLock, Timeout

from pipeline.errors import UserError

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"


@dataclass
class TrialRecord:
    """One trial's life so far.

    id: `t0007`, or the name of a control. number: its place in the study, None for a control. values: by dotted path.
    epochs: metrics by epoch, counted from 1. checkpoint: the newest one's path. state: None while it has not ended.
    seconds: time spent training.
    """

    id: str
    number: int | None
    values: dict[str, Any]
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)
    checkpoint: str | None = None
    state: str | None = None
    reason: str | None = None

    @property
    def control(self) -> bool:
        return self.number is None

    @property
    def last_epoch(self) -> int:
        return max(self.epochs, default=0)

    @property
    def seconds(self) -> float:
        return sum(metrics.get("seconds", 0.0) for metrics in self.epochs.values())

    def metric(self, name: str) -> float:
        """The value at the last reported epoch; NaN if there is none."""
        return self.epochs[self.last_epoch].get(name, float("nan")) if self.epochs else float("nan")


class SearchListener(Protocol):
    """What may follow a search. Called on the driver's loop, so it must return at once."""

    def replayed(self) -> None:
        """What was told so far is of an earlier process; called once, also when there was none."""

    def trial_started(self, trial: TrialRecord) -> None: ...
    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None: ...
    def trial_ended(self, trial: TrialRecord) -> None: ...


class Ledger:
    """A ledger opened for writing, with what it holds replayed into `trials` (by id, in the order of their start).

    reports: (trial, epoch) of every report that it held when it was opened, in the order in which they came.

    Raises:
        UserError: another process writes it, it belongs to another format, or a line in its middle is broken.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path.with_suffix(".lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{path}: another process is running this search. Wait for it, or end it, before starting again."
            ) from None
        self.trials: dict[str, TrialRecord] = {}
        try:
            events = read_ledger(path)
            for number, event in enumerate(events, start=1):
                try:
                    apply_event(self.trials, event)
                except (KeyError, TypeError, ValueError):
                    raise _broken(path, number) from None
        except UserError:
            self._lock.release()
            raise
        self.reports = [(event["trial"], int(event["epoch"])) for event in events if event["event"] == "epoch"]
        self._file = path.open("ab")
        if not events:
            self._append({"event": "search", "format": 1, **header})

    def start(self, trial: TrialRecord) -> None:
        self.trials[trial.id] = trial
        self._append({"event": "started", "trial": trial.id, "number": trial.number, "values": trial.values})

    def report(self, trial_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
        self._record({"event": "epoch", "trial": trial_id, "epoch": epoch, "metrics": dict(metrics)})

    def checkpoint(self, trial_id: str, path: str) -> None:
        self._record({"event": "checkpoint", "trial": trial_id, "path": path})

    def end(self, trial_id: str, state: str, reason: str | None = None) -> None:
        self._record({"event": "ended", "trial": trial_id, "state": state, "reason": reason})

    def _record(self, event: dict[str, Any]) -> None:
        apply_event(self.trials, event)
        self._append(event)

    def _append(self, event: dict[str, Any]) -> None:
        self._file.write(json.dumps({**event, "time": time.time()}).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """The events of a ledger, none if there is no file. A torn last line is cut off the file.

    Raises:
        UserError: a broken line that is not the last, or a ledger of another format.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    events = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            event = json.loads(line)
            known = isinstance(event, dict) and "event" in event
        except ValueError:
            known = False
        if not known:
            raise _broken(path, number)
        events.append(event)
    if events and (events[0]["event"] != "search" or events[0].get("format") != 1):
        raise UserError(f"{path}: written by another version. Move this folder away to search anew.")
    return events


def _broken(path: Path, line: int) -> UserError:
    return UserError(f"{path}: line {line} is broken. Move this folder away to search anew.")


def apply_event(trials: dict[str, TrialRecord], event: Mapping[str, Any]) -> None:
    """Bring records up to date with one event. An epoch reported again replaces what was reported first."""
    kind = event["event"]
    if kind == "started":
        trials[event["trial"]] = TrialRecord(event["trial"], event["number"], dict(event["values"]))
    elif kind == "epoch":
        trials[event["trial"]].epochs[int(event["epoch"])] = dict(event["metrics"])
    elif kind == "checkpoint":
        trials[event["trial"]].checkpoint = event["path"]
    elif kind == "ended":
        trials[event["trial"]].state, trials[event["trial"]].reason = event["state"], event.get("reason")

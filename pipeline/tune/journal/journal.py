"""The journal of a search: an append-only record of every trial's life, and the truth that resuming is built on.

One writer holds its lock. What its lines say is in `pipeline.tune.journal.records`.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock

from pipeline.errors import UserError
from pipeline.files.locks import acquire_lock

FORMAT = 2

JOURNAL = "ledger.jsonl"
"""A ledger's name in a search's folder."""
STOP_FILE = "stop"
"""A file of this name beside it asks the search to start no further trials, and to end with what it has."""
ASKED_TO_FINISH = "sar-search stop --finish"
"""Why such a search has ended."""

COMPLETE, PRUNED, FAILED, INFEASIBLE = "complete", "pruned", "failed", "infeasible"

OBJECTIVE = "val/accuracy"
"""The metric that a search maximises; with several objectives, the first of them."""
MAX_CONCURRENT_REACHED = 10
"""Completed trials from which on figures over them (importances, rank correlations) say more than chance does."""

METHOD, CONTROL_STUDY = "search", "control_study"
"""Studies: the method's own, and that of the control, if it has one."""

TRIAL, CONTROL, CONFIRMATION = "trial", "control", "confirmation"
"""Roles: proposed by a study; a setting of the space to compare with; one of these again with another seed."""


@dataclass
class TrialRecord:
    """One trial's life so far.

    id: `t0007`, the name of a control, or `t0007-seed1001`. number: its place in its study, None outside of one.
    values: by dotted path. role: see above. study: the one that proposed it (see `pipeline.tune.study.studies`), else
    None. seed: of its training, None for `base.seed`. of: the id whose setting a confirmation repeats.

    epochs: metrics by epoch, counted from 1. checkpoint: the newest one's path. state: None while it has not ended.
    busy_s: seconds for which a worker was taken by it. gpu_s: the same, times its share of a GPU. nodes: of a cluster
    that it has reported from, in this order. measured: of its network, by the metric's name, before any epoch.
    """

    id: str
    number: int | None
    values: dict[str, Any]
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)
    checkpoint: str | None = None
    state: str | None = None
    reason: str | None = None
    role: str = TRIAL
    study: str | None = None
    seed: int | None = None
    of: str | None = None
    busy_s: float = 0.0
    gpu_s: float = 0.0
    nodes: list[str] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def control(self) -> bool:
        return self.role == CONTROL

    @property
    def last_epoch(self) -> int:
        return max(self.epochs, default=0)

    @property
    def seconds(self) -> float:
        """Time spent training."""
        return sum(metrics.get("seconds", 0.0) for metrics in self.epochs.values())

    def metric(self, name: str) -> float:
        """The value at the last reported epoch, or what was measured before any; NaN if there is none."""
        last = self.epochs[self.last_epoch] if self.epochs else {}
        return last.get(name, self.measured.get(name, float("nan")))


class SearchCallback(Protocol):
    """What may follow a search. Called on the driver's loop, so it must return at once."""

    def replayed(self) -> None:
        """What was told so far is of an earlier process; called once, also when there was none."""

    def trial_started(self, trial: TrialRecord) -> None: ...
    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None: ...
    def trial_ended(self, trial: TrialRecord) -> None: ...

    def ending_early(self, reason: str, running: int, left: int) -> None:
        """No further trial is proposed. running: runs at work. left: runs that may still start, confirmations most."""


@dataclass
class SearchHistory:
    """What a ledger holds.

    header: the first line's, with what decides the search. accepted: the code and versions that its user has accepted
    last, None if never. trials: by id, in the order of their start. reports: (trial, epoch) in the order in which they
    came. seconds: for which drivers ran, of all sessions. sessions: how many there were.

    busy_s, gpu_seconds, epochs: of all trials together, an epoch that was reported again counted once.
    """

    header: dict[str, Any] = field(default_factory=dict)
    accepted: dict[str, Any] | None = None
    trials: dict[str, TrialRecord] = field(default_factory=dict)
    reports: list[tuple[str, int]] = field(default_factory=list)
    seconds: float = 0.0
    sessions: int = 0
    busy_s: float = 0.0
    gpu_seconds: float = 0.0
    epochs: int = 0
    _at: float = 0.0
    _gpus: float = 0.0
    _since: dict[str, float] = field(default_factory=dict)

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take one event in. An epoch reported again, since a kill cost its checkpoint, stays as it was reported first:
        the study, the rungs and the tracker have taken that in.

        Raises:
            KeyError, TypeError, ValueError: it is not an event of a ledger.
        """
        kind = event["event"]
        at = float(event.get("at", 0.0))
        if kind == "search":
            self.header = dict(event)
        elif kind == "accepted":
            self.accepted = {"code": event["code"], "versions": event["versions"]}
        elif kind == "session":
            self.sessions += 1
            self._gpus, self._at, self._since = float(event["gpus"]), 0.0, {}
        if kind in ("search", "accepted", "session"):
            return
        self.seconds += max(0.0, at - self._at)
        self._at = max(self._at, at)
        name = str(event["trial"])
        if kind == "started":
            known = ("role", "study", "seed", "of")
            details = {key: event[key] for key in known}
            self.trials[name] = TrialRecord(name, event["number"], dict(event["values"]), **details)
        trial = self.trials[name]
        if kind in ("started", "resumed"):
            self._since[name] = at
            return
        busy = max(0.0, at - self._since.get(name, at))
        self._since[name] = at
        trial.busy_s += busy
        trial.gpu_s += busy * self._gpus
        self.busy_s += busy
        self.gpu_seconds += busy * self._gpus
        if kind == "epoch":
            epoch = int(event["epoch"])
            self.epochs += epoch not in trial.epochs
            trial.epochs.setdefault(epoch, dict(event["metrics"]))
            self.reports.append((name, epoch))
            if (node := event.get("node")) and trial.nodes[-1:] != [node]:
                trial.nodes.append(node)
        elif kind == "checkpoint":
            trial.checkpoint = event["path"]
        elif kind == "measured":
            trial.measured = {
                **event["metrics"],
                **trial.measured,
            }  # what a restarted trial measures again is not taken
        elif kind == "ended":
            trial.state, trial.reason = event["state"], event.get("reason")
        else:
            raise ValueError(f"no event {kind!r}")


class Journal:
    """A journal opened for writing. history: what it holds, kept up to date.

    header: what decides the search, for a new journal's first line. gpus: a trial's share of a GPU in this session.

    Raises:
        UserError: another process writes it, it belongs to another format, or a line in its middle is broken.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], *, gpus: float = 0.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = lock_journal(path)
        try:
            self.history = read_history(path, repair=True)
            self._file = path.open("ab")
            self._opened = time.monotonic()
            if not self.history.header:
                self._record({"event": "search", "format": FORMAT, **header})
            self._record({"event": "session", "pid": os.getpid(), "gpus": gpus})
        except BaseException:
            self._lock.release()
            raise

    @property
    def trials(self) -> dict[str, TrialRecord]:
        return self.history.trials

    def start(self, trial: TrialRecord) -> TrialRecord:
        """A trial that this search has not had before. Returns the record that the journal keeps of it."""
        about = {"number": trial.number, "role": trial.role, "study": trial.study, "seed": trial.seed, "of": trial.of}
        self._record({"event": "started", "trial": trial.id, **about, "values": trial.values})
        return self.trials[trial.id]

    def resume(self, trial_id: str) -> None:
        """A trial of an earlier session goes on, or one of this session has got the place that it waited for."""
        self._record({"event": "resumed", "trial": trial_id})

    def report(self, trial_id: str, epoch: int, metrics: Mapping[str, float], node: str | None = None) -> None:
        where = {} if node is None else {"node": node}
        self._record({"event": "epoch", "trial": trial_id, "epoch": epoch, "metrics": dict(metrics)} | where)

    def measured(self, trial_id: str, metrics: Mapping[str, float]) -> None:
        """What is known of a trial's network before it is trained."""
        self._record({"event": "measured", "trial": trial_id, "metrics": dict(metrics)})

    def checkpoint(self, trial_id: str, path: str) -> None:
        self._record({"event": "checkpoint", "trial": trial_id, "path": path})

    def end(self, trial_id: str, state: str, reason: str | None = None) -> None:
        self._record({"event": "ended", "trial": trial_id, "state": state, "reason": reason})

    def accept(self, code: Mapping[str, str], versions: Mapping[str, str]) -> None:
        """Its user wants it to go on with this code and these versions."""
        self._record({"event": "accepted", "code": dict(code), "versions": dict(versions)})

    def _record(self, event: dict[str, Any]) -> None:
        stamped = {**event, "at": round(time.monotonic() - self._opened, 3), "time": time.time()}
        self._file.write(json.dumps(stamped).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.history.apply(stamped)

    def close(self) -> None:
        try:
            self._file.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lock_journal(path: Path) -> FileLock:
    """Become the one writer of a journal. The lock goes with the process.

    Raises:
        UserError: another process is.
    """
    held = f"{path}: another process is running this search. Wait for it, or end it, before starting again."
    return acquire_lock(path.with_suffix(".lock"), held)


def read_history(path: Path, *, repair: bool = False) -> SearchHistory:
    """What a ledger holds; nothing if there is no file. mend: cut a torn last line off the file (its writer may).

    Raises:
        UserError: a broken line that is not the last, or a ledger of another format.
    """
    history = SearchHistory()
    for number, event in _lines(path, repair=repair):
        if number == 1 and isinstance(event, dict) and event.get("event") == "search" and event.get("format") != FORMAT:
            raise UserError(
                f"{path}: written by another version of sar-search (format {event.get('format', 'unknown')}, not "
                f"{FORMAT})."
                f" Move {path.parent} away to search anew."
            )
        try:
            if (number == 1) != (event["event"] == "search"):
                raise ValueError("a ledger begins with what the search is, and says it once")
            history.apply(event)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise UserError(
                f"{path}: line {number} is broken. Mend that line if you have a copy, or move {path.parent} away to "
                "search anew."
            ) from None
    return history


def _lines(path: Path, *, repair: bool) -> Iterator[tuple[int, Any]]:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if repair and len(whole) < len(content):
        os.truncate(path, len(whole))
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            yield number, json.loads(line)
        except ValueError:
            yield number, None

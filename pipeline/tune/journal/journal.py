"""Journal of a search: the append-only record of every trial's events, from which a search is resumed.

Its one writer holds a lock. `pipeline.tune.journal.records` describes its lines.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from filelock import FileLock

from pipeline.files.locks import acquire_lock
from pipeline.tune.journal.image_scores import ImageScores, scores_path
from pipeline.tune.journal.records import FORMAT, Event, Header, TrialRecord, read_history


class Journal:
    """Journal opened for writing.

    Args:
        path: The journal's file.
        header: First line of a new journal, with the content of the fingerprint.
        gpus: GPUs of one trial in this session; may be a fraction.

    Attributes:
        history: The journal's content, updated with every event.
        scores: Scores of the validation images.

    Raises:
        UserError: another process is writing the journal, it has another format, or a line in its middle is
            broken.
    """

    def __init__(self, path: Path, header: Header, *, gpus: float = 0.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = lock_journal(path)
        try:
            self.history = read_history(path, repair=True)
            self.scores = ImageScores(scores_path(path.parent))
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
        """Records of the trials, by id."""
        return self.history.trials

    def start(self, trial: TrialRecord, beside: str | None = None) -> TrialRecord:
        """Records the start of a trial that is new to this search, and returns the journal's record of it.

        Args:
            trial: The trial.
            beside: Id of the first run of the stack in which it is trained; None if it is trained alone.
        """
        about = {"number": trial.number, "role": trial.role, "study": trial.study, "seed": trial.seed, "of": trial.of}
        self._record({"event": "started", "trial": trial.id, **about, "values": trial.values} | _stack(beside))
        return self.trials[trial.id]

    def pause(self, trial_id: str) -> None:
        """Records that a trial waits at a rung and has no worker."""
        self._record({"event": "paused", "trial": trial_id})

    def drop(self, trial_id: str) -> None:
        """Records that the checkpoint of a paused trial is removed."""
        self._record({"event": "dropped", "trial": trial_id})

    def resume(self, trial_id: str, beside: str | None = None) -> None:
        """Records that a trial goes on after a pause, in a later session, or when it starts on the place that
        it waited for.

        Args:
            trial_id: The trial's id.
            beside: As for `start`.
        """
        self._record({"event": "resumed", "trial": trial_id} | _stack(beside))

    def give_back(self, trial_id: str) -> None:
        """Records that the worker of a stack has given back a trial, and with it the others of the stack."""
        self._record({"event": "returned", "trial": trial_id})

    def report(
        self,
        trial_id: str,
        epoch: int,
        metrics: Mapping[str, float],
        node: str | None = None,
        scores: str | None = None,
        usage: Mapping[str, float] | None = None,
    ) -> None:
        """Records a finished epoch.

        Args:
            trial_id: The trial's id.
            epoch: Number of the epoch, counted from 1.
            metrics: The epoch's metrics by name.
            node: The cluster's node that trained it; None on this machine.
            scores: Packed scores of the validation images (`pack_scores`); None if not available.
            usage: Usage of the machine by name; None if it was not measured.
        """
        if scores is not None:
            self.scores.add(trial_id, epoch, scores)
        more: dict[str, object] = {} if node is None else {"node": node}
        more |= {"usage": dict(usage)} if usage else {}
        self._record({"event": "epoch", "trial": trial_id, "epoch": epoch, "metrics": dict(metrics)} | more)

    def measured(self, trial_id: str, metrics: Mapping[str, float]) -> None:
        """Records metrics of a trial's network that were measured before training."""
        self._record({"event": "measured", "trial": trial_id, "metrics": dict(metrics)})

    def checkpoint(self, trial_id: str, path: str) -> None:
        """Records the newest checkpoint of a trial."""
        self._record({"event": "checkpoint", "trial": trial_id, "path": path})

    def end(self, trial_id: str, state: str, reason: str | None = None) -> None:
        """Records the end of a trial.

        Args:
            trial_id: The trial's id.
            state: Its final state (see `pipeline.tune.journal.records`).
            reason: Why it ended in this state, in words; None if there is nothing to say.
        """
        self._record({"event": "ended", "trial": trial_id, "state": state, "reason": reason})

    def accept(self, code: Mapping[str, str], versions: Mapping[str, str]) -> None:
        """Records that the user accepts this code and these versions for the rest of the search."""
        self._record({"event": "accepted", "code": dict(code), "versions": dict(versions)})

    def _record(self, event: Event) -> None:
        stamped = {**event, "at": round(time.monotonic() - self._opened, 3), "time": time.time()}
        self._file.write(json.dumps(stamped).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.history.apply(stamped)

    def close(self) -> None:
        """Closes the file and releases the lock."""
        try:
            self._file.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _stack(beside: str | None) -> dict[str, str]:
    return {} if beside is None else {"with": beside}


def lock_journal(path: Path) -> FileLock:
    """Returns the lock of a journal's one writer. The lock is released when the process ends.

    Args:
        path: The journal's file.

    Raises:
        UserError: another process has the lock.
    """
    held = f"{path}: another process is running this search. Wait for it, or end it, before starting again."
    return acquire_lock(path.with_suffix(".lock"), held)

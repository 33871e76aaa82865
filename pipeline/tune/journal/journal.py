"""The journal of a search: an append-only record of every trial's life, and the truth that resuming is built on.

One writer holds its lock. What its lines say is in `pipeline.tune.journal.records`.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock

from pipeline.files.locks import acquire_lock
from pipeline.tune.journal.image_scores import ImageScores, scores_path
from pipeline.tune.journal.records import FORMAT, Event, Header, TrialRecord, read_history


class Journal:
    """A journal opened for writing. history: what it holds, kept up to date. scores: what each validation image
    counts for.

    header: what decides the search, for a new journal's first line. gpus: a trial's share of a GPU in this session.

    Raises:
        UserError: another process writes it, it belongs to another format, or a line in its middle is broken.
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
        return self.history.trials

    def start(self, trial: TrialRecord) -> TrialRecord:
        """A trial that this search has not had before. Returns the record that the journal keeps of it."""
        about = {"number": trial.number, "role": trial.role, "study": trial.study, "seed": trial.seed, "of": trial.of}
        self._record({"event": "started", "trial": trial.id, **about, "values": trial.values})
        return self.trials[trial.id]

    def pause(self, trial_id: str) -> None:
        """A trial waits at a rung, and takes no worker."""
        self._record({"event": "paused", "trial": trial_id})

    def drop(self, trial_id: str) -> None:
        """The checkpoint of a paused trial is removed."""
        self._record({"event": "dropped", "trial": trial_id})

    def resume(self, trial_id: str) -> None:
        """A trial goes on that was paused, or that an earlier session had begun, or has got the place that it waited
        for.
        """
        self._record({"event": "resumed", "trial": trial_id})

    def report(
        self,
        trial_id: str,
        epoch: int,
        metrics: Mapping[str, float],
        node: str | None = None,
        scores: str | None = None,
        usage: Mapping[str, float] | None = None,
    ) -> None:
        """A finished epoch. scores: of the validation images, as `pack_scores` gives them, if they are known. usage: of
        the machine, if it was measured.
        """
        if scores is not None:
            self.scores.add(trial_id, epoch, scores)
        more: dict[str, object] = {} if node is None else {"node": node}
        more |= {"usage": dict(usage)} if usage else {}
        self._record({"event": "epoch", "trial": trial_id, "epoch": epoch, "metrics": dict(metrics)} | more)

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

    def _record(self, event: Event) -> None:
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

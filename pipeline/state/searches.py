"""Searches stored under `state/searches/`: what their journals hold, and which process runs one.

Nothing here writes or waits, and nothing imports Ray or torch: questions about searches are answered at once, also
while they run.
"""

import fcntl
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pipeline.config import Content, Params
from pipeline.errors import UserError, format_value
from pipeline.provenance.fingerprint import fingerprint
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords, accuracy_words
from pipeline.state.earlier_searches import is_of_earlier_version
from pipeline.tune.journal.compatibility import SUPERSEDED
from pipeline.tune.journal.records import (
    JOURNAL,
    METHOD,
    STOP_FILE,
    SearchHistory,
    TrialRecord,
    read_history,
)
from pipeline.tune.objectives.objectives import AUTO, NO_METRIC, Objectives, is_valid_result, objectives_from_content

ID_LENGTH = 8


class Runner(NamedTuple):
    """Who runs a search. pid: None for a process that cannot be seen from here."""

    pid: int | None


@dataclass(frozen=True)
class SearchState:
    """A search on disk.

    last_seen: when its last line was written. pid: of the last process that opened its journal, None if it never said.
    running_trials: ids of the trials that this process has started, or gone on with.
    """

    folder: Path
    history: SearchHistory
    last_seen: float
    pid: int | None
    running_trials: frozenset[str]

    @property
    def id(self) -> str:
        return self.folder.name[:ID_LENGTH]

    @property
    def journal(self) -> Path:
        return self.folder / JOURNAL

    @property
    def lock(self) -> Path:
        return self.journal.with_suffix(".lock")

    @property
    def stop_file(self) -> Path:
        return self.folder / STOP_FILE

    @property
    def superseded(self) -> bool:
        return (self.folder / SUPERSEDED).exists()

    @property
    def objectives(self) -> Objectives:
        found = objectives_from_content(self.history.header.get("content", {}))
        # A loss is no part of what decides the search, and decides among equals all the same.
        then = found.then or self.history.header.get("then")
        return found if then in (None, NO_METRIC, AUTO) else replace(found, then=str(then))

    def words(self, params: Params | None) -> MetricWords:
        """Its first objective in words: accuracy by the margin of these parameters, others as at its start."""
        stored = self.history.header.get("metric")
        if stored is None:
            return accuracy_words(params) if params else ACCURACY_WORDS
        return MetricWords(**stored)

    @property
    def trials(self) -> Sequence[TrialRecord]:
        return list(self.history.trials.values())

    @property
    def open_trials(self) -> list[TrialRecord]:
        """Those that have not ended."""
        return [trial for trial in self.trials if trial.state is None]

    @property
    def paused_trials(self) -> list[TrialRecord]:
        """Those that wait at a rung, and take no worker."""
        return [trial for trial in self.trials if trial.paused]

    @property
    def best(self) -> TrialRecord | None:
        """The completed trial of the method's study that is the best by the first objective so far, and keeps the
        constraints."""
        objectives = self.objectives
        ran = [trial for trial in self.trials if trial.study == METHOD and is_valid_result(trial, objectives)]
        return max(ran, key=objectives.gain, default=None)

    def runner(self) -> Runner | None:
        """The process that runs it now; None if there is none."""
        if self.pid is not None and process_has_open(self.pid, self.lock):
            return Runner(self.pid)
        return Runner(None) if is_held(self.lock) else None


class FoundSearches(NamedTuple):
    """searches: the newest first. unreadable: what is wrong with the journals that cannot be read."""

    searches: list[SearchState]
    unreadable: list[str]


def find_searches(folder: Path) -> FoundSearches:
    """Every search that lies under `folder`. One that is being removed or has not begun is left out."""
    found, unreadable = [], []
    for journal in folder.glob(f"*/{JOURNAL}"):
        try:
            search = read_search(journal.parent)
        except UserError as error:
            unreadable.append(str(error))
            continue
        if search.history.header:
            found.append(search)
    return FoundSearches(sorted(found, key=lambda search: -search.last_seen), sorted(unreadable))


def read_search(folder: Path) -> SearchState:
    """A search as it is now.

    Raises:
        UserError: its journal cannot be read.
    """
    journal = folder / JOURNAL
    try:
        history = read_history(journal)
        heard, pid, at_work = _last_session(journal.read_bytes()) if history.header else (0.0, None, frozenset[str]())
    except OSError as error:
        if not journal.exists():  # it has just been removed
            return SearchState(folder, SearchHistory(), 0.0, None, frozenset())
        raise UserError(f"{journal}: cannot be read ({error.strerror}).") from None
    return SearchState(folder, history, heard, pid, at_work)


def _last_session(content: bytes) -> tuple[float, int | None, frozenset[str]]:
    """Of a journal that has been read: its last line's time, and the last session's process and trials."""
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    sessions = [index for index, line in enumerate(lines) if b'"event": "session"' in line]
    at_work = set()
    for line in lines[sessions[-1] :] if sessions else []:
        if b'"event": "started"' in line or b'"event": "resumed"' in line:
            at_work.add(str(json.loads(line)["trial"]))
    pid = json.loads(lines[sessions[-1]]).get("pid") if sessions else None
    return float(json.loads(lines[-1]).get("time", 0.0)), pid, frozenset(at_work)


def choose_search(searches: Sequence[SearchState], prefix: str) -> SearchState:
    """The search whose id begins like this.

    Raises:
        UserError: none does, or several do.
    """
    matching = [search for search in searches if search.folder.name.startswith(prefix.lower())]
    if len(matching) == 1:
        return matching[0]
    there = ", ".join(search.id for search in matching or searches) or "none yet"
    if matching:
        raise UserError(f"search {format_value(prefix)}: several begin so: {there}. Give more of its digits.")
    raise UserError(f"search {format_value(prefix)}: none begins so; there are {there}. See `sar-search status`.")


def search_directory(searches: Path, content: Content) -> tuple[str, Path]:
    """Fingerprint and folder of the search of this content.

    It is the first that its user has not wanted to begin anew and that no earlier version began.
    """
    for generation in itertools.count():
        name = fingerprint(content, generation)
        folder = searches / name[:16]
        if not (folder / SUPERSEDED).exists() and not is_of_earlier_version(folder):
            break
    return name, folder


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock file, wherever it runs.

    The only way to know is to try. It is a shared lock, for microseconds: those who ask do not see each other.
    """
    try:
        file = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def process_has_open(pid: int, file: Path) -> bool:
    """Whether a process of this machine has a file open. Who has not got a lock does not keep its file open."""
    try:
        there = file.stat()
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if os.path.samestat(entry.stat(), there):
                    return True
            except OSError:
                continue  # closed since it was listed
    except OSError:
        pass  # no such process, or another user's
    return False

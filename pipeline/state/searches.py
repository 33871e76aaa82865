"""Searches stored under `state/searches/`: the content of their journals, and the process that runs one.

This module neither writes nor waits, and imports neither Ray nor torch. Questions about searches are therefore answered
at once, also while they run.
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
from pipeline.workspace import Workspace

ID_LENGTH = 8


class Runner(NamedTuple):
    """Process that runs a search.

    Attributes:
        pid: Process id; None if the process cannot be seen from here, as on another machine.
    """

    pid: int | None


@dataclass(frozen=True)
class SearchState:
    """A search on disk.

    Attributes:
        folder: Folder of the search.
        history: Content of its journal.
        last_seen: Time of the journal's last line, in seconds since the epoch.
        pid: Id of the last process that opened the journal; None if the journal does not contain it.
        running_trials: Ids of the trials that this process has started or resumed.
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
        # A loss is not part of the content that the fingerprint covers, but still decides among equal trials.
        then = found.then or self.history.header.get("then")
        return found if then in (None, NO_METRIC, AUTO) else replace(found, then=str(then))

    def words(self, params: Params | None) -> MetricWords:
        """Returns the first objective in words.

        Accuracy is worded with the margin of these parameters, other metrics as when the search began.
        """
        stored = self.history.header.get("metric")
        if stored is None:
            return accuracy_words(params) if params else ACCURACY_WORDS
        return MetricWords(**stored)

    @property
    def trials(self) -> Sequence[TrialRecord]:
        return list(self.history.trials.values())

    @property
    def open_trials(self) -> list[TrialRecord]:
        """Trials that have not ended."""
        return [trial for trial in self.trials if trial.state is None]

    @property
    def paused_trials(self) -> list[TrialRecord]:
        """Trials that wait at a rung and occupy no worker."""
        return [trial for trial in self.trials if trial.paused]

    @property
    def best(self) -> TrialRecord | None:
        """The best completed trial of the method's study so far, by the first objective, that meets the constraints."""
        objectives = self.objectives
        ran = [trial for trial in self.trials if trial.study == METHOD and is_valid_result(trial, objectives)]
        return max(ran, key=objectives.gain, default=None)

    def runner(self) -> Runner | None:
        """Returns the process that runs the search now; None if there is none."""
        if self.pid is not None and process_has_open(self.pid, self.lock):
            return Runner(self.pid)
        return Runner(None) if is_held(self.lock) else None


class FoundSearches(NamedTuple):
    """Searches on disk.

    Attributes:
        searches: Searches, the newest first.
        unreadable: An error message for each journal that cannot be read.
    """

    searches: list[SearchState]
    unreadable: list[str]


def find_searches(folder: Path) -> FoundSearches:
    """Returns every search under a folder. Searches that are being removed or have not begun are left out.

    Args:
        folder: Folder that contains all searches.
    """
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


def describe_running(workspace: Workspace) -> str:
    """Returns what of the pipeline runs in a checkout now, in words; empty if nothing does.

    Args:
        workspace: the checkout.
    """
    running = next((each.id for each in find_searches(workspace.searches).searches if each.runner() is not None), None)
    if running is not None:
        return f"search {running} is running; see `sar-search status {running}`"
    if any(is_held(workspace.lock_file(name)) for name in ("repro", "stage")):
        return "the pipeline is running in this checkout; wait until it has ended"
    return ""


def read_search(folder: Path) -> SearchState:
    """Returns the current state of a search.

    Args:
        folder: Folder of the search.

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
    """Returns the time of a journal's last line, and the last session's process id and the trials that it has run."""
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    sessions = [index for index, line in enumerate(lines) if b'"event": "session"' in line]
    at_work = set()
    for line in lines[sessions[-1] :] if sessions else []:
        if b'"event": "started"' in line or b'"event": "resumed"' in line:
            at_work.add(str(json.loads(line)["trial"]))
    pid = json.loads(lines[sessions[-1]]).get("pid") if sessions else None
    return float(json.loads(lines[-1]).get("time", 0.0)), pid, frozenset(at_work)


def choose_search(searches: Sequence[SearchState], prefix: str) -> SearchState:
    """Returns the search whose id begins with a prefix.

    Args:
        searches: Searches to choose from.
        prefix: First digits of the id.

    Raises:
        UserError: no search matches, or several do.
    """
    matching = [search for search in searches if search.folder.name.startswith(prefix.lower())]
    if len(matching) == 1:
        return matching[0]
    there = ", ".join(search.id for search in matching or searches) or "none yet"
    where = f"search {format_value(prefix)}"
    if matching:
        raise UserError(f"{where}: several ids begin with this: {there}. Give more of its digits.")
    raise UserError(f"{where}: no id begins with this; there are {there}. See `sar-search status`.")


def search_directory(searches: Path, content: Content) -> tuple[str, Path]:
    """Returns the fingerprint and the folder of the search with this content.

    Skips folders that are marked as superseded, and folders of searches that an earlier version began.

    Args:
        searches: Folder that contains all searches.
        content: Content from which the fingerprint is computed.
    """
    for generation in itertools.count():
        name = fingerprint(content, generation)
        folder = searches / name[:16]
        if not (folder / SUPERSEDED).exists() and not is_of_earlier_version(folder):
            break
    return name, folder


def is_held(lock: Path) -> bool:
    """Returns whether any process, on any machine, holds a lock on a file.

    The lock can only be tested by trying to take it. It is taken in shared mode and for microseconds, so that several
    processes may test it at once.

    Args:
        lock: The lock file.
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
    """Returns whether a process of this machine has a file open.

    A process that fails to get a lock closes the lock's file, so a process with the file open holds the lock.

    Args:
        pid: Process id.
        file: File to look for.
    """
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

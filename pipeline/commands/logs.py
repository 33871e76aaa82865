"""`sar-search logs`: configuration, state and epochs of a trial, also as they come.

Everything comes from the journal, including the reason of a failure. The output of workers is not shown: Ray
writes it below its own temporary folder, by worker and not by trial.
"""

import difflib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.stage_results import RUN_FILE
from pipeline.cluster.storage import StorageError, exists
from pipeline.compute.usage_summary import describe_usage, summarise_usage
from pipeline.config import load_params
from pipeline.console.format import STATE_WORDS
from pipeline.errors import UserError, format_value
from pipeline.state.current_search import current_search
from pipeline.state.searches import SearchState, choose_search, find_searches, read_search
from pipeline.state.status_words import trial_state
from pipeline.tune.journal.records import COMPLETE, Event, TrialRecord
from pipeline.tune.objectives.objectives import format_metric
from pipeline.workspace import Workspace

METRICS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
"""Metrics that every epoch's row shows."""
POLL_S = 0.5
"""Seconds between two readings of the journal."""
WIDTH = 14
"""Width of the column of names above the epochs."""


def describe_trial(
    workspace: Workspace,
    name: str,
    *,
    search: str | None = None,
    follow: bool = False,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """Yields a trial in lines: its configuration, its state and a row for each epoch.

    Args:
        workspace: the checkout.
        name: id of the trial.
        search: beginning of the search's id; None for the search that runs, or that params.yaml asks for.
        follow: whether to yield further epochs as they come, until the trial or the process that runs it has
            ended.
        wait: sleeps for a number of seconds.

    Raises:
        UserError: there is no such search or trial.
    """
    chosen = _chosen(workspace, search)
    trial = _trial(chosen, name)
    yield from _head(chosen, trial)
    yield ""
    columns = _columns(chosen)
    yield _aligned(columns, columns)
    if follow:
        yield from _follow(chosen, trial, wait)
    else:
        yield from (_row(epoch, metrics, columns) for epoch, metrics in sorted(trial.epochs.items()))


def _chosen(workspace: Workspace, prefix: str | None) -> SearchState:
    """Returns the search whose id begins with a prefix.

    Without a prefix, it is the running search, or else the one that params.yaml asks for, or else the newest.
    """
    searches = find_searches(workspace.searches).searches
    if prefix is not None:
        return choose_search(searches, prefix)
    if not searches:
        raise UserError(f"no searches yet in {workspace.searches}; `make repro` begins one.")
    running = [each for each in searches if each.runner() is not None]
    if running or len(searches) == 1:
        return (running or searches)[0]
    try:
        current = current_search(workspace, load_params(workspace.params))
    except UserError:
        current = None
    asked_for = [each for each in searches if current and each.folder in current.searches]
    return (asked_for or searches)[0]


def _trial(search: SearchState, name: str) -> TrialRecord:
    """Returns a trial by its id. Raises a UserError with similar ids if there is none."""
    trials = search.history.trials
    if name in trials:
        return trials[name]
    near = difflib.get_close_matches(name, trials, n=3, cutoff=0.4)
    meant = f"did you mean {', '.join(near)}?" if near else f"`sar-search status {search.id}` lists them."
    raise UserError(f"search {search.id} has no trial {format_value(name)}; {meant} Another search: --search ID.")


def _head(search: SearchState, trial: TrialRecord) -> Iterator[str]:
    """Yields the lines above the epochs."""
    header = search.history.header
    what = f" of {trial.of}" if trial.of else ""
    yield f"{'trial':<{WIDTH}}{trial.id}, {trial.role}{what}, of search {search.id} ({header.get('set', '?')})"
    names: list[tuple[str, Any]] = list(trial.values.items()) or [("params.yaml's", "")]
    for index, (path, value) in enumerate(names):
        yield f"{'' if index else 'configuration':<{WIDTH}}{path} {value}".rstrip()
    seed = header.get("content", {}).get("seed", "?") if trial.seed is None else trial.seed
    yield f"{'seed':<{WIDTH}}{seed}"
    yield f"{'state':<{WIDTH}}{_state(search, trial)}"
    for index, line in enumerate((trial.reason or "").splitlines()):
        yield f"{'' if index else 'reason':<{WIDTH}}{line}"
    for index, (metric, value) in enumerate(trial.measured.items()):
        yield f"{'' if index else 'measured':<{WIDTH}}{metric} {format_metric(metric, value)}"
    yield f"{'time':<{WIDTH}}{trial.seconds:.1f} s of training, {trial.busy_s:.1f} s of a worker"
    if used := describe_usage(summarise_usage(trial.timed_usage)):
        yield f"{'used':<{WIDTH}}{used}"
    yield f"{'checkpoint':<{WIDTH}}{_checkpoint(trial)}"
    if (search.folder / RUN_FILE).exists():
        parent = (search.folder / RUN_FILE).read_text().strip()
        yield f"{'MLflow':<{WIDTH}}a run named {trial.id} ..., under its search's run {parent}"


def _state(search: SearchState, trial: TrialRecord) -> str:
    state = trial_state(search, trial, search.runner())
    if trial.state == COMPLETE:
        return f"ran in full, {trial.last_epoch} epochs"
    return f"{state} after epoch {trial.last_epoch}" if trial.epochs else f"{state}, no epoch yet"


def _checkpoint(trial: TrialRecord) -> str:
    if trial.checkpoint is None:
        return "none"
    try:
        there = exists(trial.checkpoint)
    except StorageError as error:
        return str(error)
    return trial.checkpoint if there else "removed since; only the best trials keep theirs"


def _columns(search: SearchState) -> list[str]:
    """Returns the columns of an epoch's row, with the metrics of the search's objectives."""
    return ["epoch", *METRICS, *search.objectives.class_metrics, "seconds"]


def _row(epoch: int, metrics: Mapping[str, float], columns: Sequence[str]) -> str:
    """Returns the row of an epoch.

    Args:
        epoch: number of the epoch, from 1.
        metrics: its metrics by name.
        columns: the columns, of which the first is the epoch.
    """
    return _aligned([str(epoch), *(_figure(name, metrics.get(name)) for name in columns[1:])], columns)


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if name == "seconds" else f"{value:.4f}"


def _aligned(row: Sequence[str], columns: Sequence[str]) -> str:
    """Returns a row in one line. Its columns are as wide as the headings, since later rows are not yet there."""
    return "  ".join(text.rjust(max(7, len(name))) for text, name in zip(row, columns, strict=True))


def _follow(search: SearchState, trial: TrialRecord, wait: Callable[[float], None]) -> Iterator[str]:
    """Yields a row for each epoch, past and future, and finally the reason why there are no more.

    Args:
        search: the search.
        trial: the trial.
        wait: sleeps for a number of seconds.
    """
    last, columns = 0, _columns(search)
    tail = _Tail(search.journal, trial.id)
    while True:
        runs = search.runner() is not None  # before reading, so that its last events are not missed
        for event in tail.read():
            if event["event"] == "epoch":
                last = event["epoch"]
                yield _row(last, event["metrics"], columns)
            elif event["event"] == "ended":
                yield f"{trial.id} has ended: {STATE_WORDS[event['state']]}"
                yield from (event.get("reason") or "").splitlines()
                return
        if not runs:
            # Another process may have resumed the search since it was read.
            search = read_search(search.folder)
            if search.runner() is None:
                yield f"no process runs search {search.id} now; the next run resumes {trial.id} from its checkpoint"
                return
        wait(POLL_S)


class _Tail:
    """Reader of a trial's events in a growing journal.

    Each event is returned once. A line without its end is left to the next reading.

    Args:
        path: the journal.
        trial: id of the trial.
    """

    def __init__(self, path: Path, trial: str) -> None:
        self._path, self._trial = path, trial
        self._offset = 0

    def read(self) -> Iterator[Event]:
        """Yields the events since the last call; none if the file is gone."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            event = json.loads(line)
            if event.get("trial") == self._trial:
                yield event

"""What the journal of a search says: the records of its trials, and how they are read.

One JSON object a line. A driver opens a *session*. A trial is *started*, reports each *epoch*, writes a *checkpoint*
now and then, is *paused* at a rung, where its checkpoint may be *dropped*, is *resumed* from a pause or in later
sessions, and has *ended* as complete (ran in full), pruned (stopped by the scheduler, or still paused at the end),
failed, or infeasible (not trained, since it breaks a constraint). What is *measured* of its network beside its epochs
(parameters, latency) comes before the first of them. Nothing else is needed to rebuild the study, the
scheduler's rungs, the queue, the tracker and the account of what was spent. A last line that a crash has torn is
dropped.

Every line has `time`, the clock's, to be read by people, and `at`, seconds since its session began by a clock that
never jumps, of which the account is made.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypedDict, cast

from pipeline.config import Content, Values
from pipeline.errors import UserError

FORMAT = 2

JOURNAL = "journal.jsonl"
"""A journal's name in a search's folder."""
STOP_FILE = "stop"
"""A file of this name beside it asks the search to start no further trials, and to end with what it has."""
ASKED_TO_FINISH = "sar-search stop --finish"
"""Why such a search has ended."""

COMPLETE, PRUNED, FAILED, INFEASIBLE = "complete", "pruned", "failed", "infeasible"

VAL_ACCURACY = "val/accuracy"
"""What a search is for unless `search.objectives` says otherwise; every trial has it."""
MIN_COMPLETED = 10
"""Completed trials from which on figures over them (importances, rank correlations) say more than chance does."""

METHOD, CONTROL_STUDY = "search", "control_study"
"""Studies: the method's own, and that of the control, if it has one."""

TRIAL, CONTROL, CONFIRMATION = "trial", "control", "confirmation"
"""Roles: proposed by a study; a configuration of the space to compare with; one of these again with another seed."""


@dataclass
class TrialRecord:
    """One trial's life so far.

    id: `t0007`, the name of a control, or `t0007-seed1001`. number: its place in its study, None outside of one.
    values: by dotted path. role: see above. study: the one that proposed it (see `pipeline.tune.study.studies`), else
    None. seed: of its training, None for `base.seed`. of: the id whose configuration a confirmation repeats.

    epochs: metrics by epoch, counted from 1. usage: of the machine, by epoch, of those in which it was measured.
    checkpoint: the newest one's path. state: None while it has not ended.
    busy_s: seconds for which a worker was taken by it. gpu_s: the same, times its share of a GPU. nodes: of a cluster
    that it has reported from, in this order. measured: of its network, by the metric's name, before any epoch.

    paused: at a rung, and not resumed since. dropped: its checkpoint, so that it would begin again. repeated: epochs
    that are trained again because of that.
    """

    id: str
    number: int | None
    values: Values
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
    paused: bool = False
    dropped: bool = False
    repeated: int = 0
    usage: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def control(self) -> bool:
        return self.role == CONTROL

    @property
    def last_epoch(self) -> int:
        return max(self.epochs, default=0)

    @property
    def trained_epochs(self) -> int:
        """Epochs that were trained, those that were trained again included."""
        return self.last_epoch + self.repeated

    @property
    def seconds(self) -> float:
        """Time spent training."""
        return sum(metrics.get("seconds", 0.0) for metrics in self.epochs.values())

    @property
    def timed_usage(self) -> list[tuple[float, dict[str, float]]]:
        """Seconds of each epoch that was measured, and what it used of the machine."""
        return [(self.epochs[epoch].get("seconds", 0.0), usage) for epoch, usage in sorted(self.usage.items())]

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
    def trial_paused(self, trial: TrialRecord) -> None: ...
    def trial_ended(self, trial: TrialRecord) -> None: ...

    def ending_early(self, reason: str, running: int, left: int) -> None:
        """No further trial is proposed. running: runs at work. left: runs that may still start, confirmations most."""


class Accepted(TypedDict):
    """Code and versions, by file and by package, that a search's user has accepted."""

    code: Mapping[str, str]
    versions: Mapping[str, str]


class Header(TypedDict, total=False):
    """What a journal begins with. content: what decides the search. set, part, space_file, then, metric: of what it is,
    for who reads it. code, versions: that began it. weights: what each specification was resolved to
    (`pipeline.models.model_config.RecordedWeights`). known: of `search.warm_start`.
    """

    fingerprint: str
    set: str
    part: str
    space_file: str
    content: Content
    then: str
    metric: Any
    code: Mapping[str, str]
    versions: Mapping[str, str]
    weights: Mapping[str, Any]
    known: Sequence[Any]


Event = Mapping[str, Any]
"""A line of a journal: `event` says of which kind, and `apply` what each kind has."""


@dataclass
class SearchHistory:
    """What a journal holds.

    header: the first line's, with what decides the search. accepted: the code and versions that its user has accepted
    last, None if never. trials: by id, in the order of their start. reports: (trial, epoch) in the order in which they
    came; among them (trial, -epoch) where a trial went on that was paused after that epoch. seconds: for which drivers
    ran, of all sessions. sessions: how many there were.

    busy_s, gpu_seconds, epochs: of all trials together, an epoch that was reported again counted once.
    """

    header: Header = field(default_factory=Header)
    accepted: Accepted | None = None
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

    def apply(self, event: Event) -> None:
        """Take one event in. An epoch reported again, since a kill cost its checkpoint, stays as it was reported first:
        the study, the rungs and the tracker have taken that in.

        Raises:
            KeyError, TypeError, ValueError: it is not an event of a journal.
        """
        kind = event["event"]
        at = float(event.get("at", 0.0))
        if kind == "search":
            self.header = cast("Header", dict(event))
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
        if kind == "resumed" and (trial.paused or trial.state == PRUNED):
            self.reports.append((name, -trial.last_epoch))
            trial.repeated += trial.last_epoch if trial.dropped else 0
            trial.paused, trial.dropped, trial.state, trial.reason = False, False, None, None
        if kind in ("started", "resumed"):
            self._since[name] = at
            return
        if kind == "dropped":
            trial.dropped = True
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
            if epoch not in trial.epochs and (usage := event.get("usage")):
                trial.usage[epoch] = dict(usage)
            trial.epochs.setdefault(epoch, dict(event["metrics"]))
            self.reports.append((name, epoch))
            if (node := event.get("node")) and trial.nodes[-1:] != [node]:
                trial.nodes.append(node)
        elif kind == "checkpoint":
            trial.checkpoint, trial.dropped = event["path"], False
        elif kind == "measured":
            trial.measured = {
                **event["metrics"],
                **trial.measured,
            }  # what a restarted trial measures again is not taken
        elif kind == "paused":
            trial.paused = True
            del self._since[name]
        elif kind == "ended":
            trial.state, trial.reason, trial.paused = event["state"], event.get("reason"), False
            del self._since[name]
        else:
            raise ValueError(f"no event {kind!r}")


def read_history(path: Path, *, repair: bool = False) -> SearchHistory:
    """What a journal holds; nothing if there is no file. repair: cut a torn last line off the file (its writer may).

    Raises:
        UserError: a broken line that is not the last, or a journal of another format.
    """
    history = SearchHistory()
    for number, event in _lines(path, repair=repair):
        if number == 1 and isinstance(event, dict) and event.get("event") == "search" and event.get("format") != FORMAT:
            raise UserError(
                f"{path}: written by another version of sar-search (format {event.get('format', 'unknown')}, not "
                f"{FORMAT}). Move {path.parent} away to search anew."
            )
        try:
            if (number == 1) != (event["event"] == "search"):
                raise ValueError("a journal begins with what the search is, and says it once")
            history.apply(event)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise UserError(
                f"{path}: line {number} is broken. Mend that line if you have a copy, or move {path.parent} away to "
                "search anew."
            ) from None
    return history


def whole_lines(path: Path, *, repair: bool) -> list[bytes]:
    """The lines of a file that is appended to, without a last one that a crash has torn; none if there is no file.

    repair: cut that one off the file (its writer may).
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if repair and len(whole) < len(content):
        os.truncate(path, len(whole))
    return whole.splitlines()


def _lines(path: Path, *, repair: bool) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(whole_lines(path, repair=repair), start=1):
        try:
            yield number, json.loads(line)
        except ValueError:
            yield number, None

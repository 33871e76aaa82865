"""Records of a search's journal: records of its trials, and how they are read.

The journal has one JSON object a line. A driver opens a *session*. A trial is *started*, reports each *epoch*,
and writes a *checkpoint* now and then. It may be *paused* at a rung, where its checkpoint may be *dropped*, and
is *resumed* after a pause or in a later session. It has *ended* as complete (ran in full), pruned (stopped by
the scheduler, or still paused at the end), failed, or infeasible (not trained, since it breaks a constraint).
Metrics of its network, such as parameters and latency, are *measured* before the first epoch. The study, the
scheduler's rungs, the queue, the MLflow runs and the time spent can be rebuilt from these lines alone. A last
line torn by a crash is dropped.

Confirmations that a worker trains together, as a stack, are started or resumed *with* the first of them. If the worker
gives them back, the first is *returned*, and all share the time until then.

Every line has `time`, the clock's time, for readers. It also has `at`, seconds since its session began by a
monotonic clock, from which the time spent is computed.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypedDict, cast

from pipeline.config import Content, Values
from pipeline.errors import UserError

FORMAT = 2
"""Version of the journal's format."""

JOURNAL = "journal.jsonl"
"""Name of the journal in a search's state directory."""
STOP_FILE = "stop"
"""Name of a file beside it that asks the search to start no further trials and end with its current results."""
ASKED_TO_FINISH = "sar-search stop --finish"
"""Reason given for the end of such a search."""

COMPLETE, PRUNED, FAILED, INFEASIBLE = "complete", "pruned", "failed", "infeasible"
"""Final states of a trial."""

VAL_ACCURACY = "val/accuracy"
"""Objective of a search unless `search.objectives` names others; every trial has it."""
MIN_COMPLETED = 10
"""Number of completed trials from which on statistics over them (importances, rank correlations) are more than chance.
"""

METHOD, CONTROL_STUDY = "search", "control_study"
"""Names of the studies: the method's own, and that of the control, if it has one."""

TRIAL, CONTROL, CONFIRMATION = "trial", "control", "confirmation"
"""Roles: proposed by a study; a configuration of the space to compare with; one of these repeated with another seed."""


@dataclass
class TrialRecord:
    """Record of one trial so far.

    Attributes:
        id: `t0007`, the name of a control, or `t0007-seed1001`.
        number: Number in its study; None outside of a study.
        values: Parameter values by dotted path.
        epochs: Metrics by epoch, counted from 1.
        checkpoint: Path of the newest checkpoint; None without one.
        state: Final state; None while the trial has not ended.
        reason: Why it ended in this state, in words; None if there is nothing to say.
        role: `TRIAL`, `CONTROL` or `CONFIRMATION`.
        study: Name of the study that proposed it (see `pipeline.tune.study.studies`); None outside of a study.
        seed: Seed of its training; None for `base.seed`.
        of: Id of the trial whose configuration a confirmation repeats; None for other roles.
        busy_s: Seconds in which it occupied a worker; its share of them while a stack did.
        gpu_s: The same seconds, times its share of a GPU.
        nodes: Nodes of the cluster that it has reported from, in order.
        measured: Metrics of its network by name, measured before the first epoch.
        paused: Whether it is paused at a rung.
        dropped: Whether its checkpoint was removed, so that it would begin again.
        repeated: Epochs that are trained again because of that.
        usage: Usage of the machine by epoch, for epochs in which it was measured.
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
        """True for a control of the search space."""
        return self.role == CONTROL

    @property
    def last_epoch(self) -> int:
        """Last reported epoch; 0 before the first one."""
        return max(self.epochs, default=0)

    @property
    def trained_epochs(self) -> int:
        """Number of epochs that were trained, repeated ones included."""
        return self.last_epoch + self.repeated

    @property
    def seconds(self) -> float:
        """Seconds spent training."""
        return sum(metrics.get("seconds", 0.0) for metrics in self.epochs.values())

    @property
    def timed_usage(self) -> list[tuple[float, dict[str, float]]]:
        """Pairs of an epoch's seconds and its usage of the machine, for epochs in which usage was measured."""
        return [(self.epochs[epoch].get("seconds", 0.0), usage) for epoch, usage in sorted(self.usage.items())]

    def metric(self, name: str, epoch: int | None = None) -> float:
        """Returns a metric; NaN if there is none.

        Args:
            name: The metric's name.
            epoch: The epoch; None for the last reported one, or else the value measured before training.
        """
        if epoch is not None:
            return self.epochs.get(epoch, {}).get(name, math.nan)
        last = self.epochs[self.last_epoch] if self.epochs else {}
        return last.get(name, self.measured.get(name, math.nan))


class SearchCallback(Protocol):
    """Callback of a search. It is called on the driver's loop, so its methods must return at once."""

    def replayed(self) -> None:
        """Marks the end of the replay: all calls so far were about an earlier process. Called once, even if
        there was none.
        """

    def trial_started(self, trial: TrialRecord) -> None: ...
    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None: ...
    def trial_paused(self, trial: TrialRecord) -> None: ...
    def trial_ended(self, trial: TrialRecord) -> None: ...

    def ending_early(self, reason: str, running: int, left: int) -> None:
        """Marks that no further trial is proposed.

        Args:
            reason: The reason, in words.
            running: Number of running runs.
            left: Number of runs that may still start, mostly confirmations.
        """


class Accepted(TypedDict):
    """Code and library versions that a search's user has accepted.

    Attributes:
        code: Hashes by file.
        versions: Versions by package.
    """

    code: Mapping[str, str]
    versions: Mapping[str, str]


class Header(TypedDict, total=False):
    """First line of a journal.

    Attributes:
        fingerprint: The search's fingerprint.
        set: Name of the data set, for readers.
        part: Part of the data that the search uses, such as a fold, for readers; absent for the whole split.
        space_file: File of the search space, for readers.
        content: Content of the fingerprint.
        then: Metric that decides among equals, for readers.
        metric: Words of the first objective, for readers; absent for accuracy.
        code: Hashes by file of the code that began the search.
        versions: Versions by package with which it began.
        weights: Resolved pretrained weights by specification (`pipeline.models.model_config.RecordedWeights`).
        known: Results of `search.warm_start`.
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
"""Line of a journal: `event` is its kind, and `SearchHistory.apply` reads the other keys of each kind."""


@dataclass
class SearchHistory:
    """Content of a journal.

    Attributes:
        header: The first line, with the content of the fingerprint.
        accepted: Code and versions that the user accepted last; None if there are none.
        trials: Records by id, in the order of their start.
        reports: Pairs (trial, epoch) in the order of their arrival. A pair (trial, -epoch) stands for a trial
            that was paused after this epoch and has gone on.
        seconds: Seconds in which drivers were running, over all sessions.
        sessions: Number of sessions.
        busy_s: Seconds in which workers were occupied, over all trials.
        gpu_seconds: GPU-seconds of all trials.
        epochs: Epochs of all trials; an epoch that was reported again counts once.
        stacks: For each run that a worker trains together with others, or did until it was queued again, the run that
            stands for all of them.
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
    stacks: dict[str, str] = field(default_factory=dict)
    _at: float = 0.0
    _gpus: float = 0.0
    _since: dict[str, float] = field(default_factory=dict)

    def apply(self, event: Event) -> None:
        """Applies one event.

        An epoch that is reported again, because its checkpoint was lost when a process was killed, keeps its
        first report: the study, the rungs and MLflow have used that one.

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
            self._gpus, self._at, self._since, self.stacks = float(event["gpus"]), 0.0, {}, {}
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
            self.stacks.pop(name, None)
            if (first := event.get("with")) is not None:
                self.stacks |= {first: first, name: first}
            return
        if kind == "dropped":
            trial.dropped = True
            return
        self._share_time(name, at)
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
            # A restarted trial measures again, and its first values stay.
            trial.measured = {**event["metrics"], **trial.measured}
        elif kind == "paused":
            trial.paused = True
            self._leave(name)
        elif kind == "ended":
            trial.state, trial.reason, trial.paused = event["state"], event.get("reason"), False
            self._leave(name)
        elif kind != "returned":
            raise ValueError(f"no event {kind!r}")

    def _share_time(self, name: str, at: float) -> None:
        """Adds the time since the last event of a run, of which the runs of a stack have equal shares.

        Args:
            name: The run's id.
            at: Seconds since the session began.
        """
        first = self.stacks.get(name)
        members = [name] if first is None else [each for each, of in self.stacks.items() if of == first]
        for member in members:
            busy = max(0.0, at - self._since.get(member, at)) / len(members)
            self._since[member] = at
            trial = self.trials[member]
            trial.busy_s += busy
            trial.gpu_s += busy * self._gpus
            self.busy_s += busy
            self.gpu_seconds += busy * self._gpus

    def _leave(self, name: str) -> None:
        """Records that a run occupies no worker any more."""
        del self._since[name]
        self.stacks.pop(name, None)


def read_history(path: Path, *, repair: bool = False) -> SearchHistory:
    """Returns the content of a journal; empty if there is no file.

    Args:
        path: The journal's file.
        repair: Whether to cut a torn last line off the file, which only its writer may do.

    Raises:
        UserError: a line that is not the last is broken, or the journal has another format.
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
                raise ValueError("a journal has one search event, on its first line")
            history.apply(event)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise UserError(
                f"{path}: line {number} is broken. Repair that line if you have a copy, or move {path.parent} away to "
                "search anew."
            ) from None
    return history


def whole_lines(path: Path, *, repair: bool) -> list[bytes]:
    """Returns the complete lines of a file that is appended to; an empty list if there is no file.

    A last line that a crash has torn is left out.

    Args:
        path: The file.
        repair: Whether to cut such a line off the file, which only its writer may do.
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

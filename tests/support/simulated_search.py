"""A search without workers: the real course, journal, studies and rungs, and a trainer that makes its results up."""

import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Params
from pipeline.tune.controller import SearchController, Wait
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import FAILED, SearchCallback, TrialRecord
from pipeline.tune.schedulers.scheduler import Decision
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.study import EMPTY_SHARE

LR, WEIGHT = "train.lr", "regularizer.spatial_entropy.weight"
RATE = {"type": "float", "low": 0.001, "high": 1.0, "log": True}
STRENGTH = {"type": "float", "low": 0.003, "high": 1.0, "log": True}
SPACE = SearchSpace("space.yaml", {WEIGHT: STRENGTH}, {"baseline": {WEIGHT: 0.0}})
WIDE = SearchSpace("space.yaml", {WEIGHT: STRENGTH, LR: RATE}, {"baseline": {WEIGHT: 0.0}, "paper": {WEIGHT: 0.01}})
"""A space with the recipe's learning rate in it, which a control can be tuned over, and two controls."""

SMALL: Mapping[str, Any] = {
    "train.epochs": 4,
    "search.trials": 4,
    "search.budget.full_trainings": None,
    "search.keep_checkpoints": 5,
    "search.sampler.startup_trials": 2,
    "search.scheduler.grace_period": 2,
    "search.scheduler.reduction_factor": 2.0,
    "search.confirm.top": 2,
    "search.confirm.seeds": 1,
}


CONSTRAINT = f"constraints:{EMPTY_SHARE}"


class Clock:
    """The steady clock of which a search's account is made, going on only when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def accuracy(record: TrialRecord, epoch: int) -> float:
    """A made-up result: best at a rate of 0.03 and a weight of 0.1, better with every epoch, and a little luck."""
    rate, weight = record.values.get(LR, 0.1), record.values.get(WEIGHT, 0.0)
    of_weight = 0.02 * (math.log10(weight) + 1) ** 2 if weight else 0.06
    luck = 0.001 * ((record.seed or 0) % 7)
    return 0.9 - 0.05 * (math.log10(rate) + 1.5) ** 2 - of_weight - 0.2 / epoch + luck


class Kill(BaseException):
    """The driver has died: nothing that it would have done on its way out is done."""


@dataclass
class Heard(SearchCallback):
    """A listener that writes down what it is told."""

    said: list[tuple[str, str]] = field(default_factory=list)

    def replayed(self) -> None:
        self.said.append(("replayed", ""))

    def trial_started(self, trial: TrialRecord) -> None:
        self.said.append(("started", trial.id))

    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None:
        self.said.append((f"epoch {epoch}", trial.id))

    def trial_paused(self, trial: TrialRecord) -> None:
        self.said.append(("paused", trial.id))

    def trial_ended(self, trial: TrialRecord) -> None:
        self.said.append((f"ended {trial.state}", trial.id))

    def ending_early(self, reason: str, running: int, left: int) -> None:
        self.said.append((f"ending early, {running} running, {left} left", reason))

    def of(self, name: str) -> list[str]:
        return [what for what, who in self.said if who == name]


@dataclass
class Search:
    """A search in a folder, opened by one session after the other.

    results: accuracy by run and epoch. fails: why a run fails at an epoch, or None. clock, epoch_s: see `Clock`; seconds
    that a round of epochs takes. callbacks: beside `heard`.
    """

    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    space: SearchSpace = SPACE
    results: Callable[[TrialRecord, int], float] = accuracy
    fails: Callable[[TrialRecord, int], str | None] = lambda record, epoch: None
    empty: Callable[[TrialRecord], float] = lambda record: 0.0
    clock: Clock | None = None
    epoch_s: float = 1.0
    gpus: float = 0.0
    heard: Heard = field(default_factory=Heard)
    callbacks: Sequence[SearchCallback] = ()
    starts: list[str] = field(default_factory=list)
    outcome: list[TrialRecord] = field(default_factory=list)
    stopped: str | None = None
    left: int = 0

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    @contextmanager
    def session(self, *, at_a_time: int = 1, **settings: Any) -> Iterator[SearchController]:
        """A course, replayed. settings: by parameter's name with `__` for the dots, on top of the search's own."""
        dotted = {name.replace("__", "."): value for name, value in settings.items()}
        params = Params().with_values({**SMALL, **self.settings, **dotted}, where="the test")
        self.heard, self.starts = Heard(), []
        with Journal(self.journal, {}, gpus=self.gpus) as journal:
            course = SearchController(
                params,
                self.space,
                journal,
                [self.heard, *self.callbacks],
                fingerprint="f00d" * 16,
                folder=self.folder,
                gpus=self.gpus,
                max_concurrent=at_a_time,
            )
            course.replay()
            self.left = course.max_remaining
            yield course
            self.outcome, self.stopped = course.requested_trials(), course.stopped

    def run(self, *, at_a_time: int = 1, kill_at: int | None = None, **settings: Any) -> SearchController:
        """A session to its end. kill_at: the epoch, of all that it trains, after whose report it dies."""
        with self.session(at_a_time=at_a_time, **settings) as course:
            if course.max_remaining:
                self.drive(course, at_a_time=at_a_time, kill_at=kill_at)
            assert len(self.starts) <= self.left  # Ray would not have asked for more
        return course

    def drive(self, course: SearchController, *, at_a_time: int = 1, kill_at: int | None = None) -> None:
        """What Ray's loop and its workers do, an epoch of everything that runs at a time."""
        place = self.folder / "ray" / f"start-{len(list((self.folder / 'ray').glob('start-*')))}"
        place.mkdir(parents=True)
        at_work: dict[str, tuple[TrialRecord, int]] = {}
        trained = itertools.count(1)
        while True:
            while len(at_work) < at_a_time:
                record = course.next_trial()
                if isinstance(record, Wait):
                    assert at_work, "waits for what never ends"
                    break
                if record is None:
                    break
                self.starts.append(record.id)
                at_work[record.id] = (record, epoch_of(record.checkpoint))
            if not at_work:
                return
            if self.clock is not None:
                self.clock.now += self.epoch_s
            for name, (record, done) in list(at_work.items()):
                at_work[name] = (record, done + 1)
                if self._epoch(course, place, record, done + 1):
                    del at_work[name]
                if next(trained) == kill_at:
                    raise Kill

    def _epoch(self, course: SearchController, place: Path, record: TrialRecord, epoch: int) -> bool:
        """Train an epoch of a run; whether it has ended."""
        why = self.fails(record, epoch)
        if why is not None:
            course.end_trial(record.id, FAILED, why)
            return True
        value = self.results(record, epoch)
        metrics = {"val/accuracy": value, "val/loss": 1 - value, "val/spatial_entropy/empty_share": self.empty(record)}
        decision = course.report(record.id, epoch, metrics)
        new = place / record.id / f"checkpoint_{epoch:06d}"
        new.mkdir(parents=True)
        course.checkpoint(record.id, str(new))
        for old in new.parent.iterdir():
            if old != new:
                shutil.rmtree(old)  # Ray keeps one
        if decision is not Decision.CONTINUE:
            course.release(record.id)
        return decision is not Decision.CONTINUE

    def killed(self, *, kill_at: int, **settings: Any) -> None:
        """A session that dies."""
        with pytest.raises(Kill):
            self.run(kill_at=kill_at, **settings)

    @property
    def ids(self) -> list[str]:
        return [record.id for record in self.outcome]

    def checkpoints(self) -> set[str]:
        """The runs of which a checkpoint is left."""
        return {path.parent.name for path in self.folder.glob("ray/*/*/checkpoint_*")}


def epoch_of(checkpoint: str | None) -> int:
    return int(Path(checkpoint).name.removeprefix("checkpoint_")) if checkpoint and Path(checkpoint).is_dir() else 0


def told(records: list[TrialRecord]) -> list[Any]:
    """All that a search found out, but for the time that it took and where its checkpoints lie."""
    return [(r.id, r.number, r.role, r.study, r.seed, r.of, r.values, r.state, r.reason, r.epochs) for r in records]


def studies(course: SearchController) -> dict[str, Any]:
    """What Optuna knows of every study's trials, but for its notes on how it came to propose them."""
    return {
        name: [
            (t.number, t.state.name, t.params, t.value, t.intermediate_values, t.system_attrs.get(CONSTRAINT))
            for t in arm.adapter._study.get_trials(deepcopy=False)
        ]
        for name, arm in course.studies.items()
    }

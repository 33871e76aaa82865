"""A search without training: the real course, study and stopping rule, fed from a table of recorded learning curves.

Time is simulated: so many workers train side by side, an epoch takes what the table says, or 1, and what ends first is
told first. A sampler proposes what it likes, and gets the nearest recorded setting that has not been tried yet: it
learns of that setting, with that setting's own curve. So nothing is made up between recorded settings, the best ones
are known, and neighbours differ by noise as they do in training. (Were the nearest curve given to whatever is proposed,
the noise of one recorded run would be a plateau, on which a sampler that looks where it was good stays for ever.)
"""

import heapq
import itertools
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Params
from pipeline.tune.controller import SearchController, Wait
from pipeline.tune.journal.image_scores import ImageScores, pack_scores
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import (
    FAILED,
    INFEASIBLE,
    METHOD,
    VAL_ACCURACY,
    SearchCallback,
    SearchHistory,
    TrialRecord,
)
from pipeline.tune.objectives.objectives import LATENCY, PARAMETERS, THROUGHPUT
from pipeline.tune.schedulers.scheduler import Decision
from pipeline.tune.selection.candidates import choice_rule, rank_trials
from pipeline.tune.selection.confirm import FIRST_SEED
from pipeline.tune.space import SearchSpace

MEASURED = (PARAMETERS, LATENCY, THROUGHPUT)
"""Of a table's metrics, those that a trial knows before its first epoch."""

Curves = NDArray[np.float32]


@dataclass(frozen=True)
class Table:
    """Recorded curves. values: R settings by dotted path. curves: by metric, (R, seeds, epochs); NaN once diverged.

    points: the settings in the unit cube of the space, (R, dimensions). further: the objective at the last epoch with
    more seeds, which no search sees, of the rows that have any. correct: which validation images were right, (R, seeds,
    epochs, N), if that was recorded.
    """

    space: SearchSpace
    values: Sequence[Mapping[str, Any]]
    curves: Mapping[str, Curves]
    points: NDArray[np.float64]
    further: Mapping[int, Sequence[float]] = field(default_factory=dict)
    correct: NDArray[np.bool_] | None = None

    @property
    def seeds(self) -> int:
        return int(self.curves[VAL_ACCURACY].shape[1])

    @property
    def epochs(self) -> int:
        return int(self.curves[VAL_ACCURACY].shape[2])

    def nearest(self, values: Mapping[str, Any], *, but: Collection[int] = ()) -> int:
        """The row of the nearest setting in the unit cube; another choice of a category is as far as its whole side.

        but: rows that do not count, unless they are all.
        """
        differences = np.abs(self.points - np.array(self.space.shares(values)))
        words = [spec["type"] == "categorical" for spec in self.space.dimensions.values()]
        differences[:, words] = differences[:, words] > 1e-9
        distances = (differences**2).sum(axis=1)
        if len(but) < len(distances):
            distances[list(but)] = np.inf
        return int(np.argmin(distances))

    def final(self, *, but: Sequence[int] = ()) -> NDArray[np.float64]:
        """The objective of every setting at the last epoch, as the mean over all of its seeds, (R,).

        but: seeds that do not count, such as the one that a search has seen.
        """
        last = np.delete(np.asarray(self.curves[VAL_ACCURACY][:, :, -1], dtype=np.float64), list(but), axis=1)
        return np.array([np.mean([*values, *self.further.get(row, ())]) for row, values in enumerate(last)])

    def best(self, share: float) -> frozenset[int]:
        """The rows of the best share of settings by `final`; at least one. What diverged is never among them."""
        ranked = np.argsort(-np.nan_to_num(self.final(), nan=-np.inf), kind="stable")
        return frozenset(int(row) for row in ranked[: max(1, round(share * len(ranked)))])


def read_table(path: Path, space: SearchSpace) -> Table:
    """A table as `benchmarks/record_curves.py` writes it.

    Raises:
        ValueError: its settings are not of the space.
    """
    with np.load(path) as stored:
        values = json.loads(str(stored["values"]))
        curves = {f"val/{name}": stored[name] for name in ("accuracy", "loss")}
        curves["val/spatial_entropy/empty_share"] = stored["empty_share"]
        curves["seconds"] = stored["seconds"]
        further: dict[int, list[float]] = {}
        for row, value in zip(stored["again"].tolist(), stored["last"].tolist(), strict=True):
            further.setdefault(row, []).append(value)
    return replace(make_table(space, values, curves), further=further)


def make_table(space: SearchSpace, values: Sequence[Mapping[str, Any]], curves: Mapping[str, Curves]) -> Table:
    """A table of settings and their curves.

    Raises:
        ValueError: a setting is not of the space.
    """
    for row, setting in enumerate(values):
        missing = [f"{path} is missing" for path in space.dimensions if path not in setting]
        problems = [*space.values_outside(setting), *missing]
        if problems:
            raise ValueError(f"setting {row} of the table: {problems[0]}")
    points = np.array([space.shares(setting) for setting in values])
    return Table(space, values, {name: np.asarray(curve, dtype=np.float32) for name, curve in curves.items()}, points)


class UnwrittenLedger(Journal):
    """A journal that is kept in memory, by a clock that is set from outside. now: in seconds."""

    def __init__(self, *, gpus: float = 0.0) -> None:
        self.history, self.scores, self.now = SearchHistory(), ImageScores(), 0.0
        self._record({"event": "session", "gpus": gpus})

    def _record(self, event: Mapping[str, Any]) -> None:
        self.history.apply({**event, "at": self.now})

    def close(self) -> None: ...


@dataclass(frozen=True)
class Ended:
    """A run that has ended. at: simulated time. epochs: trained by then in the whole search. row: of the table."""

    at: float
    epochs: int
    record: TrialRecord
    row: int


@dataclass
class Simulation:
    """A simulated search. ended: its runs in the order in which they ended. course: as it was left. now: the time."""

    course: SearchController
    ended: list[Ended] = field(default_factory=list)
    now: float = 0.0

    @property
    def epochs(self) -> int:
        """Trained in the whole search."""
        return self.course.journal.history.epochs

    def held(self) -> int | None:
        """The row of the setting that would now be confirmed first; None as long as no trial has completed."""
        tried = [end.record for end in self.ended if end.record.study == METHOD]
        found = rank_trials(tried, replace(choice_rule(self.course.params), max_empty_share=1.0))
        return next((end.row for end in self.ended if found and end.record is found[0]), None)


def simulate(
    params: Params,
    table: Table,
    *,
    workers: int = 1,
    seed: int = 0,
    recorded_time: bool = False,
    folder: Path | None = None,
    journal: Journal | None = None,
    listeners: Sequence[SearchCallback] = (),
    space: SearchSpace | None = None,
    enough: Callable[[Simulation], bool] = lambda simulation: False,
) -> Simulation:
    """Run a whole search of the parameters on a table.

    workers: that train at a time. seed: of the table's, for the search's trials; confirmations take the next ones.
    recorded_time: an epoch takes the table's seconds instead of 1. folder: where a stop file would lie. journal: to be
    gone on from. space: with other controls than the table's. enough: asked whenever a run has paused or ended;
    nothing happens after a yes.

    Raises:
        ValueError: the table has other epochs than the parameters plan.
    """
    if table.epochs != params.train.epochs:
        raise ValueError(f"the table has {table.epochs} epochs, and train.epochs is {params.train.epochs}")
    journal = UnwrittenLedger() if journal is None else journal
    ends = _Ends()
    course = SearchController(
        params,
        table.space if space is None else space,
        journal,
        [*listeners, ends],
        fingerprint="simulated",
        folder=Path("there is none") if folder is None else folder,
        gpus=0.0,
        max_concurrent=workers,
        count=lambda values: round(float(table.curves[PARAMETERS][row_of(table, params, values), 0, 0])),
    )
    for arm in course.studies.values():
        arm.adapter.moved = _Untried(table, arm.name, course)
    course.replay()
    simulation = Simulation(course)
    ends.say = lambda record: simulation.ended.append(
        Ended(simulation.now, simulation.epochs, record, row_of(table, params, record.values))
    )
    _Workers(simulation, table, workers, seed, recorded_time).run(enough)
    return simulation


def row_of(table: Table, params: Params, values: Mapping[str, Any]) -> int:
    """The row of the recorded setting that a run trains, if it is to train these values."""
    whole = {path: values.get(path, params.value(path)) for path in table.space.dimensions}
    return table.nearest(_within(table.space, whole))


class _Ends:
    """A callback that hands on the runs that end. say: what it calls, once the journal has been replayed."""

    def __init__(self) -> None:
        self.say: Callable[[TrialRecord], None] = lambda record: None

    def replayed(self) -> None: ...
    def trial_started(self, trial: TrialRecord) -> None: ...
    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None: ...
    def trial_paused(self, trial: TrialRecord) -> None: ...
    def ending_early(self, reason: str, running: int, left: int) -> None: ...

    def trial_ended(self, trial: TrialRecord) -> None:
        self.say(trial)


class _Untried:
    """Moves what a study proposes to the nearest recorded setting that the study has not tried."""

    def __init__(self, table: Table, study: str, course: SearchController) -> None:
        self._table, self._study, self._course = table, study, course
        self._rows: dict[str, int] = {}

    def __call__(self, proposed: Mapping[str, Any]) -> Mapping[str, Any]:
        for record in self._course.journal.trials.values():
            if record.study == self._study and record.id not in self._rows:
                self._rows[record.id] = self._table.nearest(record.values)
        return self._table.values[self._table.nearest(proposed, but=set(self._rows.values()))]


class _Workers:
    """What trains, as a queue of epochs by the time at which they end."""

    def __init__(self, simulation: Simulation, table: Table, workers: int, seed: int, recorded_time: bool) -> None:
        self._simulation, self._table, self._free = simulation, table, workers
        self._seed, self._recorded_time = seed, recorded_time
        self._order = itertools.count()
        self._due: list[tuple[float, int, TrialRecord, int, int]] = []
        self._now, self._released = 0.0, False

    def run(self, enough: Callable[[Simulation], bool]) -> None:
        while True:
            if self._released and enough(self._simulation):
                return
            self._released = False
            self._start()
            if not self._due:
                return
            self._now, _, record, row, epoch = heapq.heappop(self._due)
            self._simulation.now = self._now
            journal = self._simulation.course.journal
            if isinstance(journal, UnwrittenLedger):
                journal.now = self._now
            self._epoch(record, row, epoch)

    def _start(self) -> None:
        while self._free:
            record = self._simulation.course.next_trial()
            if record is None or isinstance(record, Wait):
                return
            row = row_of(self._table, self._simulation.course.params, record.values)
            if not self._breaks_at_once(record, row):
                self._free -= 1
                self._train(record, row, record.last_epoch + 1)

    def _breaks_at_once(self, record: TrialRecord, row: int) -> bool:
        """Measure what a trial measures before its first epoch, and end it if it breaks a constraint."""
        course = self._simulation.course
        if wanted := [name for name in course.objectives.speed_metrics if name not in record.measured]:
            course.journal.measured(record.id, {name: self._metric(name, record, row, 1) for name in wanted})
        broken = course.objectives.explain_infeasible(record.measured) if record.study is not None else []
        if broken:
            course.end_trial(record.id, INFEASIBLE, "; ".join(broken))
        return bool(broken)

    def _train(self, record: TrialRecord, row: int, epoch: int) -> None:
        seconds = float(self._metric("seconds", record, row, epoch)) if self._recorded_time else 1.0
        heapq.heappush(self._due, (self._now + seconds, next(self._order), record, row, epoch))

    def _epoch(self, record: TrialRecord, row: int, epoch: int) -> None:
        course = self._simulation.course
        value = self._metric(VAL_ACCURACY, record, row, epoch)
        if math.isnan(value):
            course.end_trial(record.id, FAILED, f"diverged: in epoch {epoch}")
            self._free, self._released = self._free + 1, True
            return
        names = [name for name in self._table.curves if name not in MEASURED]
        metrics = {name: self._metric(name, record, row, epoch) for name in names}
        decision = course.report(record.id, epoch, metrics, scores=self._correct(record, row, epoch))
        if decision is Decision.CONTINUE:
            return self._train(record, row, epoch + 1)
        course.release(record.id)
        self._free, self._released = self._free + 1, True

    def _metric(self, name: str, record: TrialRecord, row: int, epoch: int) -> float:
        return float(self._table.curves[name][row, self._column(record), epoch - 1])

    def _correct(self, record: TrialRecord, row: int, epoch: int) -> str | None:
        """Which validation images were right, as a worker reports it; None where the table does not say."""
        if self._table.correct is None:
            return None
        return pack_scores(self._table.correct[row, self._column(record), epoch - 1])

    def _column(self, record: TrialRecord) -> int:
        """The table's seed that stands for a run's."""
        base = self._simulation.course.params.base.seed
        further = 0 if record.seed is None else record.seed - base - FIRST_SEED
        return (self._seed + further) % self._table.seeds


def _within(space: SearchSpace, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values moved to the nearest ones of the space: a control's weight of 0 is below every range on a log scale."""
    inside = {}
    for path, spec in space.dimensions.items():
        value = values[path]
        if "choices" in spec:
            inside[path] = value if value in spec["choices"] else spec["choices"][0]
        else:
            inside[path] = min(max(value, spec["low"]), spec["high"])
    return inside

"""The trials of one study while a search runs: which of them wait, which goes on next, and what they may spend."""

from dataclasses import dataclass

from pipeline.config import Params
from pipeline.tune.budget import BestSoFar, EpochAllowance
from pipeline.tune.journal.records import COMPLETE, PRUNED, TrialRecord
from pipeline.tune.objectives.objectives import Objectives, is_valid_result
from pipeline.tune.schedulers.scheduler import Decision
from pipeline.tune.selection.candidates import empty_share
from pipeline.tune.study.studies import StudyWithScheduler
from pipeline.tune.study.study import EMPTY_SHARE


@dataclass(frozen=True)
class Step:
    """What a study does next.

    record: the trial that goes on, None to propose one. until: the epoch after which it may be held again. further: the
    epochs that it may train until then.
    """

    record: TrialRecord | None
    until: int
    further: int


class StudyTrials:
    """The trials of a study that have been started and have not ended.

    paused: by the scheduler, at a rung. held: those that the scheduler lets go on from a rung, and that wait for room
    in the budget. open: the ids of those that neither wait nor have ended. ended_paused: those that had waited until
    the end. completed: whether any has run in full. named: whether any of those may be named the best. over: whether a
    limit lets none go on, and none be proposed. allowance: the epochs that they may spend. best: of those that have
    ended.
    """

    def __init__(
        self,
        study: StudyWithScheduler,
        params: Params,
        objectives: Objectives,
        *,
        max_trials: int,
        allowance: float | None,
    ) -> None:
        self.study, self.allowance, self.best = study, EpochAllowance(allowance), BestSoFar()
        self._objectives, self._max_empty_share = objectives, params.search.max_empty_share
        self._epochs, self._max_trials = params.train.epochs, max_trials
        self._rungs = study.scheduler.rung_epochs if study.scheduler.pauses else []
        self.paused: dict[str, TrialRecord] = {}
        self.held: dict[str, TrialRecord] = {}
        self.ended_paused: dict[str, TrialRecord] = {}
        self.open: set[str] = set()
        self.completed = self.named = self.over = False

    @property
    def num_to_propose(self) -> int:
        return self.study.adapter.num_to_propose(self._max_trials)

    @property
    def max_starts(self) -> int:
        """How often trials may still be handed out: each once, and again after every pause."""
        trials = self.num_to_propose + len(self.open) + len(self.paused) + len(self.held)
        return trials * (len(self._rungs) + 1)

    @property
    def may_go_on(self) -> bool:
        """Whether anything is left that a request to stop would keep from starting."""
        waiting = bool(self.paused or self.held or (self._rungs and self.open))
        return waiting or self.num_to_propose > 0

    @property
    def waiting(self) -> list[TrialRecord]:
        """Those that are paused or held, in the order of their numbers."""
        return sorted([*self.held.values(), *self.paused.values()], key=lambda record: record.number or 0)

    def prospects(self) -> list[tuple[float, str]]:
        """Of those with a checkpoint that wait, or did until the end, how far each is from going on, and its id."""
        waiting = [*self.paused.values(), *self.held.values(), *self.ended_paused.values()]
        stored = [record.id for record in waiting if record.checkpoint and not record.dropped]
        return [(self.study.scheduler.prospects(name), name) for name in stored]

    def may_wait(self, record: TrialRecord) -> bool:
        """Whether a trial waits, or did until the end."""
        return any(record.id in records for records in (self.paused, self.held, self.ended_paused))

    def is_rung(self, epoch: int) -> bool:
        """Whether a trial may be held after an epoch."""
        return epoch in self._rungs

    def until(self, epoch: int) -> int:
        """How far a trial goes on after an epoch before it may be held."""
        return next((rung for rung in self._rungs if rung > epoch), self._epochs)

    def replay(self, record: TrialRecord, epoch: int) -> Decision:
        """Take in a report of the journal, or, of an epoch below 0, that a trial went on which was paused after it."""
        if epoch < 0:
            self.study.scheduler.resume(record.id)
            return Decision.CONTINUE
        return self.report(record, epoch)

    def report(self, record: TrialRecord, epoch: int) -> Decision:
        """Take in a report; what the scheduler would have become of the trial."""
        metrics = record.epochs[epoch]
        self.study.adapter.report(record.number or 0, epoch, metrics[self._objectives.first], metrics)
        return self.study.scheduler.report(record.id, epoch, self._objectives.gains(metrics))

    def has_ended(self, record: TrialRecord, decision: Decision | None) -> bool:
        """Whether a trial of an earlier session has ended for good, by the word on its last report. One that waited
        until the end waits again: more may be spent now.
        """
        waits = self.is_rung(record.last_epoch) and decision in (Decision.PAUSE, Decision.CONTINUE)
        return record.state is not None and not (waits and record.state == PRUNED)

    def start(self, record: TrialRecord, further: int) -> None:
        """A trial that was proposed, or waited, runs from now on, for so many epochs until it may be held."""
        self.open.add(record.id)
        self.allowance.promise(record.id, self.allowance.promised(record.id) + further)
        if self._pop_waiting(record):
            self.study.scheduler.resume(record.id)
            self.study.adapter.resume(record.number or 0)
            self.best.resume(record.number or 0)

    def go_on(self, record: TrialRecord) -> None:
        """A trial of an earlier session, or one at a rung, runs until it may be held."""
        self.open.add(record.id)
        self.promise(record, self.until(record.last_epoch))

    def wait(self, record: TrialRecord, *, held: bool) -> None:
        """A trial waits at a rung from now on."""
        self.open.discard(record.id)
        (self.held if held else self.paused)[record.id] = record
        self.promise(record, record.last_epoch)
        self.study.adapter.pause(record.number or 0, constraints=self._constraints(record))
        self.best.pause(record.number or 0)

    def end(self, record: TrialRecord) -> None:
        """A trial has ended."""
        assert record.state is not None
        if self._pop_waiting(record):
            self.ended_paused[record.id] = record
        self.open.discard(record.id)
        self.completed |= record.state == COMPLETE
        self.named |= record.state == COMPLETE and self._is_allowed(record)
        self.promise(record, record.last_epoch)
        number, values = record.number or 0, self._objectives.objective_values(record)
        self.study.adapter.tell(number, record.state, *values, constraints=self._constraints(record))
        self.best.resume(number)
        self.best.add(number, self._objectives.gain(record) if is_valid_result(record, self._objectives) else None)

    def _is_allowed(self, record: TrialRecord) -> bool:
        return empty_share(record) <= self._max_empty_share and self._objectives.is_feasible(record)

    def _constraints(self, record: TrialRecord) -> dict[str, float]:
        constraints = {EMPTY_SHARE: empty_share(record) - self._max_empty_share} if record.epochs else {}
        return constraints | self._objectives.violations(record.metric)

    def _pop_waiting(self, record: TrialRecord) -> bool:
        return any(waiting.pop(record.id, None) is not None for waiting in (self.paused, self.held))

    def promise(self, record: TrialRecord, until: int) -> None:
        """A trial may come to an epoch, or stays there."""
        self.allowance.promise(record.id, until + record.repeated)

    def is_promised(self, record: TrialRecord, until: int) -> bool:
        """Whether a trial may come to an epoch already, as one may that begins again."""
        return self.allowance.promised(record.id) >= until + record.repeated

    def pending(self, record: TrialRecord) -> int:
        """Epochs that a trial may still train before it is held."""
        return max(0, self.allowance.promised(record.id) - record.last_epoch - record.repeated)

    def next_step(self) -> Step | None:
        """What the scheduler and the sampler would do next, whatever it costs; None while there is nothing."""
        if self.over:
            return None
        if self.held:
            return self._resumed(next(iter(self.held.values())))
        if (name := self.study.scheduler.next_to_resume(self.paused)) is not None:
            return self._resumed(self.paused[name])
        return Step(None, self.until(0), self.until(0)) if self.num_to_propose else None

    def last_resort(self) -> Step | None:
        """The best trial that waits goes on, if none has run in full and none is about to; or, if what has run in full
        breaks a constraint, the best one that breaks none so far.
        """
        if self.named or self.open:
            return None
        held, paused = (
            {name: record for name, record in waiting.items() if not self.completed or self._is_allowed(record)}
            for waiting in (self.held, self.paused)
        )
        name = self.study.scheduler.next_to_resume(paused, anyone=True)
        found = [*held.values(), *([] if name is None else [paused[name]])]
        return self._resumed(max(found, key=lambda record: record.last_epoch)) if found else None

    def reserve(self, until: int) -> int:
        """Epochs that must be left for a trial to run in full, if one starts now that goes on until an epoch."""
        return 0 if self.completed or until >= self._epochs or any(map(self._runs_in_full, self.open)) else self._epochs

    def _runs_in_full(self, name: str) -> bool:
        return self.allowance.promised(name) >= self._epochs

    def _resumed(self, record: TrialRecord) -> Step:
        until = self.until(record.last_epoch)
        return Step(record, until, until - (0 if record.dropped else record.last_epoch))

"""Trials of one study while a search runs: which of them wait, which goes on next, and how much they may spend."""

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
    """Next step of a study.

    Attributes:
        record: The trial that goes on; None to propose a new one.
        until: Epoch after which the trial may be paused again.
        further: Epochs that the trial may train until then.
    """

    record: TrialRecord | None
    until: int
    further: int


class StudyTrials:
    """Trials of a study.

    Args:
        study: The study with its scheduler.
        params: All parameters.
        objectives: Objectives and constraints.
        max_trials: Largest number of trials.
        allowance: Epochs that the trials may spend; None for no limit.

    Attributes:
        paused: Trials that the scheduler has paused at a rung, by id.
        held: Trials that the scheduler lets go on from a rung, and that wait for room in the budget, by id.
        open: Ids of trials that have started, do not wait, and have not ended.
        ended_paused: Trials that waited until the search ended, by id.
        completed: Whether any trial has run in full.
        named: Whether any trial that ran in full may be named the best.
        over: Whether a limit lets no trial go on, and no new one be proposed.
        allowance: Epochs that the trials may spend and have spent.
        best: Best trial among those that have ended.
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
        """Number of trials still to be proposed."""
        return self.study.adapter.num_to_propose(self._max_trials)

    @property
    def max_starts(self) -> int:
        """Largest number of starts still to come: each trial starts once, and again after every pause."""
        trials = self.num_to_propose + len(self.open) + len(self.paused) + len(self.held)
        return trials * (len(self._rungs) + 1)

    @property
    def may_go_on(self) -> bool:
        """True if anything is left that a request to stop would prevent from starting."""
        waiting = bool(self.paused or self.held or (self._rungs and self.open))
        return waiting or self.num_to_propose > 0

    @property
    def waiting(self) -> list[TrialRecord]:
        """Trials that are paused or held, in the order of their numbers."""
        return sorted([*self.held.values(), *self.paused.values()], key=lambda record: record.number or 0)

    def prospects(self) -> list[tuple[float, str]]:
        """Returns (distance from going on, id) of each trial with a checkpoint that waits, or waited until the
        end.
        """
        waiting = [*self.paused.values(), *self.held.values(), *self.ended_paused.values()]
        stored = [record.id for record in waiting if record.checkpoint and not record.dropped]
        return [(self.study.scheduler.prospects(name), name) for name in stored]

    def may_wait(self, record: TrialRecord) -> bool:
        """Returns whether a trial waits, or waited until the end."""
        return any(record.id in records for records in (self.paused, self.held, self.ended_paused))

    def is_rung(self, epoch: int) -> bool:
        """Returns whether a trial may be paused after an epoch."""
        return epoch in self._rungs

    def until(self, epoch: int) -> int:
        """Returns the epoch to which a trial goes on after an epoch: the next rung, or the last epoch."""
        return next((rung for rung in self._rungs if rung > epoch), self._epochs)

    def replay(self, record: TrialRecord, epoch: int) -> Decision:
        """Replays a report of the journal.

        A negative epoch means that the trial was paused after that epoch and has gone on.
        """
        if epoch < 0:
            self.study.scheduler.resume(record.id)
            return Decision.CONTINUE
        return self.report(record, epoch)

    def report(self, record: TrialRecord, epoch: int) -> Decision:
        """Passes a report to the study and the scheduler, and returns the scheduler's decision."""
        metrics = record.epochs[epoch]
        self.study.adapter.report(record.number or 0, epoch, metrics[self._objectives.first], metrics)
        return self.study.scheduler.report(record.id, epoch, self._objectives.gains(metrics))

    def has_ended(self, record: TrialRecord, decision: Decision | None) -> bool:
        """Returns whether a trial of an earlier session has ended for good, by the decision on its last report.

        A trial that waited until the end of that session waits again, since this session may have a larger
        budget.
        """
        waits = self.is_rung(record.last_epoch) and decision in (Decision.PAUSE, Decision.CONTINUE)
        return record.state is not None and not (waits and record.state == PRUNED)

    def start(self, record: TrialRecord, further: int) -> None:
        """Records that a trial, new or resumed, runs for this many further epochs until it may be paused."""
        self.open.add(record.id)
        self.allowance.promise(record.id, self.allowance.promised(record.id) + further)
        if self._pop_waiting(record):
            self.study.scheduler.resume(record.id)
            self.study.adapter.resume(record.number or 0)
            self.best.resume(record.number or 0)

    def go_on(self, record: TrialRecord) -> None:
        """Records that a trial of an earlier session, or one at a rung, runs until it may be paused."""
        self.open.add(record.id)
        self.promise(record, self.until(record.last_epoch))

    def wait(self, record: TrialRecord, *, held: bool) -> None:
        """Records that a trial waits at a rung, `held` or paused."""
        self.open.discard(record.id)
        (self.held if held else self.paused)[record.id] = record
        self.promise(record, record.last_epoch)
        self.study.adapter.pause(record.number or 0, constraints=self._constraints(record))
        self.best.pause(record.number or 0)

    def end(self, record: TrialRecord) -> None:
        """Records that a trial has ended."""
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
        """Promises a trial the epochs up to an epoch, or records that it stays there."""
        self.allowance.promise(record.id, until + record.repeated)

    def is_promised(self, record: TrialRecord, until: int) -> bool:
        """Returns whether a trial has been promised the epochs up to an epoch; one that begins again may have
        been.
        """
        return self.allowance.promised(record.id) >= until + record.repeated

    def pending(self, record: TrialRecord) -> int:
        """Returns the epochs that a trial may still train before it is paused."""
        return max(0, self.allowance.promised(record.id) - record.last_epoch - record.repeated)

    def next_step(self) -> Step | None:
        """Returns the next step by the scheduler and the sampler, whatever it costs; None if there is nothing to do."""
        if self.over:
            return None
        if self.held:
            return self._resumed(next(iter(self.held.values())))
        if (name := self.study.scheduler.next_to_resume(self.paused)) is not None:
            return self._resumed(self.paused[name])
        return Step(None, self.until(0), self.until(0)) if self.num_to_propose else None

    def last_resort(self) -> Step | None:
        """Returns a step for the best trial that waits, if no trial that ran in full may be named the best; else None.

        There is no such step while any trial is running. If trials have run in full but break a constraint,
        only trials that break none so far count.
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
        """Returns the epochs that must remain for one trial to run in full, if a trial starts now that runs
        until an epoch.

        Returns:
            0 if a trial has run in full, or is about to; else the epochs of a full run. Before the first trial these
            are the epochs that it has left itself, so that a budget of one full run suffices for it.
        """
        if self.completed or until >= self._epochs or any(map(self._runs_in_full, self.open)):
            return 0
        return self._epochs - until if until and not self.allowance.total else self._epochs

    def _runs_in_full(self, name: str) -> bool:
        return self.allowance.promised(name) >= self._epochs

    def _resumed(self, record: TrialRecord) -> Step:
        until = self.until(record.last_epoch)
        return Step(record, until, until - (0 if record.dropped else record.last_epoch))

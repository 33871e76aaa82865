"""Search controller: decides which trial is next, and applies each event to the journal, the studies, the schedulers
and the callbacks, in this order. It knows no workers: whoever has some asks for the next trial, reports its epochs, and
releases it when its word is to pause or to stop.

Controls come first, then the trials of every study, then the confirmations (see `pipeline.tune.selection`).
Confirmations of controls need no result, so they run as soon as nothing is left to propose; those of the best
configurations wait until every trial has ended. Trials that are still paused when nothing lets them go on any more
end as pruned; a later session that may spend more has them paused again.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cluster.storage import remove_best_effort
from pipeline.config import Params
from pipeline.tune.budget import EPOCH_BUDGET
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import (
    ASKED_TO_FINISH,
    COMPLETE,
    INFEASIBLE,
    METHOD,
    PRUNED,
    STOP_FILE,
    SearchCallback,
    TrialRecord,
)
from pipeline.tune.objectives.objectives import PARAMETERS, objectives_from_params
from pipeline.tune.requested import RequestedRuns
from pipeline.tune.run_counts import max_confirmation_runs, max_trials, study_allowance
from pipeline.tune.schedulers.scheduler import Decision
from pipeline.tune.search_limits import SearchLimits, pending_epochs
from pipeline.tune.selection.candidates import choice_rule
from pipeline.tune.selection.checkpoints import StoredCheckpoints
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.studies import make_studies
from pipeline.tune.study_trials import Step, StudyTrials


@dataclass(frozen=True)
class Wait:
    """Nothing to start now; ask again when a trial has ended."""


class SearchController:
    """A search in progress.

    folder: its state. gpus, max_concurrent: of a trial, and trials together. count: the parameters of a
    configuration's network; needed where they are an objective, or bounded. stopped: why no further trial is proposed;
    None while some are.
    """

    def __init__(
        self,
        params: Params,
        space: SearchSpace,
        journal: Journal,
        callbacks: Sequence[SearchCallback],
        *,
        fingerprint: str,
        folder: Path,
        gpus: float,
        max_concurrent: int,
        count: Callable[[Mapping[str, Any]], int] | None = None,
    ) -> None:
        self.params, self.space, self.journal = params, space, journal
        self.studies = make_studies(params, space, fingerprint, journal.history.header.get("known", ()))
        self.objectives = objectives_from_params(params)
        trials, allowance, self._epochs = max_trials(params, space), study_allowance(params, space), params.train.epochs
        self._trials = {
            name: StudyTrials(study, params, self.objectives, max_trials=trials, allowance=allowance)
            for name, study in self.studies.items()
        }
        self._requested = RequestedRuns(params, space, journal, self.studies)
        best = self._trials[METHOD].best
        self._limits = SearchLimits(params, space, journal.history, best=best, gpus=gpus, max_concurrent=max_concurrent)
        self.stopped: str | None = None
        self.folder = folder
        self._count = count if PARAMETERS in self.objectives.metrics else None
        self._callbacks = callbacks
        # A search may have thousands of trials, and Ray asks many times a second: what is asked then is counted along.
        self._queue: deque[TrialRecord] = deque()
        self._running: dict[str, TrialRecord] = {}
        self._requeued: deque[TrialRecord] = deque()
        self._to_confirm: deque[TrialRecord] = deque()
        self._decided: dict[str, Decision] = {}
        self._held: set[str] = set()
        self._trials_ended = self._candidates_chosen = False
        most = params.search.keep_checkpoints
        self._checkpoints = None if most is None else StoredCheckpoints(journal, choice_rule(params), most)
        self._announced: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        # Ray pickles what the driver holds into snapshots that we never read; locks and files have no place there.
        return object, ()

    # What was asked for, and what is left of it.

    def requested_trials(self) -> list[TrialRecord]:
        """Controls, the trials of every study that are asked for, and the confirmations of these, in this order."""
        wanted = self._requested.control_runs()
        wanted += [] if self._still_running() else self._requested.candidate_runs()
        trials = self.journal.trials
        return self._requested.trials() + [trials[run.id] for run in wanted if run.id in trials]

    def _still_running(self) -> bool:
        """Whether any trial of a study is still to be proposed, waits, or has not ended. Once none may go on, those
        that wait end.
        """
        if self._trials_ended:
            return False
        if any(trials.open or self._next_step(trials) for trials in self._trials.values()):
            return True
        self._trials_ended = True
        for trials in self._trials.values():
            for record in trials.waiting:
                # Its checkpoint stays, should more be spent later.
                if record.state is None:
                    self.journal.end(record.id, PRUNED)
                self._finish(record)
        return False

    @property
    def num_running(self) -> int:
        """How many runs have been started in this session, have not ended, and wait for no other worker."""
        return len(self._running) - len(self._requeued)

    @property
    def max_remaining(self) -> int:
        """How often runs may still be started at most, a trial after each of its pauses anew."""
        if not self._queue and not self._still_running() and not (self._to_confirm and self._may_confirm()):
            return 0
        starts = sum(trials.max_starts for trials in self._trials.values())
        return len(self._queue) + starts + max_confirmation_runs(self.params, self.space)

    # Bringing everything to where the journal is.

    def replay(self) -> None:
        """Bring studies, rungs and callbacks to where the journal is, and queue controls and what has not ended."""
        records = self._requested.trials()
        for record in records:
            if record.study is not None:
                self.studies[record.study].adapter.replay(record)
        # In the order in which they came, since a rung judges a trial by those that were there before it. A trial that
        # went on after a report was not stopped there; only the word on its last one counts.
        by_id = {record.id: record for record in records}
        decided: dict[str, Decision] = {}
        for name, epoch in dict.fromkeys(self.journal.history.reports):
            if name in by_id:
                decided[name] = self._replay_epoch(by_id[name], epoch)
        for record in records:
            self._replay_record(record, decided.get(record.id))
        self._queue += self._requested.new_controls()
        # A control first, so that a result has something to be compared with from early on.
        self._queue = deque(sorted(self._queue, key=lambda record: not record.control))
        self._enqueue(self._requested.control_runs())
        self._enqueue_candidates()
        self._prune_checkpoints(record for record in self.journal.trials.values() if record.state is not None)
        self._notify(lambda callback: callback.replayed())

    def _replay_epoch(self, record: TrialRecord, epoch: int) -> Decision:
        return self._decide_alone(epoch) if record.study is None else self._trials[record.study].replay(record, epoch)

    def _replay_record(self, record: TrialRecord, decision: Decision | None) -> None:
        self._announce(record)
        trials = None if record.study is None else self._trials[record.study]
        if record.state is not None and (trials is None or trials.has_ended(record, decision)):
            self._finish(record)
        elif decision is Decision.STOP:
            self.end_trial(record.id, self.final_state(record.last_epoch))
        elif trials is not None and trials.is_rung(record.last_epoch):
            # Of one that the scheduler lets go on, it is asked again whether there is room for it in the budget.
            self._wait(trials, record, held=decision is Decision.CONTINUE)
        else:
            if trials is not None:
                trials.go_on(record)
            self._queue.append(record)

    def _announce(self, record: TrialRecord) -> None:
        """Tell the callbacks what an earlier session has done of a trial."""
        self._announced.add(record.id)
        self._notify(lambda callback: callback.trial_started(record))
        for epoch in sorted(record.epochs):
            for callback in self._callbacks:
                callback.epoch_reported(record, epoch)

    def _enqueue(self, runs: Iterable[TrialRecord]) -> None:
        """Have confirmations run, but for those that earlier sessions, in which they were wanted too, have ended."""
        for run in runs:
            record = self.journal.trials.get(run.id)
            if record is None:
                self._to_confirm.append(run)
            else:
                self._replay_record(record, self._decide_alone(record.last_epoch))

    def _enqueue_candidates(self) -> None:
        """Once no trial is running or to come, the best configurations are known, and stay what they are."""
        if not self._candidates_chosen and not self._still_running():
            self._candidates_chosen = True
            self._enqueue(self._requested.candidate_runs())

    # What happens.

    def next_trial(self) -> TrialRecord | Wait | None:
        """The next run to start, recorded; None when all that was asked for has ended.

        What breaks a constraint already now is recorded too, ends, and is not given out.
        """
        if self._requeued:
            return self._requeued.popleft()
        while (record := self._next()) is not None:
            started = self._start(record)
            if started.state is None:
                return started
        return Wait() if self._still_running() or self._running else None

    def _next(self) -> TrialRecord | None:
        if not self._queue:
            self._enqueue_candidates()
        if self._queue:
            return self._queue.popleft()
        steps = [(trials, step) for trials in self._trials.values() if (step := self._next_step(trials)) is not None]
        if steps:
            trials, step = min(steps, key=lambda each: each[0].study.adapter.proposed)
            record = step.record or trials.study.ask()
            trials.start(record, step.further)
            return record
        return self._to_confirm.popleft() if self._to_confirm and self._may_confirm() else None

    def _next_step(self, trials: StudyTrials) -> Step | None:
        """What a study may do next; None while there is nothing, or for good."""
        if self._trials_ended:
            return None
        self.check_stop_request()
        step = trials.next_step()
        if step is not None and not self._admits(trials, step):
            step = None
        if step is None and (last := trials.last_resort()) is not None:
            further = last.further + self._epochs - last.until
            refused = self._limits.refuse_epochs(further, pending=self._pending)
            return last if refused is None and trials.allowance.fits(further) else None
        return step

    def requeue(self, trial_id: str) -> None:
        """Hand out a run once more, which goes on from its checkpoint: Ray gave it up, or its node will not do."""
        self._requeued.append(self.journal.trials[trial_id])

    def _start(self, record: TrialRecord) -> TrialRecord:
        if record.id not in self.journal.trials:
            record = self.journal.start(record)
        else:
            self.journal.resume(record.id)
        self._running[record.id] = record
        if self._count is not None and PARAMETERS not in record.measured:
            self.journal.measured(record.id, {PARAMETERS: self._count(record.values)})
        if record.id not in self._announced:
            self._announce(record)
        if record.study is not None and (broken := self.objectives.explain_infeasible(record.measured)):
            self.end_trial(record.id, INFEASIBLE, "; ".join(broken))
        return record

    def _admits(self, trials: StudyTrials, step: Step) -> bool:
        """Whether a trial may start, or go on from a rung. Once one may not, no other of its study may."""
        if self.stopped is None:
            reason = self._limits.refuse_step(
                step,
                trials,
                self._trials.values(),
                pending=self._pending,
                confirmations=len(self._to_confirm),
                candidates_chosen=self._candidates_chosen,
            )
            if reason is not None:
                self._stop(reason, [trials] if reason.startswith(EPOCH_BUDGET) else self._trials.values())
        return not trials.over

    @property
    def _pending(self) -> int:
        return pending_epochs((*self._queue, *self._running.values()), self._trials, self._epochs)

    def check_stop_request(self) -> None:
        """Propose no more from now on if that has been asked for. May be called at any time, and often."""
        left = self.stopped is None and any(trials.may_go_on for trials in self._trials.values())
        if left and (self.folder / STOP_FILE).exists():
            self._stop(ASKED_TO_FINISH, self._trials.values())

    def _stop(self, reason: str, studies: Iterable[StudyTrials]) -> None:
        """No trial of these studies is proposed, or goes on from a rung, any more."""
        for trials in studies:
            trials.over = True
        if self.stopped is None and all(each.over or not each.may_go_on for each in self._trials.values()):
            self.stopped = reason
            left = len(self._to_confirm) + sum(record.id not in self.journal.trials for record in self._queue)
            left += 0 if self._candidates_chosen else self._requested.max_candidate_runs()
            self._notify(lambda callback: callback.ending_early(reason, len(self._running), left))

    def _may_confirm(self) -> bool:
        """Confirmations are within what the budget has set aside, unless the pace has changed a lot."""
        reason = self._limits.refuse_epochs(self._epochs, pending=self._pending)
        if reason is not None and self.stopped is None:
            self.stopped = reason
        return reason is None

    def report(
        self,
        trial_id: str,
        epoch: int,
        metrics: Mapping[str, float],
        node: str | None = None,
        scores: str | None = None,
        usage: Mapping[str, float] | None = None,
    ) -> Decision:
        """Take a finished epoch in; what becomes of the trial. With the word to pause or to stop, its worker is to let
        it go, and `release` is to be called then.

        Args:
            trial_id: Of the journal.
            epoch: Counted from 1.
            metrics: By name.
            node: Of a cluster, where it was trained.
            scores: Of the validation images, packed, if they are known.
            usage: Of the machine, by name, if it was measured; it decides nothing.
        """
        if trial_id in self._decided:
            return self._decided[trial_id]  # its worker died before it heard, and has gone on
        record = self.journal.trials[trial_id]
        self.journal.report(trial_id, epoch, metrics, node, scores, usage)
        trials = None if record.study is None else self._trials[record.study]
        decision = self._decide_alone(epoch) if trials is None else self._decide(trials, record, epoch)
        if decision is not Decision.CONTINUE:
            self._decided[trial_id] = decision
        self._notify(lambda callback: callback.epoch_reported(record, epoch))
        return decision

    def _decide_alone(self, epoch: int) -> Decision:
        """Of a control or a confirmation, which is in no study."""
        return Decision.STOP if epoch >= self._epochs else Decision.CONTINUE

    def _decide(self, trials: StudyTrials, record: TrialRecord, epoch: int) -> Decision:
        decision, until = trials.report(record, epoch), trials.until(epoch)
        if decision is Decision.CONTINUE and trials.is_rung(epoch) and not trials.is_promised(record, until):
            # To go on from a rung is to start once more: it must fit into what is left.
            if not self._admits(trials, Step(record, until, until - epoch)):
                self._held.add(record.id)
                return Decision.PAUSE
            trials.go_on(record)
        return decision

    def is_decided(self, trial_id: str) -> bool:
        """Whether a trial has been told to pause or to stop, and not been released."""
        return trial_id in self._decided

    def release(self, trial_id: str) -> None:
        """A worker has let a trial go, as it was told to: the trial is paused, or has ended."""
        decision, record = self._decided.pop(trial_id, None), self.journal.trials[trial_id]
        if decision is not Decision.PAUSE:
            self.end_trial(trial_id, self.final_state(record.last_epoch))
            return
        self._running.pop(trial_id, None)
        self._wait(self._trials[record.study or METHOD], record, held=trial_id in self._held)
        self._held.discard(trial_id)
        self._prune_checkpoints(())

    def _wait(self, trials: StudyTrials, record: TrialRecord, *, held: bool) -> None:
        """A trial waits at a rung from now on. held: it may go on from there as soon as there is room for it."""
        if not record.paused and record.state is None:
            self.journal.pause(record.id)
        trials.wait(record, held=held)
        self._notify(lambda callback: callback.trial_paused(record))

    def checkpoint(self, trial_id: str, path: str) -> None:
        before = self.journal.trials[trial_id].checkpoint
        self.journal.checkpoint(trial_id, path)
        # Ray removes what it has made in this session; what an earlier one left is ours to remove.
        if before and Path(before).parent != Path(path).parent:
            remove_best_effort([before])

    def end_trial(self, trial_id: str, state: str, reason: str | None = None) -> None:
        self.journal.end(trial_id, state, reason)
        record = self.journal.trials[trial_id]
        self._running.pop(trial_id, None)
        self._decided.pop(trial_id, None)
        self._finish(record)
        self._prune_checkpoints([record])

    def final_state(self, epoch: int) -> str:
        """The state of a trial that has stopped after an epoch: schedulers also "stop" those that ran in full."""
        return COMPLETE if epoch >= self._epochs else PRUNED

    def _finish(self, record: TrialRecord) -> None:
        if record.study is not None:
            self._trials[record.study].end(record)
        self._notify(lambda callback: callback.trial_ended(record))

    def _prune_checkpoints(self, ended: Iterable[TrialRecord]) -> None:
        """Remove the checkpoints of those that have ended now, or are no longer among the best."""
        if self._checkpoints is None:
            return
        found = sorted(each for trials in self._trials.values() for each in trials.prospects())
        gone = [record for record in ended if not record.control and not self._may_wait(record)]
        self._checkpoints.prune(gone, [self.journal.trials[name] for _, name in found], self._requested.includes)

    def _may_wait(self, record: TrialRecord) -> bool:
        return record.study in self._trials and self._trials[record.study].may_wait(record)

    def _notify(self, say: Callable[[SearchCallback], None]) -> None:
        for callback in self._callbacks:
            say(callback)

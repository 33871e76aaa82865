"""Search controller: decides which trial runs next and applies every event.

An event is applied to the journal, the studies, the schedulers and the callbacks, in this order. The controller
knows no workers. Its caller asks for the next trial, reports the trial's epochs, and calls `release` after a
decision to pause or to stop.

Controls come first, then the trials of every study, then the confirmations (see `pipeline.tune.selection`).
Confirmations of controls depend on no result, so they run as soon as nothing is left to propose. Confirmations
of the best configurations start when every trial has ended. Trials that are still paused when no trial may go
on any more end as pruned. A later session with a larger budget pauses them again, and they may go on.
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
    CONFIRMATION,
    INFEASIBLE,
    METHOD,
    PRUNED,
    STOP_FILE,
    SearchCallback,
    TrialRecord,
)
from pipeline.tune.objectives.objectives import PARAMETERS, objectives_from_params
from pipeline.tune.requested import RequestedRuns, surplus_runs
from pipeline.tune.run_counts import max_confirmation_runs, max_trials, study_allowance
from pipeline.tune.schedulers.scheduler import Decision
from pipeline.tune.search_limits import SearchLimits, pending_epochs
from pipeline.tune.selection.candidates import choice_rule
from pipeline.tune.selection.checkpoints import StoredCheckpoints
from pipeline.tune.space import SearchSpace
from pipeline.tune.stacks import StackSizes
from pipeline.tune.study.studies import make_studies
from pipeline.tune.study_trials import Step, StudyTrials


@dataclass(frozen=True)
class Wait:
    """Answer of `next_trial` while nothing can start; the caller asks again when a trial has ended."""


class SearchController:
    """Controller of a search in progress.

    Args:
        params: All parameters.
        space: The search space.
        journal: The search's journal, opened for writing.
        callbacks: Called at every event, in this order.
        fingerprint: The search's fingerprint, after which its studies are named.
        folder: The search's state directory.
        gpus: GPUs of one trial; may be a fraction.
        max_concurrent: Number of trials that run at the same time.
        count: Returns the number of parameters of a configuration's network. Needed if that number is an
            objective or bounded by a constraint.

    Attributes:
        stopped: Reason for which no further trial is proposed, in words; None while trials may be proposed.
        stack_sizes: How many confirmations of a configuration a worker trains together.
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
        # A lowered budget is spent by what it no longer asks for too, or the search would go on beyond it.
        surplus = sum(record.trained_epochs for record in surplus_runs(journal.trials, params, space))
        self._limits = SearchLimits(
            params,
            space,
            journal.history,
            best=best,
            gpus=gpus,
            max_concurrent=max_concurrent,
            surplus=surplus // len(self.studies),
        )
        self.stopped: str | None = None
        self.stack_sizes = StackSizes(params, gpus=gpus, slots=max_concurrent)
        self.folder = folder
        self._count = count if PARAMETERS in self.objectives.metrics else None
        self._callbacks = callbacks
        # Ray Tune polls many times a second, and a search may have thousands of trials. What a poll needs is therefore
        # updated at each event instead of being computed from the journal.
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
        # Ray pickles the driver's objects into snapshots that this project never reads. Locks and open files cannot be
        # pickled, so an empty object takes the controller's place.
        return object, ()

    # Requested runs, and how many are left.

    def requested_trials(self) -> list[TrialRecord]:
        """Returns controls, the requested trials of every study, and their confirmations, in this order."""
        wanted = self._requested.control_runs()
        wanted += [] if self._still_running() else self._requested.candidate_runs()
        trials = self.journal.trials
        return self._requested.trials() + [trials[run.id] for run in wanted if run.id in trials]

    def _still_running(self) -> bool:
        """Returns whether any trial of a study is still to be proposed, waits, or has not ended.

        When no trial may go on any more, this ends the trials that wait.
        """
        if self._trials_ended:
            return False
        if any(trials.open or self._next_step(trials) for trials in self._trials.values()):
            return True
        self._trials_ended = True
        for trials in self._trials.values():
            for record in trials.waiting:
                # The checkpoint is not removed: a later session with a larger budget may resume the trial.
                if record.state is None:
                    self.journal.end(record.id, PRUNED)
                self._finish(record)
        return False

    @property
    def num_running(self) -> int:
        """Number of workers with runs that were started in this session, have not ended, and are not queued again."""
        stacks, queued = self.journal.history.stacks, {record.id for record in self._requeued}
        return len({stacks.get(name, name) for name in self._running if name not in queued})

    @property
    def max_remaining(self) -> int:
        """Largest number of starts still to come; a trial counts once more after each of its pauses."""
        if not self._queue and not self._still_running() and not (self._to_confirm and self._may_confirm()):
            return 0
        starts = sum(trials.max_starts for trials in self._trials.values())
        return len(self._queue) + starts + max_confirmation_runs(self.params, self.space)

    # Replay of the journal.

    def replay(self) -> None:
        """Replays the journal into studies, rungs and callbacks, and queues controls and runs that have not ended."""
        records = self._requested.trials()
        for record in records:
            if record.study is not None:
                self.studies[record.study].adapter.replay(record)
        # Reports are replayed in the order in which they arrived, since a rung compares a trial with the trials that
        # reached it before. A trial that went on after a report was not stopped there, so only the decision on its last
        # report counts.
        by_id = {record.id: record for record in records}
        decided: dict[str, Decision] = {}
        for name, epoch in dict.fromkeys(self.journal.history.reports):
            if name in by_id:
                decided[name] = self._replay_epoch(by_id[name], epoch)
        for record in records:
            self._replay_record(record, decided.get(record.id))
        self._queue += self._requested.new_controls()
        # Controls come first, so that results can be compared with a control from early on.
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
            # A trial that the scheduler lets go on counts as held: before it resumes, the budget is checked again.
            self._wait(trials, record, held=decision is Decision.CONTINUE)
        else:
            if trials is not None:
                trials.go_on(record)
            self._queue.append(record)

    def _announce(self, record: TrialRecord) -> None:
        """Notifies the callbacks of a trial's start and of the epochs that an earlier session has recorded."""
        self._announced.add(record.id)
        self._notify(lambda callback: callback.trial_started(record))
        for epoch in sorted(record.epochs):
            for callback in self._callbacks:
                callback.epoch_reported(record, epoch)

    def _enqueue(self, runs: Iterable[TrialRecord]) -> None:
        """Queues confirmations; those that an earlier session has started are replayed instead."""
        for run in runs:
            record = self.journal.trials.get(run.id)
            if record is None:
                self._to_confirm.append(run)
            else:
                self._replay_record(record, self._decide_alone(record.last_epoch))

    def _enqueue_candidates(self) -> None:
        """Queues the confirmations of the best configurations, once no trial of a study runs or is to come.

        This happens once: the candidates do not change afterwards.
        """
        if not self._candidates_chosen and not self._still_running():
            self._candidates_chosen = True
            self._enqueue(self._requested.candidate_runs())

    # Events.

    def next_trial(self) -> TrialRecord | Wait | None:
        """Returns the next run to start, after recording its start.

        A trial that breaks a constraint before training is recorded too, ends as infeasible, and is not
        returned.

        Returns:
            The run; `Wait` while nothing can start; None when every requested run has ended.
        """
        if self._requeued:
            again = self._requeued.popleft()
            if again.id in self.journal.history.stacks:
                self.journal.resume(again.id)  # its time in the queue is no worker's, and it has left the stack
            return again
        while (record := self._next()) is not None:
            started = self._start(record)
            if started.state is None:
                return started
        return Wait() if self._still_running() or self._running else None

    def next_companions(self, record: TrialRecord) -> list[TrialRecord]:
        """Returns further confirmations that one worker trains together with a run, after recording their start.

        They repeat the same configuration and have been trained as many epochs.

        Args:
            record: The run, which `next_trial` has just returned.
        """
        if record.role != CONFIRMATION or record.of is None or not self.stack_sizes.any:
            return []
        queues = (self._requeued, self._queue, self._to_confirm)
        waiting = [(queue, run) for queue in queues for run in queue if run.role == CONFIRMATION]
        most = self.stack_sizes.most(record.of, 1 + len(waiting))
        found: list[TrialRecord] = []
        for queue, run in waiting:
            if run.of != record.of or run.last_epoch != record.last_epoch:
                continue
            if 1 + len(found) >= most or (queue is self._to_confirm and not self._may_confirm()):
                break
            queue.remove(run)
            found.append(self._start(run, beside=record.id))
        return found

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
        """Returns a study's next step; None if it has none now, or will have none any more."""
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
        """Queues a run again, to resume from its checkpoint: Ray gave it up, or its node was rejected."""
        self._requeued.append(self.journal.trials[trial_id])

    def give_back(self, trial_ids: Sequence[str], size: int) -> None:
        """Queues the runs of a stack again, to be trained in stacks of another size.

        Args:
            trial_ids: Their ids in the journal.
            size: The largest size that is worth it; 1 for single runs.
        """
        self.journal.give_back(trial_ids[0])
        for trial_id in trial_ids:
            self.stack_sizes.limit(self.journal.trials[trial_id].of or trial_id, size)
            self.requeue(trial_id)

    def _start(self, record: TrialRecord, beside: str | None = None) -> TrialRecord:
        """Records the start of a run.

        Args:
            record: The run.
            beside: The run that stands for its stack in the journal; None outside of a stack.
        """
        if record.id not in self.journal.trials:
            record = self.journal.start(record, beside)
        else:
            self.journal.resume(record.id, beside)
        self._running[record.id] = record
        if self._count is not None and PARAMETERS not in record.measured:
            self.journal.measured(record.id, {PARAMETERS: self._count(record.values)})
        if record.id not in self._announced:
            self._announce(record)
        if record.study is not None and (broken := self.objectives.explain_infeasible(record.measured)):
            self.end_trial(record.id, INFEASIBLE, "; ".join(broken))
        return record

    def _admits(self, trials: StudyTrials, step: Step) -> bool:
        """Returns whether a trial may start, or go on from a rung; after a refusal no trial of its study may."""
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
        """Stops proposing trials if the user has asked for it. May be called at any time, and often."""
        left = self.stopped is None and any(trials.may_go_on for trials in self._trials.values())
        if left and (self.folder / STOP_FILE).exists():
            self._stop(ASKED_TO_FINISH, self._trials.values())

    def _stop(self, reason: str, studies: Iterable[StudyTrials]) -> None:
        """Ends studies: they propose no further trials, and their paused trials are not resumed.

        Running trials continue. If no study can continue after that, the search is marked as stopped, and the
        callbacks receive `ending_early`.

        Args:
            reason: Why the studies end, in words for the user.
            studies: The studies to end.
        """
        for trials in studies:
            trials.over = True
        if self.stopped is None and all(each.over or not each.may_go_on for each in self._trials.values()):
            self.stopped = reason
            left = len(self._to_confirm) + sum(record.id not in self.journal.trials for record in self._queue)
            left += 0 if self._candidates_chosen else self._requested.max_candidate_runs()
            self._notify(lambda callback: callback.ending_early(reason, len(self._running), left))

    def _may_confirm(self) -> bool:
        """Returns whether the limits of the budget allow one more confirmation.

        The budget has reserved epochs for confirmations, so this fails only if the pace has changed a lot.
        """
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
        """Records a finished epoch and decides what the trial does next.

        After a decision to pause or to stop, the trial must leave its worker, and `release` must be called.

        Args:
            trial_id: The trial's id in the journal.
            epoch: Number of the epoch, counted from 1.
            metrics: The epoch's metrics by name.
            node: The cluster's node that trained it; None on this machine.
            scores: Packed scores of the validation images (see `pipeline.tune.journal.image_scores`); None if
                not available.
            usage: Usage of the machine by name; None if it was not measured. It affects no decision.

        Returns:
            Whether the trial goes on, pauses or stops.
        """
        if trial_id in self._decided:
            return self._decided[trial_id]  # the worker died before the decision reached it, and trained on
        record = self.journal.trials[trial_id]
        self.journal.report(trial_id, epoch, metrics, node, scores, usage)
        trials = None if record.study is None else self._trials[record.study]
        decision = self._decide_alone(epoch) if trials is None else self._decide(trials, record, epoch)
        if decision is not Decision.CONTINUE:
            self._decided[trial_id] = decision
        self._notify(lambda callback: callback.epoch_reported(record, epoch))
        return decision

    def _decide_alone(self, epoch: int) -> Decision:
        """Returns the decision on a control or a confirmation, which is in no study."""
        return Decision.STOP if epoch >= self._epochs else Decision.CONTINUE

    def _decide(self, trials: StudyTrials, record: TrialRecord, epoch: int) -> Decision:
        """Returns the decision of the study's scheduler, or to pause if the budget has no room for a trial to go on.

        Args:
            trials: The trials of the study.
            record: The trial.
            epoch: The epoch that it has reported.
        """
        decision, until = trials.report(record, epoch), trials.until(epoch)
        if decision is Decision.CONTINUE and trials.is_rung(epoch) and not trials.is_promised(record, until):
            # Going on from a rung counts as a start: the further epochs must fit into the rest of the budget.
            if not self._admits(trials, Step(record, until, until - epoch)):
                self._held.add(record.id)
                return Decision.PAUSE
            trials.go_on(record)
        return decision

    def is_decided(self, trial_id: str) -> bool:
        """Returns whether a trial is to pause or to stop by its last report, and has not been released."""
        return trial_id in self._decided

    def release(self, trial_id: str) -> None:
        """Records that a worker has left a trial after the decision to pause or to stop: the trial is paused,
        or has ended.
        """
        decision, record = self._decided.pop(trial_id, None), self.journal.trials[trial_id]
        if decision is not Decision.PAUSE:
            self.end_trial(trial_id, self.final_state(record.last_epoch))
            return
        self._running.pop(trial_id, None)
        self._wait(self._trials[record.study or METHOD], record, held=trial_id in self._held)
        self._held.discard(trial_id)
        self._prune_checkpoints(())

    def _wait(self, trials: StudyTrials, record: TrialRecord, *, held: bool) -> None:
        """Records that a trial waits at a rung.

        Args:
            trials: The trials of its study.
            record: The trial.
            held: Whether it waits for room in the budget only, and goes on as soon as there is some.
        """
        if not record.paused and record.state is None:
            self.journal.pause(record.id)
        trials.wait(record, held=held)
        self._notify(lambda callback: callback.trial_paused(record))

    def checkpoint(self, trial_id: str, path: str) -> None:
        """Records the newest checkpoint of a trial, and removes the previous one if an earlier session wrote it."""
        before = self.journal.trials[trial_id].checkpoint
        self.journal.checkpoint(trial_id, path)
        # Ray removes the checkpoints of its own trial itself, but not those of earlier sessions.
        if before and _trial_folder(before) != _trial_folder(path):
            remove_best_effort([before])

    def end_trial(self, trial_id: str, state: str, reason: str | None = None) -> None:
        """Records that a trial has ended.

        Args:
            trial_id: The trial's id in the journal.
            state: Its final state (see `pipeline.tune.journal.records`).
            reason: Why it ended in this state, in words; None if there is nothing to say.
        """
        self.journal.end(trial_id, state, reason)
        record = self.journal.trials[trial_id]
        self._running.pop(trial_id, None)
        self._decided.pop(trial_id, None)
        self._finish(record)
        self._prune_checkpoints([record])

    def final_state(self, epoch: int) -> str:
        """Returns the state of a trial that has stopped after an epoch; schedulers also stop full trials."""
        return COMPLETE if epoch >= self._epochs else PRUNED

    def _finish(self, record: TrialRecord) -> None:
        if record.study is not None:
            self._trials[record.study].end(record)
        self._notify(lambda callback: callback.trial_ended(record))

    def _prune_checkpoints(self, ended: Iterable[TrialRecord]) -> None:
        """Removes checkpoints of trials that have just ended, or are no longer among the best."""
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


def _trial_folder(checkpoint: str) -> Path:
    """Returns the folder of Ray's trial with a checkpoint, which in a stack is a sub-folder of Ray's checkpoint."""
    folder = Path(checkpoint).parent
    return folder.parent if folder.name.startswith("checkpoint_") else folder

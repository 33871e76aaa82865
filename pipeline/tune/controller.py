"""Search controller: decides which trial is next, and applies each event to the journal, the studies, the stopping
rules and the callbacks, in this order. It knows no workers.

Controls come first, then the trials of every study, then the confirmations (see `pipeline.tune.selection`).
Confirmations of controls need no result, so they run as soon as nothing is left to propose; those of the best
configurations wait until every trial has ended.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cluster.storage import remove_best_effort
from pipeline.config import Params
from pipeline.tune.budget import BestSoFar, Budget, BudgetState, exhausted_limit
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import (
    ASKED_TO_FINISH,
    COMPLETE,
    CONFIRMATION,
    CONTROL,
    CONTROL_STUDY,
    INFEASIBLE,
    METHOD,
    OBJECTIVE,
    PRUNED,
    STOP_FILE,
    SearchCallback,
    TrialRecord,
)
from pipeline.tune.objectives.objectives import PARAMETERS, is_valid_result, objectives_from_params
from pipeline.tune.ray.scheduler import STOP, SearchScheduler
from pipeline.tune.run_counts import control_seeds, max_candidate_runs, max_confirmation_runs, max_trials
from pipeline.tune.selection.candidates import choice_rule, empty_share, rank_trials, select_candidates
from pipeline.tune.selection.confirm import confirmation_runs
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.studies import StudyWithRule, make_studies
from pipeline.tune.study.study import EMPTY_SHARE


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
        self.scheduler = SearchScheduler(
            {name: study.rule for name, study in self.studies.items()}, params.train.epochs
        )
        self.stopped: str | None = None
        self.folder, self._gpus, self._max_concurrent = folder, gpus, max_concurrent
        self.objectives = objectives_from_params(params)
        self._count = count if PARAMETERS in self.objectives.metrics else None
        self._max_trials = max_trials(params, space)
        self._budget = Budget(**params.search.budget.model_dump())
        self._callbacks = callbacks
        # A search may have thousands of trials, and Ray asks many times a second: what is asked then is counted along.
        self._queue: deque[TrialRecord] = deque()
        self._running: dict[str, TrialRecord] = {}
        self._requeued: deque[TrialRecord] = deque()
        self._to_confirm: deque[TrialRecord] = deque()
        self._candidates_chosen = False
        self._unfinished: set[str] = set()
        self._best = BestSoFar()
        self._checkpointed: dict[str, TrialRecord] = {}
        self._announced: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        # Ray pickles what the driver holds into snapshots that we never read; locks and files have no place there.
        return object, ()

    # What was asked for, and what is left of it.

    def _is_requested(self, record: TrialRecord) -> bool:
        """Whether a record of a study, or a control, belongs to what the parameters ask for now."""
        if record.role == CONFIRMATION:
            return False
        if record.study is None:
            return record.id in self.space.controls
        return record.study in self.studies and (record.number or 0) < self._max_trials

    def requested_trials(self) -> list[TrialRecord]:
        """Controls, the first `search.trials` trials of every study, and the confirmations of these, in this order.

        An earlier run of the search may have more of each.
        """
        wanted = self._control_runs() + ([] if self._still_running() else self._candidate_runs())
        trials = self.journal.trials
        return self._search_trials() + [trials[run.id] for run in wanted if run.id in trials]

    def _search_trials(self) -> list[TrialRecord]:
        records = [record for record in self.journal.trials.values() if self._is_requested(record)]
        order = {CONTROL: 0, METHOD: 1, CONTROL_STUDY: 2}
        return sorted(records, key=lambda r: (order[r.study or r.role], -1 if r.number is None else r.number))

    def _control_runs(self) -> list[TrialRecord]:
        """The runs of controls with further seeds."""
        runs = []
        for name, seeds in control_seeds(self.params, self.space).items():
            control = TrialRecord(name, None, dict(self.space.controls[name]), role=CONTROL)
            runs += confirmation_runs(control, seeds, base_seed=self.params.base.seed)
        return runs

    def _candidate_runs(self) -> list[TrialRecord]:
        """The runs of the best configurations with further seeds, by what is known now."""
        search, tried = self.params.search, self._search_trials()
        runs = []
        for study in self.studies:
            trials = [record for record in tried if record.study == study]
            for best in select_candidates(trials, choice_rule(self.params), self.journal.correct):
                runs += confirmation_runs(best, search.confirm.seeds, base_seed=self.params.base.seed)
        return runs

    def _still_running(self) -> bool:
        """Whether any trial of a study is still to be proposed, or has not ended."""
        return bool(self._unfinished) or self._may_propose()

    @property
    def num_running(self) -> int:
        """How many runs have been started in this session, have not ended, and wait for no other worker."""
        return len(self._running) - len(self._requeued)

    @property
    def max_remaining(self) -> int:
        """How many runs may still be started at most."""
        if not self._queue and not self._still_running() and not (self._to_confirm and self._may_confirm()):
            return 0
        to_propose = sum(study.adapter.num_to_propose(self._max_trials) for study in self.studies.values())
        return len(self._queue) + to_propose + max_confirmation_runs(self.params, self.space)

    # Bringing everything to where the journal is.

    def replay(self) -> None:
        """Bring studies, rungs and callbacks to where the journal is, and queue controls and what has not ended."""
        records = self._search_trials()
        for record in records:
            if (study := self._study_of(record)) is not None:
                study.adapter.replay(record)
                if record.state is None:
                    self._unfinished.add(record.id)
        # In the order in which they came, since a rung judges a trial by those that were there before it. A trial that
        # went on after a report was not stopped there; only the word on its last one counts.
        by_id = {record.id: record for record in records}
        decided = {}
        for name, epoch in dict.fromkeys(self.journal.history.reports):
            if name in by_id:
                decided[name] = self._replay_epoch(by_id[name], epoch)
        for record in records:
            self._replay_record(record, stopped=decided.get(record.id) == STOP)
        for name, values in self.space.controls.items():
            if name not in self.journal.trials:
                self._queue.append(TrialRecord(name, None, dict(values), role=CONTROL))
        # A control first, so that a result has something to be compared with from early on.
        self._queue = deque(sorted(self._queue, key=lambda record: not record.control))
        self._enqueue(self._control_runs())
        self._enqueue_candidates()
        self._prune_checkpoints(self.journal.trials.values())
        self._notify(lambda callback: callback.replayed())

    def _replay_epoch(self, record: TrialRecord, epoch: int) -> str:
        metrics = record.epochs[epoch]
        if (study := self._study_of(record)) is not None:
            study.adapter.report(record.number or 0, epoch, metrics[OBJECTIVE])
        return self.scheduler.replay(record, epoch, metrics)

    def _replay_record(self, record: TrialRecord, *, stopped: bool) -> None:
        self._announce(record)
        if record.state is not None:
            self._finish(record)
        elif stopped:
            self.end_trial(record.id, self.final_state(record.last_epoch))
        else:
            self._queue.append(record)

    def _announce(self, record: TrialRecord) -> None:
        """Tell the callbacks what an earlier session has done of a trial."""
        self._announced.add(record.id)
        self._notify(lambda callback: callback.trial_started(record))
        for epoch in sorted(record.epochs):
            self._notify(partial(_report_to, record, epoch))

    def _enqueue(self, runs: Iterable[TrialRecord]) -> None:
        """Have confirmations run, but for those that earlier sessions, in which they were wanted too, have ended."""
        for run in runs:
            record = self.journal.trials.get(run.id)
            if record is None:
                self._to_confirm.append(run)
            else:
                self._replay_record(record, stopped=record.last_epoch >= self.params.train.epochs)

    def _enqueue_candidates(self) -> None:
        """Once no trial is running or to come, the best configurations are known, and stay what they are."""
        if not self._candidates_chosen and not self._still_running():
            self._candidates_chosen = True
            self._enqueue(self._candidate_runs())

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
        if self._may_propose():
            return min(self._proposing(), key=lambda study: study.adapter.proposed).ask()
        return self._to_confirm.popleft() if self._to_confirm and self._may_confirm() else None

    def requeue(self, trial_id: str) -> None:
        """Hand out a run once more, which goes on from its checkpoint: Ray gave it up, or its node will not do."""
        self._requeued.append(self.journal.trials[trial_id])

    def _start(self, record: TrialRecord) -> TrialRecord:
        if record.id in self.journal.trials:
            self.journal.resume(record.id)
        else:
            record = self.journal.start(record)
        self._running[record.id] = record
        if record.study is not None:
            self._unfinished.add(record.id)
        if self._count is not None and PARAMETERS not in record.measured:
            self.journal.measured(record.id, {PARAMETERS: self._count(record.values)})
        if record.id not in self._announced:
            self._announce(record)
        if record.study is not None and (broken := self.objectives.explain_infeasible(record.measured)):
            self.end_trial(record.id, INFEASIBLE, "; ".join(broken))
        return record

    def _proposing(self) -> list[StudyWithRule]:
        """The studies of which trials are still to be proposed."""
        return [study for study in self.studies.values() if study.adapter.num_to_propose(self._max_trials)]

    def _may_propose(self) -> bool:
        if not self._proposing():
            return False
        self.check_stop_request()
        if self.stopped is None and (reason := exhausted_limit(self._budget, self._budget_state())) is not None:
            self._stop(reason)
        return self.stopped is None

    def check_stop_request(self) -> None:
        """Propose no more from now on if that has been asked for. May be called at any time, and often."""
        if self.stopped is None and (self.folder / STOP_FILE).exists() and self._proposing():
            self._stop(ASKED_TO_FINISH)

    def _stop(self, reason: str) -> None:
        self.stopped = reason
        left = len(self._to_confirm) + sum(record.id not in self.journal.trials for record in self._queue)
        if not self._candidates_chosen:
            tried = [record.study for record in self._search_trials()]
            confirm = self.params.search.confirm
            left += sum(min(confirm.top, tried.count(study)) * confirm.seeds for study in self.studies)
        self._notify(lambda callback: callback.ending_early(reason, len(self._running), left))

    def _may_confirm(self) -> bool:
        """Confirmations are within what the budget has set aside, unless the pace has changed a lot."""
        budget_state = self._budget_state(confirming=True)
        hard = Budget(self._budget.hours, self._budget.gpu_hours, self._budget.cost, self._budget.price_per_gpu_hour)
        reason = exhausted_limit(hard, budget_state)
        if reason is not None and self.stopped is None:
            self.stopped = reason
        return reason is None

    def _budget_state(self, *, confirming: bool = False) -> BudgetState:
        """Where the search stands. Pending are the rest of what runs and, before them, the confirmations."""
        epochs, history = self.params.train.epochs, self.journal.history
        further = 0
        if not confirming:
            further = len(self._to_confirm)
            if not self._candidates_chosen:
                further += max_candidate_runs(self.params, self.space)
        return BudgetState(
            seconds=history.seconds,
            gpu_seconds=history.gpu_seconds,
            pending_epochs=sum(epochs - record.last_epoch for record in (*self._queue, *self._running.values())),
            pending_runs=further,
            trial_epochs=epochs,
            seconds_per_epoch=history.busy_s / history.epochs if history.epochs else None,
            gpus=self._gpus,
            max_concurrent=self._max_concurrent,
            best=self._best.value,
            since_best=self._best.since,
        )

    def report(
        self,
        trial_id: str,
        epoch: int,
        metrics: Mapping[str, float],
        node: str | None = None,
        correct: str | None = None,
    ) -> None:
        """Take a finished epoch in. correct: which validation images were right, packed, if it is known."""
        record = self.journal.trials[trial_id]
        self.journal.report(trial_id, epoch, metrics, node, correct)
        if (study := self._study_of(record)) is not None:
            study.adapter.report(record.number or 0, epoch, metrics[OBJECTIVE])
        self._notify(lambda callback: callback.epoch_reported(record, epoch))

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
        self._unfinished.discard(trial_id)
        self._finish(record)
        self._prune_checkpoints([record])

    def final_state(self, epoch: int) -> str:
        """The state of a trial that has stopped after an epoch: ASHA also "stops" those that ran in full."""
        return COMPLETE if epoch >= self.params.train.epochs else PRUNED

    def _finish(self, record: TrialRecord) -> None:
        if (study := self._study_of(record)) is not None:
            allowed = self.params.search.max_empty_share
            constraints = {EMPTY_SHARE: empty_share(record) - allowed} if record.epochs else {}
            constraints |= self.objectives.violations(record.metric)
            assert record.state is not None
            study.adapter.tell(
                record.number or 0, record.state, *self.objectives.objective_values(record), constraints=constraints
            )
            if study.name == METHOD:
                value = record.metric(OBJECTIVE) if is_valid_result(record, self.objectives) else None
                self._best.add(record.number or 0, value)
        self._notify(lambda callback: callback.trial_ended(record))

    def _prune_checkpoints(self, ended: Iterable[TrialRecord]) -> None:
        """Remove the checkpoints of those that have ended now, or are no longer among the best.

        Kept are those of controls, of the best `search.keep_checkpoints` trials, and of what may be confirmed.
        """
        search = self.params.search
        there = self._checkpointed | {r.id: r for r in ended if r.state is not None and not r.control and r.checkpoint}
        trials = [record for record in there.values() if record.study is not None]
        best = rank_trials(trials, choice_rule(self.params))[: search.keep_checkpoints]
        for study in self.studies:
            of_study = [record for record in trials if record.study == study and self._is_requested(record)]
            best += select_candidates(of_study, choice_rule(self.params), self.journal.correct)
        self._checkpointed = {record.id: record for record in best}
        remove_best_effort(
            [
                record.checkpoint
                for record in there.values()
                if record.id not in self._checkpointed and record.checkpoint
            ]
        )

    def _study_of(self, record: TrialRecord) -> StudyWithRule | None:
        return None if record.study is None else self.studies[record.study]

    def _notify(self, say: Callable[[SearchCallback], None]) -> None:
        for callback in self._callbacks:
            say(callback)


def _report_to(record: TrialRecord, epoch: int, callback: SearchCallback) -> None:
    callback.epoch_reported(record, epoch)

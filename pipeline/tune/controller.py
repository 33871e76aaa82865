"""The course of a search: what is to run next, and ledger, studies, rungs and listeners kept in step. Knows no workers.

Controls come first, then the trials of every study, then the confirmations (see `pipeline.tune.selection.confirm`).
Those of the controls need no result, so they run as soon as nothing is left to propose; those of the best settings
wait until every trial has ended.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cluster.storage import let_go
from pipeline.config import Params
from pipeline.tune.budget import Account, BestSoFar, Budget, why_stop
from pipeline.tune.journal.journal import (
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
    Ledger,
    SearchListener,
    TrialRecord,
)
from pipeline.tune.objectives.objectives import PARAMETERS, goals_of, is_result
from pipeline.tune.ray.scheduler import STOP, SearchScheduler
from pipeline.tune.run_counts import candidate_runs_at_most, control_seeds, further_runs
from pipeline.tune.selection.confirm import candidates, confirmations, empty_share
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.studies import Arm, make_arms
from pipeline.tune.study.study import EMPTY_SHARE


@dataclass(frozen=True)
class Wait:
    """Nothing to start now; ask again when a trial has ended."""


class Course:
    """A search in progress.

    folder: its state. gpus, at_a_time: of a trial, and trials together. count: the parameters of a setting's network;
    needed where they are an objective, or bounded. stopped: why no further trial is proposed; None while some are.
    """

    def __init__(
        self,
        params: Params,
        space: SearchSpace,
        ledger: Ledger,
        listeners: Sequence[SearchListener],
        *,
        fingerprint: str,
        folder: Path,
        gpus: float,
        at_a_time: int,
        count: Callable[[Mapping[str, Any]], int] | None = None,
    ) -> None:
        self.params, self.space, self.ledger = params, space, ledger
        self.arms = make_arms(params, space, fingerprint, ledger.history.header.get("known", ()))
        self.scheduler = SearchScheduler({name: arm.rule for name, arm in self.arms.items()}, params.train.epochs)
        self.stopped: str | None = None
        self.folder, self._gpus, self._at_a_time = folder, gpus, at_a_time
        self.goals = goals_of(params)
        self._count = count if PARAMETERS in self.goals.metrics else None
        self._budget = Budget(**params.search.budget.model_dump())
        self._listeners = listeners
        # A search may have thousands of trials, and Ray asks many times a second: what is asked then is counted along.
        self._queue: deque[TrialRecord] = deque()
        self._at_work: dict[str, TrialRecord] = {}
        self._given_up: deque[TrialRecord] = deque()
        self._to_confirm: deque[TrialRecord] = deque()
        self._candidates_known = False
        self._unfinished: set[str] = set()
        self._best = BestSoFar()
        self._kept: dict[str, TrialRecord] = {}
        self._told: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        # Ray pickles what the driver holds into snapshots that we never read; locks and files have no place there.
        return object, ()

    # What was asked for, and what is left of it.

    def _is_asked_for(self, record: TrialRecord) -> bool:
        """Whether a record of a study, or a control, belongs to what the parameters ask for now."""
        if record.role == CONFIRMATION:
            return False
        if record.study is None:
            return record.id in self.space.controls
        return record.study in self.arms and (record.number or 0) < self.params.search.trials

    def asked_for(self) -> list[TrialRecord]:
        """Controls, the first `search.trials` trials of every study, and the confirmations of these, in this order.

        An earlier run of the search may have more of each.
        """
        wanted = self._control_runs() + ([] if self._still_running() else self._candidate_runs())
        trials = self.ledger.trials
        return self._to_try() + [trials[run.id] for run in wanted if run.id in trials]

    def _to_try(self) -> list[TrialRecord]:
        records = [record for record in self.ledger.trials.values() if self._is_asked_for(record)]
        order = {CONTROL: 0, METHOD: 1, CONTROL_STUDY: 2}
        return sorted(records, key=lambda r: (order[r.study or r.role], -1 if r.number is None else r.number))

    def _control_runs(self) -> list[TrialRecord]:
        """The runs of controls with further seeds."""
        runs = []
        for name, seeds in control_seeds(self.params, self.space).items():
            control = TrialRecord(name, None, dict(self.space.controls[name]), role=CONTROL)
            runs += confirmations(control, seeds, base_seed=self.params.base.seed)
        return runs

    def _candidate_runs(self) -> list[TrialRecord]:
        """The runs of the best settings with further seeds, by what is known now."""
        search, tried = self.params.search, self._to_try()
        runs = []
        for arm in self.arms:
            trials = [record for record in tried if record.study == arm]
            for best in self._candidates(trials, search.confirm.top):
                runs += confirmations(best, search.confirm.seeds, base_seed=self.params.base.seed)
        return runs

    def _candidates(self, trials: Iterable[TrialRecord], top: int) -> list[TrialRecord]:
        return candidates(trials, top=top, max_empty_share=self.params.search.max_empty_share, goals=self.goals)

    def _still_running(self) -> bool:
        """Whether any trial of a study is still to be proposed, or has not ended."""
        return bool(self._unfinished) or self._may_propose()

    @property
    def at_work(self) -> int:
        """How many runs have been started in this session, have not ended, and wait for no other worker."""
        return len(self._at_work) - len(self._given_up)

    @property
    def left(self) -> int:
        """How many runs may still be started at most."""
        if not self._queue and not self._still_running() and not (self._to_confirm and self._may_confirm()):
            return 0
        to_propose = sum(arm.proposer.to_propose(self.params.search.trials) for arm in self.arms.values())
        return len(self._queue) + to_propose + further_runs(self.params, self.space)

    # Bringing everything to where the ledger is.

    def replay(self) -> None:
        """Bring studies, rungs and listeners to where the ledger is, and queue controls and what has not ended."""
        records = self._to_try()
        for record in records:
            if (arm := self._arm(record)) is not None:
                arm.proposer.restore(record)
                if record.state is None:
                    self._unfinished.add(record.id)
        # In the order in which they came, since a rung judges a trial by those that were there before it. A trial that
        # went on after a report was not stopped there; only the word on its last one counts.
        by_id = {record.id: record for record in records}
        decided = {}
        for name, epoch in dict.fromkeys(self.ledger.history.reports):
            if name in by_id:
                decided[name] = self._replay_epoch(by_id[name], epoch)
        for record in records:
            self._replay_record(record, stopped=decided.get(record.id) == STOP)
        for name, values in self.space.controls.items():
            if name not in self.ledger.trials:
                self._queue.append(TrialRecord(name, None, dict(values), role=CONTROL))
        # A control first, so that a result has something to be compared with from early on.
        self._queue = deque(sorted(self._queue, key=lambda record: not record.control))
        self._want(self._control_runs())
        self._want_candidates()
        self._prune_checkpoints(self.ledger.trials.values())
        self._tell(lambda listener: listener.replayed())

    def _replay_epoch(self, record: TrialRecord, epoch: int) -> str:
        objective = record.epochs[epoch][OBJECTIVE]
        if (arm := self._arm(record)) is not None:
            arm.proposer.report(record.number or 0, epoch, objective)
        return self.scheduler.replay(record, epoch, objective)

    def _replay_record(self, record: TrialRecord, *, stopped: bool) -> None:
        self._tell_of(record)
        if record.state is not None:
            self._finish(record)
        elif stopped:
            self.end(record.id, self.ending(record.last_epoch))
        else:
            self._queue.append(record)

    def _tell_of(self, record: TrialRecord) -> None:
        """Tell the listeners what an earlier session has done of a trial."""
        self._told.add(record.id)
        self._tell(lambda listener: listener.trial_started(record))
        for epoch in sorted(record.epochs):
            self._tell(partial(_report_to, record, epoch))

    def _want(self, runs: Iterable[TrialRecord]) -> None:
        """Have confirmations run, but for those that earlier sessions, in which they were wanted too, have ended."""
        for run in runs:
            record = self.ledger.trials.get(run.id)
            if record is None:
                self._to_confirm.append(run)
            else:
                self._replay_record(record, stopped=record.last_epoch >= self.params.train.epochs)

    def _want_candidates(self) -> None:
        """Once no trial is at work or to come, the best settings are known, and stay what they are."""
        if not self._candidates_known and not self._still_running():
            self._candidates_known = True
            self._want(self._candidate_runs())

    # What happens.

    def next(self) -> TrialRecord | Wait | None:
        """The next run to start, recorded; None when all that was asked for has ended.

        What breaks a constraint already now is recorded too, ends, and is not given out.
        """
        if self._given_up:
            return self._given_up.popleft()
        while (record := self._next()) is not None:
            started = self._start(record)
            if started.state is None:
                return started
        return Wait() if self._still_running() or self._at_work else None

    def _next(self) -> TrialRecord | None:
        if not self._queue:
            self._want_candidates()
        if self._queue:
            return self._queue.popleft()
        if self._may_propose():
            return min(self._proposing(), key=lambda arm: arm.proposer.proposed).propose()
        return self._to_confirm.popleft() if self._to_confirm and self._may_confirm() else None

    def again(self, trial_id: str) -> None:
        """Hand out a run once more, which goes on from its checkpoint: Ray gave it up, or its node will not do."""
        self._given_up.append(self.ledger.trials[trial_id])

    def _start(self, record: TrialRecord) -> TrialRecord:
        if record.id in self.ledger.trials:
            self.ledger.resume(record.id)
        else:
            record = self.ledger.start(record)
        self._at_work[record.id] = record
        if record.study is not None:
            self._unfinished.add(record.id)
        if self._count is not None and PARAMETERS not in record.measured:
            self.ledger.measured(record.id, {PARAMETERS: self._count(record.values)})
        if record.id not in self._told:
            self._tell_of(record)
        if record.study is not None and (broken := self.goals.broken(record.measured)):
            self.end(record.id, INFEASIBLE, "; ".join(broken))
        return record

    def _proposing(self) -> list[Arm]:
        """The studies of which trials are still to be proposed."""
        return [arm for arm in self.arms.values() if arm.proposer.to_propose(self.params.search.trials)]

    def _may_propose(self) -> bool:
        if not self._proposing():
            return False
        self.notice_stop()
        if self.stopped is None and (reason := why_stop(self._budget, self._account())) is not None:
            self._stop(reason)
        return self.stopped is None

    def notice_stop(self) -> None:
        """Propose no more from now on if that has been asked for. May be called at any time, and often."""
        if self.stopped is None and (self.folder / STOP_FILE).exists() and self._proposing():
            self._stop(ASKED_TO_FINISH)

    def _stop(self, reason: str) -> None:
        self.stopped = reason
        left = len(self._to_confirm) + sum(record.id not in self.ledger.trials for record in self._queue)
        if not self._candidates_known:
            tried = [record.study for record in self._to_try()]
            confirm = self.params.search.confirm
            left += sum(min(confirm.top, tried.count(arm)) * confirm.seeds for arm in self.arms)
        self._tell(lambda listener: listener.ending_early(reason, len(self._at_work), left))

    def _may_confirm(self) -> bool:
        """Confirmations are within what the budget has set aside, unless the pace has changed a lot."""
        account = self._account(confirming=True)
        hard = Budget(self._budget.hours, self._budget.gpu_hours, self._budget.cost, self._budget.price_per_gpu_hour)
        reason = why_stop(hard, account)
        if reason is not None and self.stopped is None:
            self.stopped = reason
        return reason is None

    def _account(self, *, confirming: bool = False) -> Account:
        """Where the search stands. What is owed are the rest of what runs and, before them, the confirmations."""
        epochs, history = self.params.train.epochs, self.ledger.history
        further = 0
        if not confirming:
            further = len(self._to_confirm)
            if not self._candidates_known:
                further += candidate_runs_at_most(self.params, self.space)
        return Account(
            seconds=history.seconds,
            gpu_seconds=history.gpu_seconds,
            owed_epochs=sum(epochs - record.last_epoch for record in (*self._queue, *self._at_work.values())),
            owed_runs=further,
            trial_epochs=epochs,
            epoch_s=history.busy_s / history.epochs if history.epochs else None,
            gpus=self._gpus,
            at_a_time=self._at_a_time,
            best=self._best.value,
            since_best=self._best.since,
        )

    def report(self, trial_id: str, epoch: int, metrics: Mapping[str, float], node: str | None = None) -> None:
        record = self.ledger.trials[trial_id]
        self.ledger.report(trial_id, epoch, metrics, node)
        if (arm := self._arm(record)) is not None:
            arm.proposer.report(record.number or 0, epoch, metrics[OBJECTIVE])
        self._tell(lambda listener: listener.epoch_reported(record, epoch))

    def checkpoint(self, trial_id: str, path: str) -> None:
        before = self.ledger.trials[trial_id].checkpoint
        self.ledger.checkpoint(trial_id, path)
        # Ray removes what it has made in this session; what an earlier one left is ours to remove.
        if before and Path(before).parent != Path(path).parent:
            let_go([before])

    def end(self, trial_id: str, state: str, reason: str | None = None) -> None:
        self.ledger.end(trial_id, state, reason)
        record = self.ledger.trials[trial_id]
        self._at_work.pop(trial_id, None)
        self._unfinished.discard(trial_id)
        self._finish(record)
        self._prune_checkpoints([record])

    def ending(self, epoch: int) -> str:
        """The state of a trial that has stopped after an epoch: ASHA also "stops" those that ran in full."""
        return COMPLETE if epoch >= self.params.train.epochs else PRUNED

    def _finish(self, record: TrialRecord) -> None:
        if (arm := self._arm(record)) is not None:
            allowed = self.params.search.max_empty_share
            constraints = {EMPTY_SHARE: empty_share(record) - allowed} if record.epochs else {}
            constraints |= self.goals.violations(record.metric)
            assert record.state is not None
            arm.proposer.finish(record.number or 0, record.state, *self.goals.values(record), constraints=constraints)
            if arm.name == METHOD:
                value = record.metric(OBJECTIVE) if is_result(record, self.goals) else None
                self._best.add(record.number or 0, value)
        self._tell(lambda listener: listener.trial_ended(record))

    def _prune_checkpoints(self, ended: Iterable[TrialRecord]) -> None:
        """Remove the checkpoints of those that have ended now, or are no longer among the best.

        Kept are those of controls, of the best `search.keep_checkpoints` trials, and of what may be confirmed.
        """
        search = self.params.search
        there = self._kept | {r.id: r for r in ended if r.state is not None and not r.control and r.checkpoint}
        trials = [record for record in there.values() if record.study is not None]
        best = self._candidates(trials, search.keep_checkpoints)
        for arm in self.arms:
            of_study = [record for record in trials if record.study == arm and self._is_asked_for(record)]
            best += self._candidates(of_study, search.confirm.top)
        self._kept = {record.id: record for record in best}
        let_go([record.checkpoint for record in there.values() if record.id not in self._kept and record.checkpoint])

    def _arm(self, record: TrialRecord) -> Arm | None:
        return None if record.study is None else self.arms[record.study]

    def _tell(self, say: Callable[[SearchListener], None]) -> None:
        for listener in self._listeners:
            say(listener)


def _report_to(record: TrialRecord, epoch: int, listener: SearchListener) -> None:
    listener.epoch_reported(record, epoch)

"""Decisions on whether a run may start, by `search.budget`, the amount spent and the amount promised."""

from collections.abc import Iterable

from pipeline.config import Params
from pipeline.tune.budget import EPOCH_BUDGET, TOO_LITTLE, BestSoFar, Budget, BudgetState, exhausted_limit
from pipeline.tune.journal.records import SearchHistory, TrialRecord
from pipeline.tune.objectives.objectives import objectives_from_params
from pipeline.tune.run_counts import max_candidate_runs
from pipeline.tune.space import SearchSpace
from pipeline.tune.study_trials import Step, StudyTrials


class SearchLimits:
    """Limits of a search, and everything that counts against them.

    Args:
        params: All parameters.
        space: The search space.
        history: The search's history, which the journal updates.
        best: Best trial so far of the method's study.
        gpus: GPUs of one trial; may be a fraction.
        max_concurrent: Number of trials at the same time.
        surplus: Epochs of each study's share that runs took for which the parameters no longer ask.
    """

    def __init__(
        self,
        params: Params,
        space: SearchSpace,
        history: SearchHistory,
        *,
        best: BestSoFar,
        gpus: float,
        max_concurrent: int,
        surplus: int = 0,
    ) -> None:
        self._surplus = surplus
        self._epochs, self._history, self._best = params.train.epochs, history, best
        self._gpus, self._max_concurrent = gpus, max_concurrent
        self._budget = budget = Budget(
            **params.search.budget.model_dump(), minimize=objectives_from_params(params).directions[0] == "minimize"
        )
        self._hard = Budget(budget.hours, budget.gpu_hours, budget.cost, budget.price_per_gpu_hour)
        self._max_candidates = max_candidate_runs(params, space)

    def refuse_step(
        self,
        step: Step,
        trials: StudyTrials,
        everyone: Iterable[StudyTrials],
        *,
        pending: int,
        confirmations: int,
        candidates_chosen: bool,
    ) -> str | None:
        """Returns why a trial may not start or go on.

        Args:
            step: The study's next step.
            trials: Trials of this study.
            everyone: Trials of all studies.
            pending: Epochs that other runs may still train until they are paused or have ended.
            confirmations: Number of confirmations in the queue.
            candidates_chosen: Whether confirmations of the best configurations are among these.

        Returns:
            The reason, by the parameter's name and in words; None if the trial may start.
        """
        reserve = trials.reserve(step.until)
        others = sum(each.reserve(0) for each in everyone if each is not trials and not each.over)
        runs = confirmations + (0 if candidates_chosen else self._max_candidates)
        state = self._state(step.further, pending=pending, reserved=reserve + others, runs=runs)
        if (reason := exhausted_limit(self._budget, state)) is not None:
            return reason
        if trials.allowance.fits(step.further + reserve + self._surplus):
            return None
        most = (self._budget.full_trainings or 0.0) * self._epochs
        spent = f"{EPOCH_BUDGET}: {self._history.epochs} of {most:g} epochs spent"
        return spent if self._history.epochs >= most else f"{spent}; {TOO_LITTLE}"

    def refuse_epochs(self, further: int, *, pending: int) -> str | None:
        """Returns why epochs that the budget has reserved may not be trained after all; None if they may.

        Only the limits on time and cost count here.
        """
        return exhausted_limit(self._hard, self._state(further, pending=pending))

    def _state(self, further: int, *, pending: int, reserved: int = 0, runs: int = 0) -> BudgetState:
        """Returns the state of the search for a check of the budget.

        Args:
            further: Epochs that are to start now.
            pending: Epochs left in running trials.
            reserved: Epochs that must remain so that trials can run in full.
            runs: Full runs still required afterwards.
        """
        history = self._history
        return BudgetState(
            seconds=history.seconds,
            gpu_seconds=history.gpu_seconds,
            pending_epochs=pending,
            pending_runs=runs,
            trial_epochs=self._epochs,
            next_epochs=further,
            reserved_epochs=reserved,
            seconds_per_epoch=history.busy_s / history.epochs if history.epochs else None,
            gpus=self._gpus,
            max_concurrent=self._max_concurrent,
            best=self._best.value,
            since_best=self._best.since,
        )


def pending_epochs(records: Iterable[TrialRecord], trials: dict[str, StudyTrials], epochs: int) -> int:
    """Returns the epochs that runs may still train until they are paused or have ended.

    Args:
        records: The runs.
        trials: Trials of each study, by its name.
        epochs: Epochs of a full run.
    """
    return sum(
        epochs - record.last_epoch if record.study is None else trials[record.study].pending(record)
        for record in records
    )

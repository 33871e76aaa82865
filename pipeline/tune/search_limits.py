"""Whether a run may start: by `search.budget`, what has been spent, and what is promised."""

from collections.abc import Iterable

from pipeline.config import Params
from pipeline.tune.budget import EPOCH_BUDGET, BestSoFar, Budget, BudgetState, exhausted_limit
from pipeline.tune.journal.records import SearchHistory, TrialRecord
from pipeline.tune.objectives.objectives import objectives_from_params
from pipeline.tune.run_counts import max_candidate_runs
from pipeline.tune.space import SearchSpace
from pipeline.tune.study_trials import Step, StudyTrials


class SearchLimits:
    """The limits of a search, and what counts against them.

    gpus, max_concurrent: of a trial, and trials together. best: of the method's study.
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
    ) -> None:
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
        """Why a trial may not start or go on, by the parameter's name and in words; None if it may.

        Args:
            step: What its study does next.
            trials: Of this study.
            everyone: Those of all studies.
            pending: Epochs that others may still train until they are held or have ended.
            confirmations: That wait to be run.
            candidates_chosen: Whether those of the best configurations are among them.
        """
        reserve = trials.reserve(step.until)
        others = sum(each.reserve(0) for each in everyone if each is not trials and not each.over)
        runs = confirmations + (0 if candidates_chosen else self._max_candidates)
        state = self._state(step.further, pending=pending, reserved=reserve + others, runs=runs)
        if (reason := exhausted_limit(self._budget, state)) is not None:
            return reason
        if trials.allowance.fits(step.further + reserve):
            return None
        most = (self._budget.full_trainings or 0.0) * self._epochs
        return f"{EPOCH_BUDGET}: {self._history.epochs} of {most:g} epochs spent, the rest promised"

    def refuse_epochs(self, further: int, *, pending: int) -> str | None:
        """Why so many epochs may not be trained that were set aside beforehand; None if they may."""
        return exhausted_limit(self._hard, self._state(further, pending=pending))

    def _state(self, further: int, *, pending: int, reserved: int = 0, runs: int = 0) -> BudgetState:
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
    """Epochs that runs may still train until they are held or have ended. epochs: of a whole run."""
    return sum(
        epochs - record.last_epoch if record.study is None else trials[record.study].pending(record)
        for record in records
    )

"""Early stopping: Ray Tune's ASHA on the explicit epoch, with rungs that can be replayed and trials outside of them."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from pipeline.tune.ledger import TrialRecord

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


class SearchScheduler(FIFOScheduler):
    """The rungs of every study, by its name. What is in no study runs to the end; what has failed stops."""

    def __init__(self, rungs: Mapping[str, "RungScheduler"], epochs: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rungs, self._epochs = rungs, epochs

    def replay(self, record: TrialRecord, epoch: int, objective: float) -> str:
        """Enter an epoch of the ledger; CONTINUE, or STOP if the trial would have been stopped there."""
        if record.study is None:
            return self._to_the_end(epoch)
        return self._rungs[record.study].replay(record, epoch, objective)

    def on_trial_add(self, tune_controller: "TuneController", trial: Trial) -> None:
        if rungs := self._of(trial):
            rungs.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: "TuneController", trial: Trial, result: Mapping[str, Any]) -> str:
        if result.get("failed"):
            return STOP
        rungs = self._of(trial)
        return rungs.on_trial_result(tune_controller, trial, result) if rungs else self._to_the_end(result["epoch"])

    def on_trial_complete(self, tune_controller: "TuneController", trial: Trial, result: Mapping[str, Any]) -> None:
        if (rungs := self._of(trial)) and not result.get("failed"):
            rungs.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: "TuneController", trial: Trial) -> None:
        if rungs := self._of(trial):
            rungs.on_trial_remove(tune_controller, trial)

    def _to_the_end(self, epoch: int) -> str:
        return STOP if epoch >= self._epochs else CONTINUE

    def _of(self, trial: Trial) -> "RungScheduler | None":
        study = trial.config["study"]
        return None if study is None else self._rungs[study]


class RungScheduler(AsyncHyperBandScheduler):
    """ASHA for the trials of one study.

    Trials are entered into the rungs under their id of the ledger, not Ray's, which changes when a search is resumed.
    """

    def __init__(self, *, epochs: int, grace_period: int, reduction_factor: float) -> None:
        super().__init__(
            time_attr="epoch",
            metric="objective",
            mode="max",
            max_t=epochs,
            grace_period=min(grace_period, epochs),
            reduction_factor=reduction_factor,
        )

    @property
    def milestones(self) -> list[int]:
        """The epochs at which trials are compared, ascending, the last epoch not among them."""
        (bracket,) = self._brackets
        return sorted(int(milestone) for milestone, _ in bracket._rungs if milestone < self._max_t)

    def replay(self, record: TrialRecord, epoch: int, objective: float) -> str:
        """Enter an epoch of the ledger into the rungs; CONTINUE, or STOP if ASHA would have stopped the trial there."""
        trial: Any = SimpleNamespace(trial_id=record.id)
        controller: Any = None
        if record.id not in self._trial_info:
            super().on_trial_add(controller, trial)
        return super().on_trial_result(controller, trial, {"epoch": epoch, "objective": objective})

    def on_trial_add(self, tune_controller: "TuneController", trial: Trial) -> None:
        if trial.config["trial"] not in self._trial_info:
            super().on_trial_add(tune_controller, _by_ledger_id(trial))

    def on_trial_result(self, tune_controller: "TuneController", trial: Trial, result: Mapping[str, Any]) -> str:
        return super().on_trial_result(tune_controller, _by_ledger_id(trial), dict(result))

    def on_trial_complete(self, tune_controller: "TuneController", trial: Trial, result: Mapping[str, Any]) -> None:
        super().on_trial_complete(tune_controller, _by_ledger_id(trial), dict(result))

    def on_trial_remove(self, tune_controller: "TuneController", trial: Trial) -> None:
        super().on_trial_remove(tune_controller, _by_ledger_id(trial))


def _by_ledger_id(trial: Trial) -> Any:
    return SimpleNamespace(trial_id=trial.config["trial"])

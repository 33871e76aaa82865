"""Early stopping: Ray Tune's ASHA on the explicit epoch, with controls exempt and rungs that can be replayed."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from pipeline.tune.ledger import TrialRecord

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


class RungScheduler(AsyncHyperBandScheduler):
    """ASHA for the trials of the study; controls run to the end, outside the rungs, and a diverged trial stops.

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

    def replay(self, record: TrialRecord, epoch: int, objective: float) -> str:
        """Enter an epoch of the ledger into the rungs; CONTINUE, or STOP if ASHA would have stopped the trial there."""
        trial: Any = SimpleNamespace(trial_id=record.id)
        controller: Any = None
        if record.control:
            return STOP if epoch >= self._max_t else CONTINUE
        if record.id not in self._trial_info:
            super().on_trial_add(controller, trial)
        return super().on_trial_result(controller, trial, {"epoch": epoch, "objective": objective})

    def on_trial_add(self, tune_controller: "TuneController", trial: Trial) -> None:
        if not _is_control(trial) and trial.config["trial"] not in self._trial_info:
            super().on_trial_add(tune_controller, _by_ledger_id(trial))

    def on_trial_result(self, tune_controller: "TuneController", trial: Trial, result: Mapping[str, Any]) -> str:
        if result.get("diverged"):
            return STOP
        if _is_control(trial):
            return STOP if result["epoch"] >= self._max_t else CONTINUE
        return super().on_trial_result(tune_controller, _by_ledger_id(trial), dict(result))

    def on_trial_complete(self, tune_controller: "TuneController", trial: Trial, result: Mapping[str, Any]) -> None:
        if not _is_control(trial) and not result.get("diverged"):
            super().on_trial_complete(tune_controller, _by_ledger_id(trial), dict(result))

    def on_trial_remove(self, tune_controller: "TuneController", trial: Trial) -> None:
        if not _is_control(trial):
            super().on_trial_remove(tune_controller, _by_ledger_id(trial))


def _is_control(trial: Trial) -> bool:
    return bool(trial.config["control"])


def _by_ledger_id(trial: Trial) -> Any:
    return SimpleNamespace(trial_id=trial.config["trial"])

"""Scheduler as Ray Tune calls it: passes reports to the search controller, and its decisions to Ray Tune."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from pipeline.tune.controller import SearchController
from pipeline.tune.journal.records import FAILED
from pipeline.tune.ray.callback import JournalCallback
from pipeline.tune.ray.trial_spec import STACK
from pipeline.tune.schedulers.scheduler import Decision

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
FLAT, FLAT_USAGE = "metrics/", "usage/"
"""Prefixes of the keys of a report's metrics, and of its usage, as a scheduler gets them."""


class ControllerScheduler(FIFOScheduler):
    """Scheduler that asks the controller. Ray Tune calls its scheduler before its callbacks, so reports are
    passed here.

    To Ray Tune, a paused trial has stopped. When the trial goes on, it is a new trial to Ray.

    Args:
        controller: The search controller.
        callback: Callback that stores errors which end the search.
    """

    def __init__(self, controller: SearchController, callback: JournalCallback) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._controller, self._callback = controller, callback

    def on_trial_result(self, tune_controller: "TuneController", trial: Trial, result: Mapping[str, Any]) -> str:
        if result.get("failed") or result.get("infeasible"):
            return STOP
        if STACK in result:
            with self._callback.capture_fatal():
                return self._hear_stack(result[STACK])
        if result["epoch"] == 0:
            return CONTINUE  # a report of metrics measured before the first epoch
        # Ray flattens the mappings of a report for schedulers, but not for callbacks.
        metrics, usage = (
            {key.removeprefix(flat): value for key, value in result.items() if key.startswith(flat)}
            for flat in (FLAT, FLAT_USAGE)
        )
        with self._callback.capture_fatal():
            decision = self._controller.report(
                trial.config["trial"], result["epoch"], metrics, result.get("node"), result.get("scores"), usage
            )
        return CONTINUE if decision is Decision.CONTINUE else STOP

    def _hear_stack(self, reports: Sequence[Mapping[str, Any]]) -> str:
        """Passes on what became of the runs of a stack, each as though it had a trial of Ray's to itself.

        Args:
            reports: The runs' reports. Runs that have ended may be among them after their worker was started again.
        """
        controller, going = self._controller, False
        for each in reports:
            name, epoch = each["trial"], each["epoch"]
            if controller.journal.trials[name].state is not None:
                continue
            if each["failed"]:
                controller.end_trial(name, FAILED, each["failed"])
            elif epoch == 0:
                going = True
            else:
                said = controller.report(name, epoch, each["metrics"], each["node"], each["scores"], each["usage"])
                going |= said is Decision.CONTINUE
        return CONTINUE if going else STOP

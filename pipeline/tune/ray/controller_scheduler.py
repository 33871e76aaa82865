"""The scheduler as Ray Tune calls it: a report goes to the search controller, and its word goes to Ray Tune."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from pipeline.tune.controller import SearchController
from pipeline.tune.ray.callback import JournalCallback
from pipeline.tune.schedulers.scheduler import Decision

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
FLAT, FLAT_USAGE = "metrics/", "usage/"
"""How the keys of a report's metrics, and of what it used, begin, as a scheduler gets it."""


class ControllerScheduler(FIFOScheduler):
    """Asks the controller. Ray Tune calls its scheduler before its callbacks, so that reports go this way.

    A trial that is paused has stopped for Ray Tune; when it goes on, that is another of Ray's trials.
    """

    def __init__(self, controller: SearchController, callback: JournalCallback) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._controller, self._callback = controller, callback

    def on_trial_result(self, tune_controller: "TuneController", trial: Trial, result: Mapping[str, Any]) -> str:
        if result.get("failed") or result.get("infeasible"):
            return STOP
        if result["epoch"] == 0:
            return CONTINUE  # what it has measured of its network, before any epoch
        # Ray hands schedulers a report whose mappings are flattened, and callbacks the report as it was made.
        metrics, usage = (
            {key.removeprefix(flat): value for key, value in result.items() if key.startswith(flat)}
            for flat in (FLAT, FLAT_USAGE)
        )
        with self._callback.capture_fatal():
            decision = self._controller.report(
                trial.config["trial"], result["epoch"], metrics, result.get("node"), result.get("scores"), usage
            )
        return CONTINUE if decision is Decision.CONTINUE else STOP

"""Early stopping on Ray Tune: reports go to the rule of the trial's study, and what is in no study runs to its end."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from pipeline.tune.journal.records import TrialRecord
from pipeline.tune.schedulers.factory import EitherRule

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
FLAT = "metrics/"
"""How the keys of a report's metrics begin, as a scheduler gets it."""


class SearchScheduler(FIFOScheduler):
    """The rules of every study, by its name. What is in no study runs to the end; what has failed stops.

    Trials are known by their ids of the journal, not Ray's, which change when a search is resumed.
    """

    def __init__(self, rules: Mapping[str, EitherRule], epochs: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rules, self._epochs = rules, epochs

    def replay(self, record: TrialRecord, epoch: int, metrics: Mapping[str, float]) -> str:
        """Enter an epoch of the journal; CONTINUE, or STOP if the trial would have been stopped there."""
        return self._decide(record.study, record.id, epoch, metrics)

    def on_trial_result(self, tune_controller: "TuneController", trial: Trial, result: Mapping[str, Any]) -> str:
        if result.get("failed") or result.get("infeasible"):
            return STOP
        if "measured" in result:
            return CONTINUE  # of its network, before any epoch
        # Ray hands schedulers a report whose mappings are flattened, and callbacks the report as it was made.
        metrics = {key.removeprefix(FLAT): value for key, value in result.items() if key.startswith(FLAT)}
        return self._decide(trial.config["study"], trial.config["trial"], result["epoch"], metrics)

    def _decide(self, study: str | None, trial: str, epoch: int, metrics: Mapping[str, float]) -> str:
        if study is None:
            return STOP if epoch >= self._epochs else CONTINUE
        return STOP if self._rules[study].stops(trial, epoch, metrics) else CONTINUE

"""Factory of schedulers by the names of `search.scheduler.name`: asha, asha_stopping, hyperband, median, none."""

from collections.abc import Sequence

from pipeline.config.schema.search_section import SchedulerParams
from pipeline.tune.journal.records import VAL_ACCURACY
from pipeline.tune.schedulers.asha import ASHA
from pipeline.tune.schedulers.hyperband import Hyperband
from pipeline.tune.schedulers.median import MedianStopping
from pipeline.tune.schedulers.pausing import PausingASHA
from pipeline.tune.schedulers.rungs import PAUSING, rung_epochs
from pipeline.tune.schedulers.scheduler import EitherRule, Scheduler, StoppingRule


def make_scheduler(
    scheduler: SchedulerParams, epochs: int, first: int, metrics: Sequence[str] = (VAL_ACCURACY,)
) -> Scheduler:
    """Returns the scheduler that the parameters name.

    Args:
        scheduler: `search.scheduler`.
        epochs: Epochs of a full trial.
        first: The first rung (`pipeline.tune.schedulers.rungs.first_rung`).
        metrics: Metrics by any of which a trial may go on, more is better; the first one is the first
            objective.
    """
    if scheduler.name == PAUSING:
        rungs = rung_epochs(scheduler, first, epochs)
        return PausingASHA(rungs, scheduler.reduction_factor, epochs, metrics)
    return EitherRule({metric: make_rule(scheduler, epochs, first) for metric in metrics})


def make_rule(scheduler: SchedulerParams, epochs: int, first: int) -> StoppingRule:
    """Returns the stopping rule that the parameters name, for one metric.

    Args:
        scheduler: `search.scheduler`.
        epochs: Epochs of a full trial.
        first: The first rung (`pipeline.tune.schedulers.rungs.first_rung`).
    """
    first, factor = min(first, epochs), scheduler.reduction_factor
    if scheduler.name == "none":
        return ASHA([], factor, epochs)
    if scheduler.name == "median":
        return MedianStopping(first, epochs)
    rungs = rung_epochs(scheduler, first, epochs)
    if scheduler.name == "hyperband":
        return Hyperband([ASHA(rungs[start:], factor, epochs) for start in range(len(rungs) + 1)], factor)
    return ASHA(rungs, factor, epochs)

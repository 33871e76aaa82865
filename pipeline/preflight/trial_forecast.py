"""Expected number of configurations that the epochs of a search try, and of those that run in full.

Every rung is assumed to let through its share of the trials. Where a trial may go on by either accuracy or attention,
the two are assumed to be independent, which makes these shares as large as they can be.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import Params
from pipeline.tune.objectives.objectives import objectives_from_params
from pipeline.tune.run_counts import requested_trials, study_allowance
from pipeline.tune.schedulers.rungs import first_rung, rung_epochs
from pipeline.tune.space import SearchSpace

MEDIAN_SHARE = 0.5
"""Share of trials that are assumed to run in full under median stopping: those whose best value is above the median."""


@dataclass(frozen=True)
class TrialForecast:
    """Expected trials of all studies.

    Attributes:
        trials: Number of configurations.
        in_full: Number of configurations that train to the last epoch.
        epochs: Epochs of all trials together.
    """

    trials: int
    in_full: int
    epochs: int


def forecast_trials(params: Params, space: SearchSpace) -> TrialForecast:
    """Returns the expected trials of a whole search, within its number of trials and its budget of epochs."""
    shares, epochs = survival_shares(params, space), study_allowance(params, space)
    trials = in_full = spent = 0
    for most in requested_trials(params, space).values():
        count = most if epochs is None else _affordable(shares, epochs, most)
        trials += count
        in_full += _survivors(count, shares[-1])
        spent += _spent(count, shares)
    return TrialForecast(trials, in_full, spent)


def survival_shares(params: Params, space: SearchSpace) -> Sequence[float]:
    """Returns the share of trials that train in each epoch, if every rung lets through its share."""
    scheduler, epochs = params.search.scheduler, params.train.epochs
    first = first_rung(params, space)
    metrics = len(objectives_from_params(params).stopping_metrics)
    passes = 1 - (1 - 1 / scheduler.reduction_factor) ** metrics
    if scheduler.name == "none":
        return [1.0] * epochs
    if scheduler.name == "median":
        return [1.0 if epoch < first else MEDIAN_SHARE for epoch in range(epochs)]
    rungs = rung_epochs(scheduler, first, epochs)
    if scheduler.name != "hyperband":
        return [passes ** sum(rung <= epoch for rung in rungs) for epoch in range(epochs)]
    most, factor = len(rungs), scheduler.reduction_factor
    # Trials with which each of Hyperband's brackets begins, by the number of rungs that the bracket leaves out.
    sizes = [math.ceil((most + 1) / (most - out + 1) * factor ** (most - out)) for out in range(most + 1)]
    return [
        sum(size * passes ** sum(rung <= epoch for rung in rungs[out:]) for out, size in enumerate(sizes)) / sum(sizes)
        for epoch in range(epochs)
    ]


def _affordable(shares: Sequence[float], epochs: int, most: int) -> int:
    """Returns the largest number of trials whose expected epochs fit, found by bisection; at least one.

    Args:
        shares: Share of trials that train in each epoch.
        epochs: Epochs of all trials together.
        most: Maximum number of trials.
    """
    low, high = min(1, most), most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _spent(middle, shares) <= epochs else (low, middle - 1)
    return low


def _spent(trials: int, shares: Sequence[float]) -> int:
    """Returns the expected epochs of some trials."""
    return sum(_survivors(trials, share) for share in shares)


def _survivors(trials: int, share: float) -> int:
    """Returns the number of trials that reach an epoch; at least one, whose epochs are reserved."""
    return max(min(1, trials), math.floor(trials * share + 1e-9))

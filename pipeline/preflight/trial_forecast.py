"""How many configurations the epochs of a search are expected to try, and how many of them to run in full.

Every rung is taken to let through its share. Where trials may go on by accuracy or by attention, these are taken to be
independent, which makes the shares the largest that they can be.
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
"""Of the trials that the median rule is taken to let run in full: those whose best is above the median."""


@dataclass(frozen=True)
class TrialForecast:
    """What the trials of all studies come to. trials: configurations. in_full: of them, to the last epoch. epochs: of
    all of them together.
    """

    trials: int
    in_full: int
    epochs: int


def forecast_trials(params: Params, space: SearchSpace) -> TrialForecast:
    """What is expected of a search from its start, within its number of trials and its budget's epochs."""
    shares, epochs = survival_shares(params, space), study_allowance(params, space)
    trials = in_full = spent = 0
    for most in requested_trials(params, space).values():
        count = most if epochs is None else _affordable(shares, epochs, most)
        trials += count
        in_full += _survivors(count, shares[-1])
        spent += _spent(count, shares)
    return TrialForecast(trials, in_full, spent)


def survival_shares(params: Params, space: SearchSpace) -> Sequence[float]:
    """By epoch, the share of the trials that train in it, if every rung lets through its share."""
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
    # Hyperband's brackets, by how many rungs each leaves out, and how many trials it begins with.
    sizes = [math.ceil((most + 1) / (most - out + 1) * factor ** (most - out)) for out in range(most + 1)]
    return [
        sum(size * passes ** sum(rung <= epoch for rung in rungs[out:]) for out, size in enumerate(sizes)) / sum(sizes)
        for epoch in range(epochs)
    ]


def _affordable(shares: Sequence[float], epochs: int, most: int) -> int:
    """The most trials whose expected epochs fit, found by halving; one at least."""
    low, high = min(1, most), most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _spent(middle, shares) <= epochs else (low, middle - 1)
    return low


def _spent(trials: int, shares: Sequence[float]) -> int:
    return sum(_survivors(trials, share) for share in shares)


def _survivors(trials: int, share: float) -> int:
    """How many of so many trials come to where a share does: one of them at least, which is reserved."""
    return max(min(1, trials), math.floor(trials * share + 1e-9))

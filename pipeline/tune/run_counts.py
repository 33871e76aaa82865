"""How many runs the parameters ask for at most: controls, trials of every study, confirmations."""

import math

from pipeline.config import Params
from pipeline.tune.journal.records import CONTROL_STUDY, METHOD
from pipeline.tune.schedulers.rungs import first_rung
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.studies import SAME_BUDGET, num_studies


def max_trials(params: Params, space: SearchSpace) -> int:
    """Trials of a study at most: `search.trials`, and as many as reach the first rung within the budget's epochs."""
    search = params.search
    limits = [] if search.trials is None else [search.trials]
    if search.budget.full_trainings is not None:
        epochs = search.budget.full_trainings * params.train.epochs
        limits.append(max(1, math.floor(epochs / first_rung(params, space) + 1e-9)))
    return min(limits)


def requested_trials(params: Params, space: SearchSpace) -> dict[str, int]:
    """Trials by study at most, and no more than its space has configurations, since none is tried twice."""
    spaces = {METHOD: space}
    if num_studies(params, space) == 2:
        spaces[CONTROL_STUDY] = space.recipe()
    sizes = {name: of.size() for name, of in spaces.items()}
    most = max_trials(params, space)
    return {name: min(most, size or most) for name, size in sizes.items()}


def control_seeds(params: Params, space: SearchSpace) -> dict[str, int]:
    """Further seeds by control. A control that has nothing to tune gets its budget in seeds."""
    search = params.search
    seeds = dict.fromkeys(space.controls, search.confirm.seeds)
    if search.compare == SAME_BUDGET and num_studies(params, space) == 1:
        most = requested_trials(params, space)[METHOD]
        if search.budget.full_trainings is not None:
            others = len(space.controls) * (1 + search.confirm.seeds) - search.confirm.seeds
            shared = search.budget.full_trainings - others - max_candidate_runs(params, space)
            most = min(most, max(0, math.floor(shared / 2)))
        seeds[params.retrain.control] = max(search.confirm.seeds, most)
    return seeds


def study_allowance(params: Params, space: SearchSpace) -> float | None:
    """Epochs that the trials of each study may spend: what search.budget.full_trainings leaves beside the controls and
    all confirmations that there may be, in equal parts; None without that limit.
    """
    most = params.search.budget.full_trainings
    if most is None:
        return None
    left = most - len(space.controls) - max_confirmation_runs(params, space)
    return left * params.train.epochs / num_studies(params, space)


def max_candidate_runs(params: Params, space: SearchSpace) -> int:
    """How many confirmations of the best configurations there are at most."""
    confirm = params.search.confirm
    return sum(min(confirm.top, trials) for trials in requested_trials(params, space).values()) * confirm.seeds


def max_confirmation_runs(params: Params, space: SearchSpace) -> int:
    """How many confirmations there are at most."""
    return sum(control_seeds(params, space).values()) + max_candidate_runs(params, space)


def max_runs(params: Params, space: SearchSpace) -> int:
    """How many runs a search has at most: trials, controls and confirmations."""
    return len(space.controls) + sum(requested_trials(params, space).values()) + max_confirmation_runs(params, space)

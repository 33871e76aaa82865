"""How many runs the parameters ask for: controls, trials of every study, confirmations."""

from pipeline.config import Params
from pipeline.tune.arms import SAME_BUDGET, studies_of
from pipeline.tune.space import SearchSpace


def control_seeds(params: Params, space: SearchSpace) -> dict[str, int]:
    """Further seeds by control. A control that has nothing to tune gets its budget in seeds."""
    search = params.search
    seeds = dict.fromkeys(space.controls, search.confirm.seeds)
    if search.compare == SAME_BUDGET and studies_of(params, space) == 1:
        seeds[params.retrain.control] = max(search.confirm.seeds, search.trials)
    return seeds


def candidate_runs_at_most(params: Params, space: SearchSpace) -> int:
    """How many confirmations of the best settings there are at most."""
    confirm = params.search.confirm
    return studies_of(params, space) * min(confirm.top, params.search.trials) * confirm.seeds


def further_runs(params: Params, space: SearchSpace) -> int:
    """How many confirmations there are at most."""
    return sum(control_seeds(params, space).values()) + candidate_runs_at_most(params, space)


def runs_at_most(params: Params, space: SearchSpace) -> int:
    """How many runs a search has at most: trials, controls and confirmations."""
    return len(space.controls) + studies_of(params, space) * params.search.trials + further_runs(params, space)

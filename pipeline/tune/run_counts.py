"""How many runs and epochs the parameters ask for at most: controls, trials of every study, confirmations."""

from pipeline.config import Params
from pipeline.tune.budget import full_epochs
from pipeline.tune.journal.records import CONTROL_STUDY, METHOD
from pipeline.tune.schedulers.rungs import first_rung
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.studies import SAME_BUDGET, num_studies


def budget_epochs(params: Params) -> int | None:
    """Epochs that `search.budget.full_trainings` allows controls, trials and confirmations together; None without."""
    return full_epochs(params.search.budget.full_trainings, params.train.epochs)


def study_allowance(params: Params, space: SearchSpace) -> int | None:
    """Epochs that the budget leaves to the trials of each study: in equal parts what controls, and confirmations at
    most, do not take. None without such a budget.
    """
    budget = budget_epochs(params)
    if budget is None:
        return None
    reserved = (len(space.controls) + max_confirmation_runs(params, space)) * params.train.epochs
    return max(0, budget - reserved) // num_studies(params, space)


def least_full_trainings(params: Params, space: SearchSpace) -> int:
    """The smallest budget of a search: controls, confirmations at most, and one training in full of every study."""
    further = len(space.controls) * params.search.confirm.seeds + max_candidate_runs(params, space)
    return len(space.controls) + further + num_studies(params, space)


def max_trials(params: Params, space: SearchSpace) -> int:
    """Trials of a study at most: `search.trials`, and as many as the epochs of the budget take to the first rung."""
    limits = [] if params.search.trials is None else [params.search.trials]
    if (epochs := study_allowance(params, space)) is not None:
        shortest = params.train.epochs if params.search.scheduler.name == "none" else first_rung(params, space)
        limits.append(max(1, epochs // shortest))
    return min(limits)


def requested_trials(params: Params, space: SearchSpace) -> dict[str, int]:
    """Trials by study at most, and no more than its space has configurations, since none is tried twice."""
    most = max_trials(params, space)
    return {name: min(most, of.size() or most) for name, of in _spaces(params, space).items()}


def control_seeds(params: Params, space: SearchSpace) -> dict[str, int]:
    """Further seeds by control. A control that has nothing to tune gets its budget in seeds: as many as there are
    trials, or half of the epochs that are left to both.
    """
    search = params.search
    seeds = dict.fromkeys(space.controls, search.confirm.seeds)
    if search.compare == SAME_BUDGET and num_studies(params, space) == 1:
        bounds = [bound for bound in (search.trials, space.size()) if bound is not None]
        if (budget := budget_epochs(params)) is not None:
            others = len(seeds) + sum(seeds.values()) - search.confirm.seeds + max_candidate_runs(params, space)
            bounds.append((budget // params.train.epochs - others) // 2)
        seeds[params.retrain.control] = max(search.confirm.seeds, min(bounds))
    return seeds


def max_candidate_runs(params: Params, space: SearchSpace) -> int:
    """How many confirmations of the best configurations there are at most."""
    confirm = params.search.confirm
    tried = (
        min(params.search.trials or confirm.top, of.size() or confirm.top) for of in _spaces(params, space).values()
    )
    return sum(min(confirm.top, trials) for trials in tried) * confirm.seeds


def max_confirmation_runs(params: Params, space: SearchSpace) -> int:
    """How many confirmations there are at most."""
    return sum(control_seeds(params, space).values()) + max_candidate_runs(params, space)


def max_runs(params: Params, space: SearchSpace) -> int:
    """How many runs a search has at most: trials, controls and confirmations."""
    return len(space.controls) + sum(requested_trials(params, space).values()) + max_confirmation_runs(params, space)


def _spaces(params: Params, space: SearchSpace) -> dict[str, SearchSpace]:
    """The space of each study."""
    own = {CONTROL_STUDY: space.recipe()} if num_studies(params, space) == 2 else {}
    return {METHOD: space, **own}

"""Upper limits on the runs and epochs of a search: controls, trials of every study, confirmations."""

from pipeline.config import Params
from pipeline.tune.budget import full_epochs
from pipeline.tune.journal.records import CONTROL_STUDY, METHOD
from pipeline.tune.schedulers.rungs import first_rung
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.studies import SAME_BUDGET, num_studies


def budget_epochs(params: Params) -> int | None:
    """Returns the epochs that `search.budget.full_trainings` allows for controls, trials and confirmations together.

    Args:
        params: All parameters.

    Returns:
        The epochs; None without such a budget.
    """
    return full_epochs(params.search.budget.full_trainings, params.train.epochs)


def study_allowance(params: Params, space: SearchSpace) -> int | None:
    """Returns the epochs that the budget leaves to the trials of each study.

    The studies share, in equal parts, the epochs that controls and the largest number of confirmations do not
    take.

    Args:
        params: All parameters.
        space: The search space.

    Returns:
        The epochs of each study; None without a budget of epochs.
    """
    budget = budget_epochs(params)
    if budget is None:
        return None
    reserved = (len(space.controls) + max_confirmation_runs(params, space)) * params.train.epochs
    return max(0, budget - reserved) // num_studies(params, space)


def least_full_trainings(params: Params, space: SearchSpace) -> int:
    """Returns the smallest budget of a search, in full trainings.

    It pays for all controls, the largest number of confirmations, and one full training of every study.

    Args:
        params: All parameters.
        space: The search space.
    """
    further = len(space.controls) * params.search.confirm.seeds + max_candidate_runs(params, space)
    return len(space.controls) + further + num_studies(params, space)


def max_trials(params: Params, space: SearchSpace) -> int:
    """Returns the largest number of trials of one study.

    The limits are `search.trials` and the number of trials that the study's epochs take to the first rung.

    Args:
        params: All parameters.
        space: The search space.
    """
    limits = [] if params.search.trials is None else [params.search.trials]
    if (epochs := study_allowance(params, space)) is not None:
        shortest = params.train.epochs if params.search.scheduler.name == "none" else first_rung(params, space)
        limits.append(max(1, epochs // shortest))
    return min(limits)


def requested_trials(params: Params, space: SearchSpace) -> dict[str, int]:
    """Returns the number of trials by study.

    A study has no more trials than its space has configurations, since no configuration is proposed twice.

    Args:
        params: All parameters.
        space: The search space.
    """
    most = max_trials(params, space)
    return {name: min(most, of.size() or most) for name, of in _spaces(params, space).items()}


def control_seeds(params: Params, space: SearchSpace) -> dict[str, int]:
    """Returns the number of further seeds by control.

    If `search.compare` is `same_budget` and the control has nothing to tune, it gets its budget in seeds: as
    many as there are trials, or half of the epochs left to both.
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
    """Returns the largest number of confirmations of the best configurations."""
    confirm = params.search.confirm
    tried = (
        min(params.search.trials or confirm.top, of.size() or confirm.top) for of in _spaces(params, space).values()
    )
    return sum(min(confirm.top, trials) for trials in tried) * confirm.seeds


def max_confirmation_runs(params: Params, space: SearchSpace) -> int:
    """Returns the largest number of confirmations, those of controls included.

    Args:
        params: All parameters.
        space: The search space.
    """
    return sum(control_seeds(params, space).values()) + max_candidate_runs(params, space)


def max_runs(params: Params, space: SearchSpace) -> int:
    """Returns the largest number of runs of a search: trials, controls and confirmations.

    Args:
        params: All parameters.
        space: The search space.
    """
    return len(space.controls) + sum(requested_trials(params, space).values()) + max_confirmation_runs(params, space)


def _spaces(params: Params, space: SearchSpace) -> dict[str, SearchSpace]:
    """Returns the space of each study."""
    own = {CONTROL_STUDY: space.recipe()} if num_studies(params, space) == 2 else {}
    return {METHOD: space, **own}

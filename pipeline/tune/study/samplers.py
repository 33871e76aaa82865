"""Samplers: the spaces that each can be used for, and how each is made.

    tpe      tree-structured Parzen estimators (Optuna's); any space
    local_gp near the best trials, by a Gaussian process over configurations and epochs (`local_search`); any space
    gp       a Gaussian process with expected improvement (Optuna's); any space, a category at a Hamming distance of 1
    grid     every combination once, in an order of its own; nothing continuous
    sobol    a scrambled Sobol sequence: even over the space, blind to results
    random   independent draws, blind to results

Samplers that learn begin with proposals that ignore results (`search.sampler.start`): `sobol`, `random` or
`recipe`. The latter takes the recipe of params.yaml, beside the priors of the space, as prior knowledge and
draws around it (`pipeline.tune.study.prior`). A prior on where good configurations lie may save the trials that
it takes to learn it (Hvarfner et al., piBO, ICLR 2022; Mallik et al., PriorBand, arXiv 2306.12370). It shapes
the first proposals, and not all of them, so that a bad recipe costs little. `local_gp` uses it later too, with
a falling weight.

Every sampler is made anew for every trial, from the seed and the trial's number. A proposal depends on these
and on the results alone, so a resumed search has no sampler state to restore.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.tune.space import Encoded, SearchSpace
from pipeline.tune.study.prior import Prior, sobol_point

LOCAL = "local_gp"
NON_ADAPTIVE = ("random", "sobol", "grid")
"""Samplers that ignore results."""
MAX_GRID = 1_000_000
"""Largest number of combinations of a grid."""
GLOBAL_EVERY = 3
"""One of this many draws from the prior is replaced by one from the whole space."""


def check_sampler(params: Params, space: SearchSpace) -> None:
    """Raises an error if the sampler cannot handle the space.

    Args:
        params: All parameters.
        space: The search space.

    Raises:
        UserError: the space does not suit the sampler; the message names the dimensions and the remedy.
    """
    if params.search.sampler.name != "grid":
        return
    said = "params.yaml: search.sampler.name: grid"
    endless = [path for path, steps in space.steps().items() if steps is None]
    if endless:
        raise UserError(
            f"{said} needs steps; {', '.join(endless)} of {space.file} may be any number between its ends. Give it a "
            "`step`, or `choices`; or use sobol, which covers such a space evenly."
        )
    points = space.size() or 0
    if points > MAX_GRID:
        raise UserError(f"{said}: {space.file} has {points:,} combinations, more than {MAX_GRID:,}. Use sobol.")


def sample_blind(name: str, space: SearchSpace, *, seed: int, number: int) -> Encoded:
    """Returns the encoded values of a blind sampler at one place of its sequence.

    Args:
        name: `grid`, `random` or `sobol`.
        space: The search space.
        seed: Seed of the sequence.
        number: Place in the sequence, from 0.
    """
    if name == "grid":
        steps = [count or 1 for count in space.steps().values()]
        order = _grid_order(seed, math.prod(steps))
        place = np.unravel_index(int(order[number % len(order)]), steps)
        return space.value_at([(int(index) + 0.5) / count for index, count in zip(place, steps, strict=True)])
    if name == "random":
        return space.value_at(np.random.default_rng([seed, number]).random(len(space.dimensions)).tolist())
    return space.value_at(sobol_point(len(space.dimensions), seed=seed, number=number))


@lru_cache(maxsize=4)
def _grid_order(seed: int, size: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(size)


def sample_near_prior(space: SearchSpace, prior: Prior, *, seed: int, number: int, first: int = 0) -> Encoded:
    """Returns the encoded values of a start from the prior: its centers, then draws of it, and some from the
    whole space.

    Dimensions without a prior are drawn uniformly. All draws come from a Sobol sequence, so that even a few of
    them are evenly spread.

    Args:
        space: The search space.
        prior: Prior density over the space.
        seed: Seed of the sequence.
        number: Place in the sequence, from 0.
        first: Place of the centers; the places before it are the user's own points.
    """
    anywhere = space.value_at(sobol_point(len(space.dimensions), seed=seed, number=number))
    if number == first:
        return anywhere | prior.centers
    if number % GLOBAL_EVERY == GLOBAL_EVERY - 1:
        return anywhere
    return space.value_at(prior.sample(seed=seed, number=number).tolist())


def make_sampler(name: str, *, seed: int) -> BaseSampler:
    """Returns one of Optuna's samplers that learn: `gp`, or else `tpe`. It must not be used before there are
    results.
    """
    if name == "gp":
        return GPSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)
    return TPESampler(seed=seed, n_startup_trials=1)


def rank_key(trial: FrozenTrial, *, minimize: bool = False) -> tuple[float, bool, int, float]:
    """Returns a sort key that puts the best trial last.

    The key consists of the violation of constraints, whether the trial ran in full, its last epoch, and its
    last value.

    Args:
        trial: A trial that has ended or is paused.
        minimize: Whether less of the value is better.
    """
    sign = -1 if minimize else 1
    broken = -sum(amount for amount in trial.constraints.values() if amount > 0)
    if trial.state == TrialState.COMPLETE:
        return broken, True, 0, sign * float(trial.value or 0.0)
    last = max(trial.intermediate_values, default=0)
    value = trial.intermediate_values.get(last, math.nan)
    return broken, False, last, -math.inf if math.isnan(value) else sign * value

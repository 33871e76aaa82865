"""Sampler `noisy_gp`: expected improvement under a Gaussian process that allows for noise and for stopped trials.

A trial's value is its configuration's own worth and luck, and the highest of many values is partly luck. A Gaussian
process (`pipeline.tune.study.gp`) over the space tells the two apart as far as can be: neighbours vouch for each other.
The proposals come from it.

A trial that was stopped early counts, at the value that it would have come to: its last one, plus the median of what
those that went on gained from that epoch to their last. The spread of these gains is the variance of its noise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from pipeline.tune.space import SearchSpace
from pipeline.tune.study.extrapolation import extrapolate
from pipeline.tune.study.gp import Array, GaussianProcess, condition_on_fantasies, fit, log_expected_improvement

MAX_OBSERVATIONS = 100
"""Values that a process learns from, half of them the best and half the newest: its time grows with their cube."""
CANDIDATES = 400
"""Points that are compared all over the space, and as many around the best configurations."""
AROUND, REACH, FINER = 3, 0.12, 3
"""Best configurations around which points are drawn; the standard deviation of their distance in a dimension, and by
how much it shrinks when the search for the best point is refined."""


@dataclass(frozen=True)
class Observation:
    """A trial, as the Gaussian process sees it. point: in the unit cube. curve: finite values by epoch; of a trial that
    failed, or was never trained, empty. whole: it ran in full. broken: by how much it breaks a constraint, by name;
    kept at 0 or below.
    """

    point: Sequence[float]
    curve: Mapping[int, float]
    whole: bool
    broken: Mapping[str, float] = field(default_factory=dict)


def final_values(observations: Sequence[Observation]) -> tuple[Array, Array]:
    """Of every trial the value that it has or would have come to, (n,), and the variance of that estimate, (n,).

    A trial without values stands at the worst of the others; if none has any, all stand at 0.
    """
    if not any(trial.curve for trial in observations):
        return np.zeros(len(observations)), np.zeros(len(observations))
    values = np.array([trial.curve[max(trial.curve)] if trial.curve else math.nan for trial in observations])
    noise_var = np.zeros(len(observations))
    finished = [(trial.curve, trial.curve[max(trial.curve)]) for trial in observations if trial.whole and trial.curve]
    stopped = [index for index, trial in enumerate(observations) if trial.curve and not trial.whole]
    # Gains that are not known yet are taken to differ by half as much as the values do.
    prior_var = float(np.nanvar(values)) / 4
    estimates = extrapolate([observations[index].curve for index in stopped], finished, prior_var=prior_var)
    for index, estimate in zip(stopped, estimates, strict=True):
        values[index], noise_var[index] = estimate
    values[np.isnan(values)] = np.nanmin(values)
    return values, noise_var


def propose(
    space: SearchSpace, observations: Sequence[Observation], running: Sequence[Sequence[float]], *, seed: int
) -> Array:
    """The point of the unit cube to try next, (d,): where the expected improvement is largest.

    Upon what is believed of the best configuration, not upon the highest value; times the chance that every constraint
    is kept. running: points whose values are not known yet.
    """
    rng = np.random.default_rng(seed)
    observations = _fewer(observations)
    points, categorical_dims = np.array([trial.point for trial in observations]), _categorical_dims(space)
    values, noise_var = final_values(observations)
    process = fit(points, values, noise_var=noise_var, categorical_dims=categorical_dims)
    known, _ = process.predict(points)
    kept = np.array([all(amount <= 0 for amount in trial.broken.values()) for trial in observations])
    if len(running):
        process = condition_on_fantasies(process, np.array(running), values=values, noise_var=noise_var)
    limits = _limits(observations, categorical_dims)

    def worth(at: Array) -> Array:
        gain = log_expected_improvement(*process.predict(at), float(known[kept].max())) if kept.any() else 0.0
        return np.asarray(gain + sum(_log_chance(limit, at) for limit in limits))

    best = points[np.argsort(-np.where(kept, known, -np.inf), kind="stable")[:AROUND]]
    dimensions = len(space.dimensions)
    near = _near(best[rng.integers(len(best), size=CANDIDATES)], categorical_dims, REACH, rng)
    tried = np.vstack([points, np.array(running)]) if len(running) else points
    candidates = _untried(_in_steps(np.vstack([rng.random((CANDIDATES, dimensions)), near]), space), tried, space)
    for refinement in (1, 2):
        top = candidates[np.argmax(worth(candidates))]
        finer = _near(np.tile(top, (CANDIDATES // 4, 1)), (), REACH / FINER**refinement, rng)
        candidates = _untried(np.vstack([top, _in_steps(finer, space)]), tried, space)
    return np.asarray(candidates[np.argmax(worth(candidates))])


def _fewer(observations: Sequence[Observation]) -> Sequence[Observation]:
    """The best and the newest of them, in their order."""
    if len(observations) <= MAX_OBSERVATIONS:
        return observations
    half = MAX_OBSERVATIONS // 2
    values, _ = final_values(observations)
    best = np.argsort(-values[:-half], kind="stable")[:half]
    return [observations[index] for index in sorted(best.tolist())] + list(observations[-half:])


def _categorical_dims(space: SearchSpace) -> list[int]:
    return [index for index, spec in enumerate(space.dimensions.values()) if spec["type"] == "categorical"]


def _limits(observations: Sequence[Observation], categorical_dims: Sequence[int]) -> list[GaussianProcess]:
    """A process for each constraint that anything breaks."""
    found = []
    for name in sorted({name for trial in observations for name, amount in trial.broken.items() if amount > 0}):
        those = [trial for trial in observations if name in trial.broken]
        amounts = np.array([trial.broken[name] for trial in those])
        points = np.array([trial.point for trial in those])
        found.append(fit(points, amounts, noise_var=np.zeros(len(those)), categorical_dims=categorical_dims))
    return found


def _log_chance(limit: GaussianProcess, points: Array) -> Array:
    """Of keeping a constraint."""
    mean, spread = limit.predict(points)
    return np.asarray(stats.norm.logcdf(-mean / spread))


def _near(centers: Array, categorical_dims: Sequence[int], reach: float, rng: np.random.Generator) -> Array:
    """Points a little off their centers in most dimensions; a category is another one in a fifth of them."""
    moved = centers + reach * rng.standard_normal(centers.shape) * (rng.random(centers.shape) < 0.6)
    for dim in categorical_dims:
        other = rng.random(len(centers)) < 0.2
        moved[:, dim] = np.where(other, rng.random(len(centers)), centers[:, dim])
    return np.clip(moved, 0.0, math.nextafter(1.0, 0.0))


def _in_steps(points: Array, space: SearchSpace) -> Array:
    """Points moved to the middles of the steps that they lie in, where a dimension has steps of equal shares."""
    moved = points.copy()
    for index, (spec, steps) in enumerate(zip(space.dimensions.values(), space.steps().values(), strict=True)):
        if steps is not None and not spec.get("log", False):
            moved[:, index] = (np.minimum(np.floor(moved[:, index] * steps), steps - 1) + 0.5) / steps
    return moved


def _untried(candidates: Array, points: Array, space: SearchSpace) -> Array:
    """The candidates that have not been tried, unless they all have; a seed's second run would tell nothing."""
    if any(steps is None for steps in space.steps().values()):
        return candidates
    new = np.abs(candidates[:, None] - points[None]).max(axis=2).min(axis=1) > 1e-9
    return candidates[new] if new.any() else candidates

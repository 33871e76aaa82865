"""Sampler `local_gp`: most proposals lie near the best trials, where a Gaussian process expects the largest
improvement.

Four proposals in five are chosen by the expected improvement at the last epoch
(`pipeline.tune.study.curve_gp`). Most candidates lie near the `BEST` trials that went furthest, and some
anywhere in the space. The other proposals ignore all results, so that no model can lead a search astray. At
first two in three of these are drawn from the prior (`pipeline.tune.study.prior`), and fewer as trials
accumulate; the rest comes from the whole space.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.config import Values
from pipeline.tune.space import Encoded, SearchSpace
from pipeline.tune.study.curve_gp import Array, condition, fit_parameters, log_expected_improvement
from pipeline.tune.study.prior import Prior

BEST = 3
"""Number of trials near which is searched. One trial may only have been lucky; many are hardly better than the rest."""
BLIND = 0.2
"""Share of proposals that ignore all results."""
REACH, MOVED = 0.12, 0.6
"""Standard deviation of a step in a dimension, as a share of its range; the probability that a dimension is
moved at all.
"""
OTHER_CHOICE = 0.2
"""Probability that a category is drawn anew."""
CANDIDATES, ANYWHERE = 100, 0.25
"""Number of candidates that are compared; the share of them that comes from the whole space."""
MAX_POINTS, FITTED = 200, 40
"""Largest number of points that the process is conditioned on, half of them from the trials that went furthest;
largest number of these to which its parameters are fitted. Time grows with the cubes of these numbers, and so
stays bounded however many trials there are.
"""
PRIOR_TRIALS = 20
"""Number of trials from which on the evidence counts as much as the prior."""
FLOOR = 0.25
"""Depth of the lowest value that counts below the median, as a share of the distance from the median to the
best. Lower values are raised to it, since how bad a bad value is says nothing about where the best ones are.
"""


@dataclass(frozen=True)
class Observation:
    """Trial as the sampler sees it.

    Attributes:
        point: Point in the unit cube.
        curve: Finite values by epoch, more is better; empty for a trial that failed or was never trained.
        broken: Violation of each constraint by name; a constraint is met at 0 or below.
    """

    point: Sequence[float]
    curve: Mapping[int, float]
    broken: Mapping[str, float] = field(default_factory=dict)

    @property
    def violation(self) -> float:
        """Sum of the violations of all constraints."""
        return sum(amount for amount in self.broken.values() if amount > 0)

    @property
    def rank(self) -> tuple[float, int, float]:
        """Sort key that puts the best trial last: violation of constraints, last epoch, value at that epoch."""
        last = max(self.curve, default=0)
        return -self.violation, last, self.curve.get(last, -math.inf)


class LocalSearch:
    """State of `local_gp`: the trials of a study by number. Trials of earlier searches have negative numbers.

    Args:
        space: The search space.
        prior: Prior density over the space.
        metrics: Metrics that proposals are made for in turn, the first objective first; more of each is better.
        epochs: Epochs of a full trial.
    """

    def __init__(self, space: SearchSpace, prior: Prior, metrics: Sequence[str], epochs: int) -> None:
        self._space, self._prior, self._metrics, self._epochs = space, prior, metrics, epochs
        self._points: dict[int, Sequence[float]] = {}
        self._curves: dict[int, dict[str, dict[int, float]]] = {}
        self._broken: dict[int, Mapping[str, float]] = {}

    def start(self, number: int, values: Values) -> None:
        """Adds a running trial with these encoded values."""
        self._points[number] = self._space.shares(self._space.decode(values))
        self._curves[number] = {}

    def report(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Adds the values of one epoch; values that are not finite are left out.

        Args:
            number: The trial's number.
            epoch: Number of the epoch, counted from 1.
            metrics: Values by name, more is better.
        """
        for name in self._metrics:
            if math.isfinite(value := metrics.get(name, math.nan)):
                self._curves[number].setdefault(name, {})[epoch] = value

    def hold(self, number: int, broken: Mapping[str, float], *, failed: bool = False) -> None:
        """Records that a trial is paused, or has ended.

        Unlike Optuna's samplers, this one learns from failed trials too. It mostly proposes near the best
        trials, and would otherwise propose failing configurations again.

        Args:
            number: The trial's number.
            broken: Violation of each constraint by name.
            failed: Whether the trial failed.
        """
        self._broken[number] = broken
        if failed:
            self._curves[number] = {}

    def resume(self, number: int) -> None:
        """Records that a paused trial goes on."""
        self._broken.pop(number, None)

    def propose(self, number: int, *, seed: int) -> Encoded:
        """Returns the encoded values of the next trial, for the metric that its number selects."""
        metric = self._metrics[number % len(self._metrics)]
        held, going, running = [], [], []
        # Trials are sorted by number, not by the time of their end, so that a resumed search proposes exactly the same.
        for each, point in sorted(self._points.items()):
            curve = self._curves[each].get(metric, {})
            if each in self._broken:
                # Trials of earlier searches (negative numbers) may lack a metric without having failed.
                if curve or each >= 0:
                    held.append(Observation(point, curve, self._broken[each]))
            elif curve:
                going.append(Observation(point, curve))
            else:
                running.append(point)
        found = propose(self._space, self._prior, [*held, *going], running, epochs=self._epochs, seed=seed)
        return self._space.value_at(found.tolist())


def propose(
    space: SearchSpace,
    prior: Prior,
    observations: Sequence[Observation],
    running: Sequence[Sequence[float]],
    *,
    epochs: int,
    seed: int,
) -> Array:
    """Returns the point of the unit cube to try next, (d,).

    Args:
        space: The search space.
        prior: Prior density over the space.
        observations: Trials with results.
        running: Points of trials without any result yet.
        epochs: Epochs of a full trial.
        seed: Seed of this proposal.
    """
    rng = np.random.default_rng(seed)
    num_dims = len(space.dimensions)
    if rng.random() < BLIND or not any(trial.curve for trial in observations):
        anywhere = rng.random((1, num_dims))
        believed = prior.is_informative and rng.random() < trust(len(observations))
        return np.asarray((prior.quantile(anywhere) if believed else anywhere)[0])
    specs = enumerate(space.dimensions.values())
    num_choices = {dim: len(spec["choices"]) for dim, spec in specs if spec["type"] == "categorical"}
    categorical_dims = list(num_choices)
    best = sorted(observations, key=lambda trial: trial.rank)[-BEST:]
    num_anywhere = int(ANYWHERE * CANDIDATES)
    centers = np.array([trial.point for trial in best])[rng.integers(len(best), size=CANDIDATES - num_anywhere)]
    candidates = np.vstack([_near(centers, categorical_dims, rng), rng.random((num_anywhere, num_dims))])
    for dim, count in num_choices.items():
        # Candidates take the middle of a choice's share, as trials do. At any other place of the share the process
        # would take it for another category.
        candidates[:, dim] = (np.floor(candidates[:, dim] * count) + 0.5) / count
    worth = _expected_improvement(observations, running, candidates, categorical_dims, epochs, rng)
    if prior.is_informative:
        worth = worth + PRIOR_TRIALS / (PRIOR_TRIALS + len(observations)) * prior.log_density(candidates) / num_dims
    return np.asarray(candidates[np.argmax(worth)])


def trust(num_trials: int) -> float:
    """Returns the share of blind proposals that is drawn from the prior; it falls as trials accumulate."""
    return 2 / 3 * PRIOR_TRIALS / (PRIOR_TRIALS + num_trials)


def _near(centers: Array, categorical_dims: Sequence[int], rng: np.random.Generator) -> Array:
    """Returns points a random step away from the centers.

    Args:
        centers: Points in the unit cube, (n, d).
        categorical_dims: Dimensions that are categories.
        rng: Random generator.
    """
    moved = centers + REACH * rng.standard_normal(centers.shape) * (rng.random(centers.shape) < MOVED)
    for dim in categorical_dims:
        other = rng.random(len(centers)) < OTHER_CHOICE
        moved[:, dim] = np.where(other, rng.random(len(centers)), centers[:, dim])
    return np.clip(moved, 0.0, math.nextafter(1.0, 0.0))


def _expected_improvement(
    observations: Sequence[Observation],
    running: Sequence[Sequence[float]],
    candidates: Array,
    categorical_dims: Sequence[int],
    epochs: int,
    rng: np.random.Generator,
) -> Array:
    """Returns the logarithm of each candidate's expected improvement at the last epoch, (m,).

    The improvement is measured from the highest value that the process expects of the points tried so far.

    Args:
        observations: Trials with results.
        running: Points of trials without any result yet.
        candidates: Points in the unit cube, (m, d).
        categorical_dims: Dimensions that are categories.
        epochs: Epochs of a full trial.
        rng: Random generator.
    """
    points, progress, values, ranks = _points_of_curves(observations, epochs)
    # Points are limited to those of the trials that went furthest, and a random draw of the others.
    order = np.argsort(-ranks, kind="stable")
    half = MAX_POINTS // 2
    if len(order) > MAX_POINTS:
        order = np.concatenate([order[:half], rng.choice(order[half:], MAX_POINTS - half, replace=False)])
    points, progress, values = points[order], progress[order], values[order]
    standard = (values - values.mean()) / (values.std() or 1.0)
    fitted = np.arange(len(order))
    if len(order) > FITTED:
        rest = rng.choice(fitted[FITTED // 2 :], FITTED - FITTED // 2, replace=False)
        fitted = np.concatenate([fitted[: FITTED // 2], rest])
    parameters = fit_parameters(points[fitted], progress[fitted], standard[fitted], categorical_dims=categorical_dims)
    process = condition(points, progress, standard, parameters, categorical_dims=categorical_dims)
    highest = float(process.predict(points)[0].max())
    if len(running):
        # Running trials enter with the values expected of them. The process learns nothing from these values, but
        # candidates must exceed them, and are less uncertain near them.
        expected, _ = process.predict(np.array(running))
        highest = max(highest, float(expected.max()))
        points, standard = np.vstack([points, np.array(running)]), np.concatenate([standard, expected])
        progress = np.concatenate([progress, np.ones(len(running))])
        process = condition(points, progress, standard, parameters, categorical_dims=categorical_dims)
    return log_expected_improvement(*process.predict(candidates), highest)


def _points_of_curves(observations: Sequence[Observation], epochs: int) -> tuple[Array, Array, Array, Array]:
    """Returns the points that the process is conditioned on.

    A trial that failed, or breaks a constraint, enters with the lowest value.

    Returns:
        Points of the unit cube (n, d), progress (n,), values (n,), and ranks (n,); points of the highest rank
        are kept.
    """
    lasts = [trial.curve[max(trial.curve)] for trial in observations if trial.curve and not trial.violation]
    lasts = lasts or [value for trial in observations for value in trial.curve.values()]
    middle, best = float(np.median(lasts)), max(lasts)
    floor = middle - FLOOR * (best - middle)
    points, progress, values, ranks = [], [], [], []
    for trial in observations:
        good = trial.curve if not trial.violation else {}
        for epoch in _halves(good) or [1]:
            points.append(trial.point)
            progress.append(math.log(epoch) / math.log(epochs) if epochs > 1 else 1.0)
            values.append(max(good.get(epoch, floor), floor))
            ranks.append((epoch, values[-1]))
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    places = np.empty(len(ranks))
    places[order] = np.arange(len(ranks))
    return np.array(points), np.array(progress), np.array(values), places


def _halves(curve: Mapping[int, float]) -> list[int]:
    """Returns epochs of a curve: the last one, and going down, each that is at most half of the one before."""
    found: list[int] = []
    for epoch in sorted(curve, reverse=True):
        if not found or epoch <= found[-1] / 2:
            found.append(epoch)
    return found

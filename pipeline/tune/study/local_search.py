"""Sampler `local_gp`: most proposals lie near the best trials, where a Gaussian process expects the most of them.

Four proposals in five are chosen among points near the `BEST` trials that went furthest, and some from all over the
space, by the expected improvement at the last epoch (`pipeline.tune.study.curve_gp`). The others look at no result, so
that no model can lead a search astray: they come from all over the space, or at first two in three of them from what is
believed beforehand (`pipeline.tune.study.prior`), and ever fewer as trials accumulate.
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
"""Trials near which is searched. One would be a lucky run's neighbourhood, and many hardly better than the rest."""
BLIND = 0.2
"""Share of proposals that look at no result."""
REACH, MOVED = 0.12, 0.6
"""Standard deviation of a step in a dimension, as a share of its range; the chance that a dimension is moved at all."""
OTHER_CHOICE = 0.2
"""Chance that a category is another one."""
CANDIDATES, ANYWHERE = 100, 0.25
"""Points that are compared; the share of them that comes from all over the space."""
MAX_POINTS, FITTED = 200, 40
"""Points that the process has seen, half of them of the trials that went furthest; of these, those that its parameters
are fitted to. Its time grows with their cubes, and stays the same however many trials there are."""
PRIOR_TRIALS = 20
"""Trials after which evidence counts as much as what is believed beforehand."""
FLOOR = 0.25
"""What is worse than the median counts as below it by this share of the distance to the best: how bad a bad one is
tells nothing of where the best ones are."""


@dataclass(frozen=True)
class Observation:
    """A trial, as the sampler sees it.

    point: in the unit cube. curve: finite values by epoch, more is better; of a trial that failed, or was never
    trained, empty. broken: by how much it breaks a constraint, by name; kept at 0 or below.
    """

    point: Sequence[float]
    curve: Mapping[int, float]
    broken: Mapping[str, float] = field(default_factory=dict)

    @property
    def violation(self) -> float:
        return sum(amount for amount in self.broken.values() if amount > 0)

    @property
    def rank(self) -> tuple[float, int, float]:
        """What trials are ordered by, the best last: constraints, how far it went, its value there."""
        last = max(self.curve, default=0)
        return -self.violation, last, self.curve.get(last, -math.inf)


class LocalSearch:
    """What `local_gp` knows of a study's trials, by number; those of earlier searches have numbers below 0.

    metrics: what is searched for in turn, the first objective first; more of each is better. epochs: of a whole trial.
    """

    def __init__(self, space: SearchSpace, prior: Prior, metrics: Sequence[str], epochs: int) -> None:
        self._space, self._prior, self._metrics, self._epochs = space, prior, metrics, epochs
        self._points: dict[int, Sequence[float]] = {}
        self._curves: dict[int, dict[str, dict[int, float]]] = {}
        self._broken: dict[int, Mapping[str, float]] = {}

    def start(self, number: int, values: Values) -> None:
        """A trial of these encoded values is running."""
        self._points[number] = self._space.shares(self._space.decode(values))
        self._curves[number] = {}

    def report(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """An epoch of a trial. Values that are no numbers are left out."""
        for name in self._metrics:
            if math.isfinite(value := metrics.get(name, math.nan)):
                self._curves[number].setdefault(name, {})[epoch] = value

    def hold(self, number: int, broken: Mapping[str, float], *, failed: bool = False) -> None:
        """A trial is paused, or has ended. Unlike Optuna's samplers this one learns from trials that failed, too: what
        mostly proposes near the best ones would come back to them.
        """
        self._broken[number] = broken
        if failed:
            self._curves[number] = {}

    def resume(self, number: int) -> None:
        """A trial that was paused goes on."""
        self._broken.pop(number, None)

    def propose(self, number: int, *, seed: int) -> Encoded:
        """The encoded values of the next trial, for one of the metrics by its number."""
        metric = self._metrics[number % len(self._metrics)]
        held, going, running = [], [], []
        # In the order of the numbers, not that in which they ended: so it is after a resume, to the last bit.
        for each, point in sorted(self._points.items()):
            curve = self._curves[each].get(metric, {})
            if each in self._broken:
                # A metric that no trial of an earlier search has is not a sign that they failed.
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
    """The point of the unit cube to try next, (d,).

    Args:
        space: Whose points these are.
        prior: What is believed beforehand.
        observations: Trials with what is known of them.
        running: Points of which nothing is known yet.
        epochs: Of a whole trial.
        seed: Of this proposal.
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
        # The middle of a choice's share, as trials have it: another place of the share would be another category.
        candidates[:, dim] = (np.floor(candidates[:, dim] * count) + 0.5) / count
    worth = _expected_improvement(observations, running, candidates, categorical_dims, epochs, rng)
    if prior.is_informative:
        worth = worth + PRIOR_TRIALS / (PRIOR_TRIALS + len(observations)) * prior.log_density(candidates) / num_dims
    return np.asarray(candidates[np.argmax(worth)])


def trust(num_trials: int) -> float:
    """Of the proposals that look at no result, the share that is drawn from the prior: it falls with the evidence."""
    return 2 / 3 * PRIOR_TRIALS / (PRIOR_TRIALS + num_trials)


def _near(centers: Array, categorical_dims: Sequence[int], rng: np.random.Generator) -> Array:
    """Points a step off their centers."""
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
    """Its logarithm, at the last epoch, over the highest value that is expected of what has been tried."""
    points, progress, values, ranks = _points_of_curves(observations, epochs)
    # Those of the trials that went furthest, and a draw of the others.
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
        # As if they had come to what is expected of them: nothing is learned, but another one must be better than they.
        expected, _ = process.predict(np.array(running))
        highest = max(highest, float(expected.max()))
        points, standard = np.vstack([points, np.array(running)]), np.concatenate([standard, expected])
        progress = np.concatenate([progress, np.ones(len(running))])
        process = condition(points, progress, standard, parameters, categorical_dims=categorical_dims)
    return log_expected_improvement(*process.predict(candidates), highest)


def _points_of_curves(observations: Sequence[Observation], epochs: int) -> tuple[Array, Array, Array, Array]:
    """Points of the unit cube (n, d), progress (n,), values (n,), and by what order they are kept (n,), highest first.

    A trial that failed, or breaks a constraint, stands at the lowest value.
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
    """Epochs of a curve, the last one and down from there by halves at least, as far as it is known."""
    found: list[int] = []
    for epoch in sorted(curve, reverse=True):
        if not found or epoch <= found[-1] / 2:
            found.append(epoch)
    return found

"""Effects of parameters in a search's own trials, tested against chance by permutations of ranks.

Trials are compared at two times: at the first rung, which all trials reach, and at the end, which only some
reach. Results enter as ranks, so that a trial that went wrong has no more weight than the worst one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.tune.journal.records import COMPLETE, FAILED, PRUNED, TrialRecord
from pipeline.tune.objectives.objectives import LOWER_IS_BETTER
from pipeline.tune.space import SearchSpace

PERMUTATIONS = 999
"""Number of random permutations of a test."""
SEED = 0
"""Seed of the permutations, so that examining a search twice gives the same findings."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Trials at one time, by one metric.

    Attributes:
        metric: Name of the metric.
        epoch: Epoch at which they are compared; None for their last one.
        trials: Ids of the n trials.
        shares: Place of each trial in the space, by dimension: (n,) in [0, 1] from low to high, on a log scale
            where the dimension has one; for a category, the place of its choice.
        ranks: Ranks by the metric, (n,), the best trial highest.
    """

    metric: str
    epoch: int | None
    trials: Sequence[str]
    shares: Mapping[str, Array]
    ranks: Array

    @property
    def place(self) -> str:
        """Time of the comparison, in words."""
        return "at the end" if self.epoch is None else f"at epoch {self.epoch}"


def make_sample(trials: Sequence[TrialRecord], space: SearchSpace, metric: str, epoch: int | None) -> Sample:
    """Returns the trials that have the metric at an epoch.

    A trial that diverged earlier counts as the worst. A trial that failed otherwise, or lies outside of the
    space, is left out.

    Args:
        trials: Trials of one study.
        space: The search space.
        metric: Name of the metric.
        epoch: The epoch; None for the last one of trials that ran in full.
    """
    from scipy import stats  # imported here, so that commands that do not need it answer at once

    ids, points, values = [], [], []
    for trial in trials:
        value = _value(trial, metric, epoch)
        if np.isnan(value) or space.values_outside(trial.values) or not space.dimensions.keys() <= trial.values.keys():
            continue
        ids.append(trial.id)
        points.append(space.shares(trial.values))
        values.append(-value if metric in LOWER_IS_BETTER and np.isfinite(value) else value)
    columns = np.array(points, dtype=np.float64).reshape(len(ids), len(space.dimensions))
    shares = {path: columns[:, place] for place, path in enumerate(space.dimensions)}
    ranks = np.asarray(stats.rankdata(values), dtype=np.float64) if values else np.empty(0)
    return Sample(metric, epoch, ids, shares, ranks)


def _value(trial: TrialRecord, metric: str, epoch: int | None) -> float:
    """Returns a trial's metric at an epoch; NaN if it is missing, -inf for a trial that diverged earlier.

    Args:
        trial: The trial.
        metric: Name of the metric.
        epoch: The epoch; None for the last one of a trial that ran in full.
    """
    if trial.state == FAILED and (epoch is None or metric not in trial.epochs.get(epoch, {})):
        return -np.inf if (trial.reason or "").startswith("diverged") else np.nan
    compared = (COMPLETE,) if epoch is None else (COMPLETE, PRUNED, FAILED)
    return float(trial.metric(metric, epoch)) if trial.state in compared else np.nan


def basis(shares: Array, *, categorical: bool) -> Array:
    """Returns a parameter as centred columns, (n, k).

    A number gives its value and, with more than two values, its square. A category gives an indicator of each
    choice that occurs but one. A parameter with one value in all trials gives no column.
    """
    levels = np.unique(shares)
    if categorical:
        columns = (shares[:, None] == levels[:-1]).astype(np.float64)
    else:
        columns = shares[:, None] ** np.arange(1, min(len(levels), 3))
    return np.asarray(columns - columns.mean(axis=0) if len(shares) else columns)


def effect_p_value(sample: Sample, path: str, categorical: Mapping[str, bool]) -> float | None:
    """Returns the probability of an effect as large as a parameter's if it has none.

    The size of an effect is the R2 that the parameter's columns add to those of all others. It is compared with
    the same for random permutations of the parameter's values over the trials.

    Args:
        sample: The trials.
        path: The parameter's dotted path.
        categorical: Whether each parameter is categorical, by dotted path.

    Returns:
        (1 + permutations that add as much) / (1 + permutations); None if trials are too few for the test, or
        all of them have one value of the parameter.
    """
    own = basis(sample.shares[path], categorical=categorical[path])
    rest = {name: column for name, column in sample.shares.items() if name != path}
    others = _columns(rest, categorical, len(sample.ranks))
    n, spread = len(sample.ranks), sample.ranks - sample.ranks.mean() if len(sample.ranks) else sample.ranks
    if own.shape[1] == 0 or n < 2 * (own.shape[1] + others.shape[1]) + 2 or not spread.any():
        return None
    q = _orthonormal(others)
    left = spread - q @ (q.T @ spread)
    columns = np.concatenate([own[None], own[_orders(n)]])  # (1 + permutations, n, k), the first one not permuted
    columns = columns - q @ (q.T @ columns)
    gram = np.einsum("pnk,pnl->pkl", columns, columns) + 1e-12 * np.eye(own.shape[1])
    against = np.einsum("pnk,n->pk", columns, left)
    gained = np.einsum("pk,pk->p", against, np.linalg.solve(gram, against[..., None])[..., 0])
    return float((gained >= gained[0] * (1 - 1e-9)).mean())


def _orthonormal(columns: Array) -> Array:
    """Returns an orthonormal basis of the space that the columns span, (n, rank)."""
    if not columns.shape[1]:
        return columns
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, sizes > 1e-9 * max(1.0, sizes[0])])


@dataclass(frozen=True)
class Edge:
    """Evidence for an optimum beyond an end of a range.

    Attributes:
        trials: Number of trials examined.
        correlation: Spearman's correlation of nearness to the end and rank among these.
        p_value: One-sided p-value, by permutation.
        rises: Whether a parabola through all trials rises at the end.
    """

    trials: int
    correlation: float
    p_value: float
    rises: bool


def examine_edge(
    sample: Sample, path: str, categorical: Mapping[str, bool], *, upper: bool, without: str
) -> Edge | None:
    """Tests whether, in the half of the range before an end, trials are better the nearer they are to that end.

    If there are enough trials, the part of the ranks that the other parameters explain is subtracted first.

    Args:
        sample: The trials.
        path: The parameter's dotted path.
        categorical: Whether each parameter is categorical, by dotted path.
        upper: Whether to test the upper end, rather than the lower.
        without: Id of the best trial, which is left out, since it was chosen for its result.

    Returns:
        The evidence; None with fewer than four trials in that half, or with equal values among them.
    """
    from scipy import stats  # as above

    others = np.array([trial != without for trial in sample.trials], dtype=bool)
    near = (sample.shares[path] if upper else 1 - sample.shares[path])[others]
    chosen = near >= 0.5
    if chosen.sum() < 4 or len(set(near[chosen])) < 2 or len(set(sample.ranks[others][chosen])) < 2:
        return None
    left = sample.ranks[others] - sample.ranks[others].mean()
    shares = {name: column[others] for name, column in sample.shares.items() if name != path}
    columns = _columns(shares, categorical, len(left))
    squared = len(set(near)) > 2
    own = near[:, None] ** np.arange(1, 3 if squared else 2)
    if len(left) >= 3 * columns.shape[1] + 4:
        # The parameters are fitted together. Otherwise the part that the others share with this parameter would be
        # subtracted as theirs.
        fitted = np.linalg.lstsq(np.concatenate([columns, own - own.mean(axis=0)], axis=1), left, rcond=None)[0]
        left = left - columns @ fitted[: columns.shape[1]]
    place = np.asarray(stats.rankdata(near[chosen]), dtype=np.float64)
    rank = np.asarray(stats.rankdata(np.round(left[chosen], 9)), dtype=np.float64)
    place, rank = place - place.mean(), rank - rank.mean()
    products = np.concatenate([[place @ rank], rank[_orders(len(rank))] @ place])
    size = float(np.sqrt((place @ place) * (rank @ rank)))
    fitted = np.polynomial.polynomial.polyfit(near, left, 2 if squared else 1)
    slope = fitted[1] + (2 * fitted[2] if squared else 0.0)
    p_value = float((products >= products[0] - 1e-9).mean())
    return Edge(int(chosen.sum()), float(products[0] / size) if size else 0.0, p_value, bool(slope > 0))


def _columns(shares: Mapping[str, Array], categorical: Mapping[str, bool], n: int) -> Array:
    """Returns the columns of several parameters side by side, (n, k).

    Args:
        shares: Places of the trials by parameter, (n,) each.
        categorical: Whether each parameter is categorical, by dotted path.
        n: Number of trials.
    """
    found = [basis(column, categorical=categorical[name]) for name, column in shares.items()]
    return np.concatenate([np.empty((n, 0)), *found], axis=1)


def _orders(n: int) -> NDArray[np.int64]:
    """Returns random permutations of n, (PERMUTATIONS, n)."""
    return np.random.default_rng(SEED).permuted(np.tile(np.arange(n), (PERMUTATIONS, 1)), axis=1)

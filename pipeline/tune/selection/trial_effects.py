"""What a search's own trials show of its parameters, against what chance would, by permutations of ranks.

Trials are compared at two times: at the first rung, to which all came, and at the end, to which those came that were
let through. Results enter as ranks, so that one that went wrong weighs no more than the worst.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.tune.journal.records import COMPLETE, FAILED, PRUNED, TrialRecord
from pipeline.tune.objectives.objectives import LOWER_IS_BETTER
from pipeline.tune.space import SearchSpace

PERMUTATIONS = 999
SEED = 0
"""Of the permutations: a search looked at twice says the same."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Trials at one time, by one metric.

    metric: its name. epoch: where they were compared, None for their last. trials: ids, n. shares: where each lies in
    the space, by dimension, (n,) in [0, 1] from low to high, on its log scale where there is one; of a category its
    choice's place. ranks: of the metric, (n,), the highest the best.
    """

    metric: str
    epoch: int | None
    trials: Sequence[str]
    shares: Mapping[str, Array]
    ranks: Array

    @property
    def place(self) -> str:
        """The time, in words."""
        return "at the end" if self.epoch is None else f"at epoch {self.epoch}"


def make_sample(trials: Sequence[TrialRecord], space: SearchSpace, metric: str, epoch: int | None) -> Sample:
    """The trials that have the metric then. One that diverged before counts as the worst; what failed otherwise, or
    lies outside of the space, is left out.
    """
    from scipy import stats  # here, so that commands that need none of it answer at once

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
    """NaN if there is none, -inf for a trial that diverged first."""
    if trial.state == FAILED:
        diverged = (trial.reason or "").startswith("diverged")
        if epoch is not None and metric in trial.epochs.get(epoch, {}):
            return float(trial.epochs[epoch][metric])
        return -np.inf if diverged else np.nan
    if epoch is None:
        return trial.metric(metric) if trial.state == COMPLETE else np.nan
    return float(trial.epochs.get(epoch, {}).get(metric, np.nan)) if trial.state in (COMPLETE, PRUNED) else np.nan


def basis(shares: Array, *, categorical: bool) -> Array:
    """A parameter as columns, (n, k), centred: line and parabola of a number, all but one of the choices there are;
    none of what is the same in all trials.
    """
    levels = np.unique(shares)
    if categorical:
        columns = (shares[:, None] == levels[:-1]).astype(np.float64)
    else:
        columns = shares[:, None] ** np.arange(1, min(len(levels), 3))
    return np.asarray(columns - columns.mean(axis=0) if len(shares) else columns)


def effect_p_value(sample: Sample, path: str, categorical: Mapping[str, bool]) -> float | None:
    """How probable an effect as large as a parameter's is where it has none: R2 that its columns add to those of all
    others, against the same with its values dealt out to the trials at random.

    Returns:
        (1 + permutations that add as much) / (1 + permutations); None where trials are too few to tell, or all of them
        have one value of it.
    """
    own = basis(sample.shares[path], categorical=categorical[path])
    rest = {name: column for name, column in sample.shares.items() if name != path}
    others = _columns(rest, categorical, len(sample.ranks))
    n, spread = len(sample.ranks), sample.ranks - sample.ranks.mean() if len(sample.ranks) else sample.ranks
    if own.shape[1] == 0 or n < 2 * (own.shape[1] + others.shape[1]) + 2 or not spread.any():
        return None
    q = _orthonormal(others)
    left = spread - q @ (q.T @ spread)
    columns = np.concatenate([own[None], own[_orders(n)]])  # (1 + permutations, n, k), the first as it was
    columns = columns - q @ (q.T @ columns)
    gram = np.einsum("pnk,pnl->pkl", columns, columns) + 1e-12 * np.eye(own.shape[1])
    against = np.einsum("pnk,n->pk", columns, left)
    gained = np.einsum("pk,pk->p", against, np.linalg.solve(gram, against[..., None])[..., 0])
    return float((gained >= gained[0] * (1 - 1e-9)).mean())


def _orthonormal(columns: Array) -> Array:
    if not columns.shape[1]:
        return columns
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, sizes > 1e-9 * max(1.0, sizes[0])])


@dataclass(frozen=True)
class Edge:
    """What speaks for an optimum beyond an end of a range. trials: looked at. correlation: Spearman's, of nearness and
    rank among them. p_value: one-sided, by permutation. rises: whether a parabola through all trials rises at the end.
    """

    trials: int
    correlation: float
    p_value: float
    rises: bool


def examine_edge(
    sample: Sample, path: str, categorical: Mapping[str, bool], *, upper: bool, without: str
) -> Edge | None:
    """Whether trials in the half of the range before an end are the better, the nearer they are to it.

    What the other parameters explain of the ranks is taken off first, where there are trials enough. upper: the upper
    end, else the lower. without: the best trial's id, which does not speak for itself. None with fewer than four trials
    there, or nothing that differs.
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
        # Fitted together, or what the others share with this parameter would be taken off as theirs.
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
    """The columns of several parameters side by side, (n, k)."""
    found = [basis(column, categorical=categorical[name]) for name, column in shares.items()]
    return np.concatenate([np.empty((n, 0)), *found], axis=1)


def _orders(n: int) -> NDArray[np.int64]:
    """Permutations of n, a row each."""
    return np.random.default_rng(SEED).permuted(np.tile(np.arange(n), (PERMUTATIONS, 1)), axis=1)

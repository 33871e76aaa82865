"""What trials show of parameters: effects and edges, against restatements that permute in a loop, and nasty records."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipeline.tune.journal.records import COMPLETE, FAILED, PRUNED, VAL_ACCURACY, TrialRecord
from pipeline.tune.selection.trial_effects import (
    PERMUTATIONS,
    SEED,
    Sample,
    basis,
    effect_p_value,
    examine_edge,
    make_sample,
)
from pipeline.tune.space import SearchSpace

LR, LAYERS, DROP = "train.lr", "regularizer.spatial_entropy.layers", "model.drop_path"
SPACE = SearchSpace(
    "space.yaml",
    {
        LR: {"type": "float", "low": 0.001, "high": 1.0, "log": True},
        LAYERS: {"type": "categorical", "choices": ["last", "last_two", "all"]},
        DROP: {"type": "float", "low": 0.0, "high": 0.4},
    },
    {"baseline": {}},
)
CATEGORICAL = {LR: False, LAYERS: True, DROP: False}


def trial(number: int, accuracy: float, state: str = COMPLETE, reason: str | None = None, **values: Any) -> TrialRecord:
    point = {LR: 0.1, LAYERS: "last", DROP: 0.1} | {name.replace("__", "."): value for name, value in values.items()}
    record = TrialRecord(f"t{number:04d}", number, point, state=state, reason=reason, study="search")
    record.epochs = {1: {VAL_ACCURACY: accuracy, "val/loss": 1 - accuracy}}
    return record


def random_sample(seed: int, n: int, effect: float) -> Sample:
    rng = np.random.default_rng(seed)
    shares = {LR: rng.random(n), LAYERS: rng.choice([1 / 6, 0.5, 5 / 6], n), DROP: rng.random(n)}
    value = effect * -((shares[LR] - 0.6) ** 2) * 12 + rng.standard_normal(n) + shares[LAYERS]
    return Sample(VAL_ACCURACY, None, [f"t{i:04d}" for i in range(n)], shares, stats.rankdata(value))


def slow_p_value(sample: Sample, path: str) -> float:
    """R2 with the parameter less R2 without, by least squares, for every permutation by itself."""
    others = [basis(sample.shares[name], categorical=CATEGORICAL[name]) for name in sample.shares if name != path]
    n = len(sample.ranks)
    y = sample.ranks - sample.ranks.mean()

    def explained(columns: list[np.ndarray[Any, Any]]) -> float:
        x = np.concatenate([np.ones((n, 1)), *columns], axis=1)
        fitted = x @ np.linalg.lstsq(x, y, rcond=None)[0]
        return float(1 - ((y - fitted) ** 2).sum() / (y**2).sum())

    own = basis(sample.shares[path], categorical=CATEGORICAL[path])
    without = explained(others)
    first = explained([*others, own]) - without
    orders = np.random.default_rng(SEED).permuted(np.tile(np.arange(n), (PERMUTATIONS, 1)), axis=1)
    count = 1 + sum(explained([*others, own[order]]) - without >= first - 1e-9 for order in orders)
    return count / (1 + PERMUTATIONS)


@pytest.mark.parametrize("path", SPACE.dimensions)
def test_effect_is_what_the_permutations_say_one_by_one(path: str) -> None:
    sample = random_sample(3, 20, 0.5)
    assert effect_p_value(sample, path, CATEGORICAL) == pytest.approx(slow_p_value(sample, path), abs=0.0015)


def test_parameter_without_effect_has_even_p_values_and_one_with_an_optimum_inside_has_low_ones() -> None:
    null = [effect_p_value(random_sample(seed, 40, 0.0), LR, CATEGORICAL) for seed in range(60)]
    assert 0.3 < np.mean([p for p in null if p is not None]) < 0.7
    assert stats.kstest([p for p in null if p is not None], "uniform").pvalue > 0.001
    clear = [effect_p_value(random_sample(seed, 40, 2.0), LR, CATEGORICAL) for seed in range(20)]
    assert max(p for p in clear if p is not None) < 0.02


def test_effect_is_not_examined_of_few_trials_one_value_or_equal_results() -> None:
    assert effect_p_value(random_sample(0, 13, 1.0), LR, CATEGORICAL) is None
    assert effect_p_value(random_sample(0, 14, 1.0), LR, CATEGORICAL) is not None
    sample = random_sample(0, 30, 1.0)
    same = Sample(VAL_ACCURACY, None, sample.trials, {**sample.shares, LR: np.full(30, 0.5)}, sample.ranks)
    assert effect_p_value(same, LR, CATEGORICAL) is None
    assert effect_p_value(same, DROP, CATEGORICAL) is not None
    flat = Sample(VAL_ACCURACY, None, sample.trials, sample.shares, np.full(30, 15.5))
    assert effect_p_value(flat, LR, CATEGORICAL) is None
    assert effect_p_value(make_sample([], SPACE, VAL_ACCURACY, None), LR, CATEGORICAL) is None


def test_columns_of_a_parameter() -> None:
    assert basis(np.full(4, 0.5), categorical=False).shape == (4, 0)
    assert basis(np.full(4, 0.5), categorical=True).shape == (4, 0)
    assert basis(np.array([0.0, 1.0, 1.0]), categorical=False).shape == (3, 1)
    assert basis(np.array([0.0, 0.5, 1.0]), categorical=False).shape == (3, 2)
    assert basis(np.array([0.1, 0.5, 0.9, 0.9]), categorical=True).shape == (4, 2)
    assert basis(np.empty(0), categorical=False).shape[0] == 0


def test_ranks_are_higher_the_better_and_what_diverged_is_the_worst() -> None:
    trials = [
        trial(0, 0.7),
        trial(1, 0.9),
        trial(2, 0.8, state=PRUNED),
        trial(3, math.nan),
        trial(4, 0.5, FAILED, "diverged: the loss is nan"),
        trial(5, 0.5, FAILED, "out of memory"),
        trial(6, 0.5, state="infeasible"),
        trial(7, 0.5, train__lr=7.0),
    ]
    trials[4].epochs = {}
    trials[6].epochs = {}
    del trials[2].values[DROP]
    early = make_sample(trials, SPACE, VAL_ACCURACY, 1)
    assert dict(zip(early.trials, early.ranks, strict=True)) == {"t0000": 3, "t0001": 4, "t0004": 1, "t0005": 2}
    trials[2].values[DROP] = 0.4
    loss = make_sample(trials, SPACE, "val/loss", 1)
    ranks = {"t0000": 3, "t0001": 5, "t0002": 4, "t0004": 1, "t0005": 2}
    assert dict(zip(loss.trials, loss.ranks, strict=True)) == ranks
    late = make_sample(trials, SPACE, VAL_ACCURACY, None)
    assert dict(zip(late.trials, late.ranks, strict=True)) == {"t0000": 2, "t0001": 3, "t0004": 1}
    assert late.shares[LR] == pytest.approx([2 / 3] * 3)
    assert (early.place, late.place) == ("at epoch 1", "at the end")
    assert make_sample(trials, SPACE, "val/attention/auroc", 1).trials == ["t0004"]


def slow_edge(near: list[float], values: list[float]) -> tuple[float, float]:
    """Spearman's correlation over the half before the end, and the share of permutations that reach it."""
    pairs = [(place, value) for place, value in zip(near, values, strict=True) if place >= 0.5]
    place, rank = stats.rankdata([p for p, _ in pairs]), stats.rankdata([v for _, v in pairs])
    orders = np.random.default_rng(SEED).permuted(np.tile(np.arange(len(rank)), (PERMUTATIONS, 1)), axis=1)
    first = stats.spearmanr(place, rank).statistic
    count = 1 + sum(np.corrcoef(place, rank[order])[0, 1] >= first - 1e-9 for order in orders)
    return float(first), count / (1 + PERMUTATIONS)


@pytest.mark.parametrize("upper", [True, False])
def test_edge_is_what_permutations_of_the_half_before_it_say(upper: bool) -> None:
    rng = np.random.default_rng(4)
    shares, noise = rng.random(24), rng.standard_normal(24)
    ranks = stats.rankdata((3 if upper else -3) * shares + noise)
    ids = [f"t{i:04d}" for i in range(24)]
    best = ids[int(np.argmax(ranks))]
    edge = examine_edge(Sample(VAL_ACCURACY, 3, ids, {LR: shares}, ranks), LR, {LR: False}, upper=upper, without=best)
    others = [
        (share if upper else 1 - share, rank)
        for share, rank, name in zip(shares, ranks, ids, strict=True)
        if name != best
    ]
    correlation, p_value = slow_edge([near for near, _ in others], [rank for _, rank in others])
    assert edge is not None
    assert edge.trials == sum(near >= 0.5 for near, _ in others)
    assert edge.correlation == pytest.approx(correlation)
    assert edge.p_value == pytest.approx(p_value, abs=1e-12)
    assert edge.rises


def test_edge_of_an_optimum_inside_does_not_rise() -> None:
    shares = np.linspace(0, 1, 30)
    sample = Sample(
        VAL_ACCURACY, None, [f"t{i:04d}" for i in range(30)], {LR: shares}, stats.rankdata(-((shares - 0.7) ** 2))
    )
    edge = examine_edge(sample, LR, {LR: False}, upper=True, without="t0029")
    assert edge is not None
    assert not edge.rises


def test_edge_takes_off_what_other_parameters_explain() -> None:
    rng = np.random.default_rng(5)
    shares = {LR: rng.random(40), DROP: rng.random(40)}
    ranks = stats.rankdata(shares[LR] + 20 * shares[DROP])
    sample = Sample(VAL_ACCURACY, None, [f"t{i:04d}" for i in range(40)], shares, ranks)
    edge = examine_edge(sample, LR, {LR: False, DROP: False}, upper=True, without="none")
    assert edge is not None
    assert edge.correlation > 0.5
    assert edge.p_value < 0.05


def test_edge_with_too_few_trials_before_it_or_nothing_that_differs_is_not_examined() -> None:
    ids, shares = ["a", "b", "c", "d", "e"], np.array([0.1, 0.6, 0.7, 0.8, 0.9])
    sample = Sample(VAL_ACCURACY, None, ids, {LR: shares}, np.arange(1.0, 6.0))
    assert examine_edge(sample, LR, {LR: False}, upper=True, without="e") is None
    assert examine_edge(sample, LR, {LR: False}, upper=True, without="a") is not None
    assert examine_edge(sample, LR, {LR: False}, upper=False, without="a") is None
    flat = Sample(VAL_ACCURACY, None, ids, {LR: shares}, np.full(5, 3.0))
    assert examine_edge(flat, LR, {LR: False}, upper=True, without="a") is None

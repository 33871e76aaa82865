"""Claims about what is read from a search's values: what a stopped trial would have come to, and what to try next."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from pipeline.tune.space import SearchSpace
from pipeline.tune.study import gp_sampler
from pipeline.tune.study.gp_sampler import Observation, final_values, propose

LR, DROP, LAYERS, BATCH = "train.lr", "model.drop_path", "regularizer.spatial_entropy.layers", "train.batch_size"
RATE: Mapping[str, Any] = {"type": "float", "low": 0.001, "high": 1.0, "log": True}
SPACE = SearchSpace("space.yaml", {LR: RATE, DROP: {"type": "float", "low": 0.0, "high": 0.3}}, {})
STEPS = SearchSpace(
    "steps.yaml",
    {
        BATCH: {"type": "int", "low": 16, "high": 64, "step": 16},
        LAYERS: {"type": "categorical", "choices": ["last", "all"]},
    },
    {},
)


def whole(point: list[float], value: float, **broken: float) -> Observation:
    return Observation(point, {2: value - 0.2, 4: value}, True, broken)


def hill(points: np.ndarray[Any, Any]) -> list[Observation]:
    """Best at (0.7, 0.3)."""
    return [whole(point.tolist(), 0.9 - (point[0] - 0.7) ** 2 - (point[1] - 0.3) ** 2 / 4) for point in points]


def test_stopped_trial_stands_at_what_others_gained_and_is_doubted_by_how_far_they_differ() -> None:
    ran = [Observation([0.5], {2: first, 4: 0.8}, True) for first in (0.5, 0.6, 0.7)]
    early = [
        Observation([0.5], {1: 0.2, 2: 0.4}, False),
        Observation([0.5], {1: 0.3}, False),
        Observation([0.5], {}, False),
    ]
    values, doubt = final_values([*ran, *early])
    assert values == pytest.approx([0.8, 0.8, 0.8, 0.6, 0.3, 0.3])  # of epoch 1, nobody who went on was seen
    usual = np.var([0.8, 0.8, 0.8, 0.4, 0.3]) / 4
    assert doubt == pytest.approx([0, 0, 0, (2 * usual + 0.02) / 5, usual, 0])
    assert final_values([Observation([0.5], {}, False)])[0].tolist() == [0.0]


def test_proposal_is_near_the_top_of_what_was_seen() -> None:
    seen = hill(np.random.default_rng(0).random((14, 2)))
    found = [propose(SPACE, seen, [], seed=seed) for seed in range(3)]
    for point in found:
        assert math.dist(point, (0.7, 0.3)) < 0.3
    assert propose(SPACE, seen, [], seed=0).tolist() == found[0].tolist()


def test_running_trial_is_not_proposed_again() -> None:
    seen = [whole(point.tolist(), 0.8) for point in np.random.default_rng(0).random((6, 2))]
    first = propose(SPACE, seen, [], seed=0)
    second = propose(SPACE, seen, [first.tolist()], seed=0)
    assert math.dist(first, second) > 0.1


def test_setting_that_failed_is_left_alone() -> None:
    """The values rise towards the corner where every setting fails."""
    points = np.random.default_rng(0).random((10, 2))
    seen = [whole(point.tolist(), 0.5 + 0.3 * point[0]) for point in points * [0.7, 1.0]]
    fails = [Observation([share, other], {}, False) for share in (0.85, 0.95) for other in (0.2, 0.5, 0.8)]
    assert propose(SPACE, seen, [], seed=0)[0] > 0.8
    assert propose(SPACE, [*seen, *fails], [], seed=0)[0] < 0.8


def test_proposal_keeps_constraints_and_looks_for_them_while_nothing_does() -> None:
    points = np.random.default_rng(0).random((16, 2))
    seen = [whole(point.tolist(), 0.5 + 0.3 * point[0], size=float(point[0] - 0.5)) for point in points]
    assert propose(SPACE, seen, [], seed=0)[0] < 0.6
    broken = [Observation(each.point, each.curve, True, {"size": each.point[0] + 0.05}) for each in seen]
    assert propose(SPACE, broken, [], seed=0)[0] < 0.1


def test_nothing_is_tried_twice_in_a_space_of_steps_until_all_was() -> None:
    left = {(batch, layers) for batch in (16, 32, 48, 64) for layers in ("last", "all")}
    seen: list[Observation] = []
    for number in range(8):
        point = propose(STEPS, seen, [], seed=number) if seen else np.array([0.125, 0.25])
        values = STEPS.decode(STEPS.value_at(point.tolist()))
        left.remove((values[BATCH], values[LAYERS]))
        seen.append(whole(STEPS.shares(values), 0.5 + values[BATCH] / 1000))
    assert not left
    assert len(propose(STEPS, seen, [], seed=9)) == 2


def test_of_many_trials_the_best_and_the_newest_are_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gp_sampler, "MAX_OBSERVATIONS", 8)
    seen = [whole([0.5, 0.5], float(value)) for value in (9, 1, 8, 2, 7, 3, 6, 4, 0, 0, 0, 0)]
    assert [trial.curve[4] for trial in gp_sampler._fewer(seen)] == [9, 8, 7, 6, 0, 0, 0, 0]

"""Claims about the sampler `local_gp`: where it proposes, what it learns from, and what is believed beforehand."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from pipeline.config.schema.search_section import SamplerParams
from pipeline.tune.journal.records import COMPLETE, FAILED, INFEASIBLE, PRUNED
from pipeline.tune.objectives.objectives import AUROC, Objectives
from pipeline.tune.space import SearchSpace
from pipeline.tune.study import local_search
from pipeline.tune.study.local_search import MAX_POINTS, PRIOR_TRIALS, Observation, propose, trust
from pipeline.tune.study.prior import Prior
from pipeline.tune.study.study import StudyAdapter
from pipeline.tune.study.warm_start import as_trials

LR, DROP, LAYERS = "train.lr", "model.drop_path", "regularizer.spatial_entropy.layers"
RATE: Mapping[str, Any] = {"type": "float", "low": 0.001, "high": 1.0, "log": True}
SPACE = SearchSpace("space.yaml", {LR: RATE, DROP: {"type": "float", "low": 0.0, "high": 0.3}}, {})
WORDS = SearchSpace(
    "words.yaml", {LR: RATE, LAYERS: {"type": "categorical", "choices": ["last", [0, 1], "first", "all"]}}, {}
)
NOTHING = Prior(SPACE)
EPOCHS = 8
Array = np.ndarray[Any, Any]


@pytest.fixture
def _no_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every proposal looks at the results."""
    monkeypatch.setattr(local_search, "BLIND", 0.0)


def ran(point: Any, value: float, *, epochs: int = EPOCHS, **broken: float) -> Observation:
    return Observation(list(point), {epoch: value - 0.2 / epoch for epoch in range(1, epochs + 1)}, broken)


def goodness(point: Any) -> float:
    """Best at (0.7, 0.3)."""
    return float(0.9 - (point[0] - 0.7) ** 2 - (point[1] - 0.3) ** 2)


def scattered(count: int = 14, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((count, 2))


def proposals(seen: list[Observation], *, count: int = 6, running: Any = (), space: SearchSpace = SPACE) -> Array:
    return np.array([propose(space, Prior(space), seen, running, epochs=EPOCHS, seed=seed) for seed in range(count)])


def test_proposal_is_a_function_of_seed_and_results_alone() -> None:
    seen = [ran(point, goodness(point)) for point in scattered()]
    first = proposals(seen, count=12)
    np.random.default_rng(5).random()
    np.random.seed(7)
    assert proposals(seen, count=12).tolist() == first.tolist()
    assert len({tuple(point) for point in first.tolist()}) == 12
    assert ((first >= 0) & (first < 1)).all()


@pytest.mark.usefixtures("_no_blind")
def test_proposals_are_near_the_top_of_what_was_seen() -> None:
    found = proposals([ran(point, goodness(point)) for point in scattered()])
    assert np.median(np.hypot(*(found - [0.7, 0.3]).T)) < 0.25


def test_some_proposals_look_at_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = ([ran(point, sign * goodness(point)) for point in scattered()] for sign in (1, -1))
    assert 0 < local_search.BLIND < 0.5
    same = (proposals(one, count=30) == proposals(other, count=30)).all(axis=1)
    assert 1 <= same.sum() <= 15
    monkeypatch.setattr(local_search, "BLIND", 1.0)
    assert (proposals(one) == proposals([])).all()


def test_before_anything_is_known_of_any_trial_proposals_are_even() -> None:
    untrained = [Observation([0.5, 0.5], {}), Observation([0.2, 0.5], {}, {"parameters": 0.3})]
    found = proposals(untrained, count=200)
    assert np.abs(np.sort(found, axis=0) - np.linspace(0, 1, 200)[:, None]).max() < 0.12


@pytest.mark.usefixtures("_no_blind")
def test_beginnings_of_curves_are_learned_from() -> None:
    """One trial ran in full; of the others, the first epochs alone say where the best ones are."""
    early = [ran(point, goodness(point), epochs=1) for point in scattered(20)]
    found = proposals([ran([0.5, 0.5], 0.7), *early], count=10)
    assert np.median(np.hypot(*(found - [0.7, 0.3]).T)) < 0.3


@pytest.mark.usefixtures("_no_blind")
def test_configurations_that_failed_are_left_alone() -> None:
    """The values rise towards the side where every one fails."""
    seen = [Observation(list(point), {EPOCHS: 0.5 + 0.3 * point[0]}) for point in scattered(10) * [0.7, 1.0]]
    fails = [Observation([share, other], {}) for share in (0.65, 0.75, 0.85, 0.95) for other in (0.1, 0.4, 0.6, 0.9)]
    assert np.median(proposals([*seen, *fails])[:, 0]) < np.median(proposals(seen)[:, 0]) - 0.02


@pytest.mark.usefixtures("_no_blind")
def test_constraints_that_are_broken_push_away_and_the_least_broken_is_the_best_where_none_is_kept() -> None:
    points = scattered(16)
    seen = [ran(point, 0.5 + 0.3 * point[0], size=float(point[0] - 0.5)) for point in points]
    assert np.median(proposals(seen)[:, 0]) < 0.6
    broken = [ran(point, 0.5 + 0.3 * point[0], size=float(point[0] + 0.05)) for point in points]
    near = sorted(broken, key=lambda trial: trial.violation)[: local_search.BEST]
    assert sorted(broken, key=lambda trial: trial.rank)[-1] is near[0]
    distances = np.abs(proposals(broken, count=10)[:, None, 0] - np.array([trial.point[0] for trial in near]))
    assert np.median(distances.min(axis=1)) < 0.2


def test_trials_are_ranked_by_constraints_then_how_far_they_went_then_their_value() -> None:
    ascending = [
        Observation([0.5], {8: 0.9}, {"size": 0.2}),
        Observation([0.5], {8: 0.1}, {"size": 0.1, "empty_share": -0.5}),
        Observation([0.5], {}),
        Observation([0.5], {1: 0.9}),
        Observation([0.5], {1: 0.2, 8: 0.3}),
        Observation([0.5], {1: 0.1, 8: 0.4}, {"size": 0.0}),
    ]
    shuffled = [ascending[place] for place in (3, 0, 5, 2, 4, 1)]
    assert sorted(shuffled, key=lambda trial: trial.rank) == ascending


@pytest.mark.usefixtures("_no_blind")
@pytest.mark.parametrize("seed", range(8))
def test_what_is_running_is_worth_less_than_if_nobody_had_heard_of_it(seed: int) -> None:
    """Here the point of which the most is expected."""
    seen, points = [ran(point, goodness(point)) for point in scattered(seed=seed)], scattered(seed=100 + seed)

    def worth(running: Sequence[Sequence[float]]) -> Array:
        rng = np.random.default_rng(0)
        return local_search._expected_improvement(seen, running, points, [], EPOCHS, rng)

    alone = worth([])
    best = int(alone.argmax())
    heard = worth([points[best].tolist()])
    assert heard[best] < alone[best] - 0.3


@pytest.mark.usefixtures("_no_blind")
def test_category_that_was_seen_to_be_the_best_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, seen, places = np.random.default_rng(0), [], set[float]()
    for number in range(16):
        point = [rng.random(), (number % 4 + 0.5) / 4]
        seen.append(ran(point, 0.5 + 0.3 * (number % 4 == 2)))

    def noted(observations: Any, running: Any, candidates: Array, *rest: Any) -> Array:
        places.update(candidates[:, 1].tolist())
        return expected_improvement(observations, running, candidates, *rest)

    expected_improvement = local_search._expected_improvement
    monkeypatch.setattr(local_search, "_expected_improvement", noted)
    found = proposals(seen, count=12, space=WORDS)
    assert [int(4 * share) for share in found[:, 1]].count(2) >= 9
    # Where trials of these choices stand: anything else would be a category that nobody has seen.
    assert places == {0.125, 0.375, 0.625, 0.875}


@pytest.mark.usefixtures("_no_blind")
def test_values_in_any_unit_give_the_same_proposals() -> None:
    """To seven digits: rounding is another one in another unit."""
    points = scattered()
    plain = proposals([ran(point, goodness(point)) for point in points], count=3)
    for scale, shift in ((2.0**-40, 0.0), (2.0**30, 0.0), (8.0, -4.0)):
        moved = [
            Observation(point.tolist(), {e: scale * v + shift for e, v in ran(point, goodness(point)).curve.items()})
            for point in points
        ]
        assert proposals(moved, count=3) == pytest.approx(plain, rel=1e-7)


NASTY: dict[str, list[Observation]] = {
    "equal values": [Observation(point.tolist(), {1: 0.1, 8: 0.1}) for point in scattered(7)],
    "one trial": [ran([0.3, 0.6], 0.5)],
    "one epoch of one trial": [Observation([0.3, 0.6], {1: 0.0})],
    "one point many times": [ran([0.3, 0.6], 0.5 + 0.01 * number) for number in range(9)],
    "tiny differences": [Observation(p.tolist(), {8: 0.5 + 1e-12 * n}) for n, p in enumerate(scattered(9))],
    "tiny values": [Observation(p.tolist(), {8: 1e-12 * n}) for n, p in enumerate(scattered(9))],
    "huge values": [Observation(p.tolist(), {8: 1e9 * (-1) ** n * n}) for n, p in enumerate(scattered(9))],
    "one far below": [ran(point, -1e9 if not n else goodness(point)) for n, point in enumerate(scattered(9))],
    "one far above": [ran(point, 1e9 if not n else goodness(point)) for n, point in enumerate(scattered(9))],
    "all but one failed": [ran([0.3, 0.6], 0.5), *(Observation(p.tolist(), {}) for p in scattered(9))],
    "all break a constraint": [ran(point, 0.5, size=1.0) for point in scattered(5)],
    "all in a corner": [ran([0.0, 1.0], 0.5 + 0.1 * number) for number in range(3)],
}


@pytest.mark.usefixtures("_no_blind")
@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("running", [[], [[0.3, 0.6], [0.3, 0.6]]])
def test_nasty_results_are_no_error(name: str, running: list[list[float]]) -> None:
    for point in proposals(NASTY[name], count=2, running=running):
        assert ((point >= 0) & (point < 1)).all()


@pytest.mark.usefixtures("_no_blind")
def test_trials_of_a_single_epoch_are_no_error() -> None:
    seen = [Observation(point.tolist(), {1: goodness(point)}) for point in scattered()]
    found = np.array([propose(SPACE, NOTHING, seen, [], epochs=1, seed=seed) for seed in range(6)])
    assert np.median(np.hypot(*(found - [0.7, 0.3]).T)) < 0.3


@pytest.mark.usefixtures("_no_blind")
def test_process_sees_a_bounded_number_of_points_with_those_of_the_best_among_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen_by: list[tuple[int, int, float]] = []

    def noted(points: Array, progress: Array, values: Array, parameters: Array, **rest: Any) -> Any:
        seen_by.append((len(points), int((progress == 1).sum()), float(values.max())))
        return condition(points, progress, values, parameters, **rest)

    condition = local_search.condition
    monkeypatch.setattr(local_search, "condition", noted)
    whole = [ran(point, goodness(point)) for point in scattered(MAX_POINTS // 4)]
    early = [ran(point, goodness(point) - 0.5, epochs=1) for point in scattered(2 * MAX_POINTS, seed=1)]
    proposals([*early, *whole], count=1)
    ((count, at_end, highest),) = seen_by
    assert (count, at_end) == (MAX_POINTS, len(whole))
    assert highest > 0


def curve_points(curve: Mapping[int, float], epochs: int) -> list[float]:
    """Progress of the points that a curve gives."""
    trial = Observation([0.5], curve)
    return sorted(local_search._points_of_curves([trial], epochs)[1].tolist())


def test_curve_gives_its_last_epoch_and_down_from_there_by_halves() -> None:
    whole = curve_points(dict.fromkeys(range(1, 9), 0.5), 8)
    assert whole == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert curve_points({3: 0.5, 5: 0.5, 6: 0.5}, 8) == pytest.approx([math.log(3, 8), math.log(6, 8)])
    assert curve_points({1: 0.5}, 1) == [1.0]


def with_prior(center: tuple[float, float] | None) -> SearchSpace:
    """A space whose prior is around a point of the unit cube."""
    dimensions = {name: {"type": "float", "low": 0.0, "high": 1.0} for name in (LR, DROP)}
    if center is not None:
        dimensions = {
            name: {**spec, "prior": {"center": at}} for (name, spec), at in zip(dimensions.items(), center, strict=True)
        }
    return SearchSpace("space.yaml", dimensions, {})


def regrets(center: tuple[float, float] | None) -> Array:
    """How far the best so far is below the top after each of 25 trials, on average over seeds."""
    space = with_prior(center)
    prior, found = Prior(space), []
    for seed in range(4):
        rng, seen = np.random.default_rng(seed), []
        for number in range(25):
            point = propose(space, prior, seen, [], epochs=EPOCHS, seed=1000 * seed + number)
            found.append(0.9 - goodness(point))
            seen.append(ran(point, goodness(point) + 0.01 * rng.standard_normal()))
    return np.asarray(np.minimum.accumulate(np.reshape(found, (4, 25)), axis=1).mean(axis=0))


def test_prior_that_is_right_saves_much_and_one_that_is_wrong_costs_little() -> None:
    none, right, wrong = regrets(None), regrets((0.7, 0.3)), regrets((0.1, 0.9))
    assert right.mean() < none.mean() / 2
    assert wrong[-1] < none[-1] + 0.03


@pytest.mark.usefixtures("_no_blind")
def test_prior_weighs_on_what_results_say_ever_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is expected pulls towards (0.7, 0.3), what is believed towards (0.1, 0.9)."""

    def expected(observations: Any, running: Any, candidates: Array, *rest: Any) -> Array:
        return np.asarray(-4 * np.hypot(*(candidates - [0.7, 0.3]).T))

    monkeypatch.setattr(local_search, "_expected_improvement", expected)
    space = with_prior((0.1, 0.9))

    def side(count: int) -> float:
        found = proposals([ran(point, 0.5) for point in scattered(count)], space=space, count=20)
        return float(np.median(found[:, 0]))

    assert side(5) < 0.3
    assert side(10 * PRIOR_TRIALS) > 0.55


def test_share_of_what_is_believed_falls_with_the_trials() -> None:
    shares = [trust(count) for count in range(200)]
    assert all(after < before for before, after in itertools.pairwise(shares))
    assert 0.5 < shares[0] < 1
    assert trust(PRIOR_TRIALS) == pytest.approx(shares[0] / 2)
    assert trust(100 * PRIOR_TRIALS) < 0.01


def test_blind_proposals_are_drawn_from_the_prior_ever_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_search, "BLIND", 1.0)
    space = with_prior((0.1, 0.9))
    prior = Prior(space)

    def share_near(count: int) -> float:
        seen = [Observation([0.5, 0.5], {})] * count
        drawn = np.array([propose(space, prior, seen, [], epochs=EPOCHS, seed=seed) for seed in range(300)])
        return float((np.hypot(*(drawn - [0.1, 0.9]).T) < 0.35).mean())

    few, many = share_near(0), share_near(20 * PRIOR_TRIALS)
    assert few > 0.6
    assert many < 0.25


def adapter(**given: Any) -> StudyAdapter:
    sampler = SamplerParams(name="local_gp", startup_trials=1, start="sobol")
    return StudyAdapter(SPACE, sampler, seed=0, name="abc", epochs=EPOCHS, **given)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Observation], int]]:
    """What every proposal was shown: observations, and how many trials of which nothing is known."""
    calls: list[tuple[list[Observation], int]] = []

    def noted(space: Any, prior: Any, observations: Any, running: Any, **rest: Any) -> Array:
        calls.append((list(observations), len(running)))
        return propose(space, prior, observations, running, **rest)

    monkeypatch.setattr(local_search, "propose", noted)
    return calls


Shown = list[tuple[list[Observation], int]]


def test_every_second_proposal_is_for_the_metric_that_decides_among_equals(shown: Shown) -> None:
    of = adapter(objectives=Objectives(then=AUROC))
    for _ in range(2):
        number, _ = of.ask()
        of.report(number, 1, 0.25, {AUROC: 0.75})
        of.report(number, 2, 0.5, {AUROC: math.nan})
        of.tell(number, COMPLETE, 0.5, constraints={})
    of.ask()
    of.ask()
    by_number = [[dict(trial.curve) for trial in observations] for observations, _ in shown]
    assert by_number[1:] == [[{1: 0.25, 2: 0.5}] * 2, [{1: 0.75}] * 2]  # numbers 2 and 3
    assert by_number[0] == [{1: 0.75}]
    assert [running for _, running in shown] == [0, 0, 1]


def test_loss_that_decides_among_equals_is_not_searched_for(shown: Shown) -> None:
    of = adapter(objectives=Objectives(then="val/loss"))
    for _ in range(3):
        number, _ = of.ask()
        of.report(number, 1, 0.25, {"val/loss": 2.0})
        of.tell(number, COMPLETE, 0.25, constraints={})
    assert [trial.curve for observations, _ in shown for trial in observations] == [{1: 0.25}] * 3


def test_paused_trial_is_learned_from_and_so_is_what_it_does_when_it_goes_on(shown: Shown) -> None:
    of = adapter()
    for value in (0.3, 0.4):
        number, _ = of.ask()
        of.report(number, 1, value)
        of.pause(number, constraints={"empty_share": 0.2 if number else -0.1})
    of.ask()
    (observations, running) = shown[-1]
    assert [(dict(trial.curve), trial.violation, running) for trial in observations] == [
        ({1: 0.3}, 0, 0),
        ({1: 0.4}, 0.2, 0),
    ]
    of.resume(0)
    of.report(0, 2, 0.6)
    of.ask()
    (observations, running) = shown[-1]
    assert sorted((dict(trial.curve) for trial in observations), key=repr) == [{1: 0.3, 2: 0.6}, {1: 0.4}]
    assert running == 1  # the third
    of.tell(0, COMPLETE, 0.6, constraints={})
    of.tell(1, PRUNED, 0.4, constraints={})
    of.ask()
    assert sorted((dict(trial.curve) for trial in shown[-1][0]), key=repr) == [{1: 0.3, 2: 0.6}, {1: 0.4}]


def test_failed_and_infeasible_trials_are_shown_without_a_curve(shown: Shown) -> None:
    of = adapter()
    for state, amount in ((COMPLETE, -0.5), (FAILED, -0.5), (INFEASIBLE, 0.25)):
        number, _ = of.ask()
        if state != INFEASIBLE:
            of.report(number, 1, 0.5)
        of.tell(number, state, 0.5, constraints={"parameters": amount})
    of.ask()
    assert [(dict(trial.curve), trial.violation) for trial in shown[-1][0]] == [({1: 0.5}, 0), ({}, 0), ({}, 0.25)]


def test_earlier_results_of_several_objectives_are_taken_though_they_have_no_one_value() -> None:
    """`local_gp` proposes as `tpe` does then, and learns from them as that does."""
    goals = Objectives(("val/accuracy", "parameters"))
    values, metrics = {LR: 0.01, DROP: 0.1}, {"parameters": 1000.0}
    known = [{"values": values, "state": COMPLETE, "curve": [[EPOCHS, 0.5]], "metrics": metrics}]
    found = adapter(objectives=goals, prior_trials=as_trials(known, SPACE, goals)).ask()
    assert found[0] == 0
    assert not SPACE.values_outside(found[1])

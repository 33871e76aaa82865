"""Claims about samplers: what they propose, what they learn from, and which spaces they refuse."""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy import stats

from pipeline.config import Params
from pipeline.config.schema.search_section import SamplerParams
from pipeline.errors import UserError
from pipeline.tune.journal.records import COMPLETE, FAILED, PRUNED
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.prior import DEFAULT_SD, Prior
from pipeline.tune.study.samplers import check_sampler, sample_blind, sample_near_prior
from pipeline.tune.study.study import MAX_VISIBLE_TRIALS, StudyAdapter, with_values

LR, DECAY, LAYERS, BATCH = "train.lr", "train.weight_decay", "regularizer.spatial_entropy.layers", "train.batch_size"
NUMBERS: Mapping[str, Any] = {
    LR: {"type": "float", "low": 0.001, "high": 1.0, "log": True},
    DECAY: {"type": "float", "low": 0.0, "high": 0.5},
}
WORDS: Mapping[str, Any] = {LAYERS: {"type": "categorical", "choices": ["last", [0, 1], "all"]}}
STEPS: Mapping[str, Any] = {
    BATCH: {"type": "int", "low": 16, "high": 64, "step": 16},
    DECAY: {"type": "float", "low": 0.0, "high": 0.3, "step": 0.1},
}


def space(*parts: Mapping[str, Any]) -> SearchSpace:
    return SearchSpace("space.yaml", {name: spec for part in parts for name, spec in part.items()}, {"baseline": {}})


def refusal(name: str, of: SearchSpace, **given: Any) -> str:
    params = Params().with_values({"search.sampler.name": name} | given, where="here")
    with pytest.raises(UserError) as refused:
        check_sampler(params, of)
    return str(refused.value)


def test_grid_over_what_is_continuous_is_refused_by_its_name() -> None:
    said = refusal("grid", space(NUMBERS, STEPS))
    assert said.startswith("params.yaml: search.sampler.name: grid needs steps; train.lr of space.yaml")
    assert "`step`" in said
    assert BATCH not in said


def test_grid_with_too_many_combinations_is_refused() -> None:
    check_sampler(
        Params().with_values(
            {"search.sampler.name": "grid", "search.trials": 17, "search.budget.full_trainings": None}, where=""
        ),
        space(STEPS),
    )
    long = {BATCH: {"type": "int", "low": 1, "high": 1_000_000}}
    assert "3,000,000 combinations" in refusal("grid", space(long, WORDS))


@pytest.mark.parametrize("name", ["local_gp", "tpe", "gp", "random", "sobol"])
def test_other_samplers_take_every_space(name: str) -> None:
    params = Params().with_values({"search.sampler.name": name}, where="here")
    check_sampler(params, space(NUMBERS, WORDS, STEPS))


def test_grid_proposes_every_combination_once_in_an_order_of_its_seed() -> None:
    of = space(STEPS, WORDS)
    orders = [
        [of.decode(sample_blind("grid", of, seed=seed, number=number)) for number in range(48)] for seed in (0, 1)
    ]
    expected = {(batch, decay, layers) for batch, decay, layers in product((16, 32, 48, 64), (0, 1, 2, 3), "abc")}
    for order in orders:
        names = {"last": "a", "[0, 1]": "b", "all": "c"}
        found = {(each[BATCH], round(10 * each[DECAY]), names[str(each[LAYERS])]) for each in order}
        assert found == expected
    assert orders[0] != orders[1]


def test_sobol_is_even_over_the_space_and_random_is_not() -> None:
    of = space(NUMBERS)

    def filled(name: str) -> int:
        shares = [of.shares(of.decode(sample_blind(name, of, seed=0, number=number))) for number in range(16)]
        return len({(int(4 * x), int(4 * y)) for x, y in shares})

    assert filled("sobol") == 16  # one in each of 4 x 4 fields
    assert filled("random") < 14


@settings(max_examples=60, deadline=None)
@given(shares=st.lists(st.floats(0, 0.999999), min_size=5, max_size=5))
def test_point_of_the_unit_cube_comes_back_from_its_values(shares: list[float]) -> None:
    of = space(NUMBERS, WORDS, STEPS, {"train.epochs_like": {"type": "int", "low": 2, "high": 300, "log": True}})
    of = SearchSpace(of.file, dict(list(of.dimensions.items())[:4]) | {"n": of.dimensions["train.epochs_like"]}, {})
    encoded = of.value_at(shares)
    for path, distribution in of.distributions().items():
        assert distribution._contains(distribution.to_internal_repr(encoded[path]))
    again = of.value_at(of.shares(of.decode(encoded)))
    for path, value in encoded.items():
        assert again[path] == (pytest.approx(value) if isinstance(value, float) else value)


def proposer(of: SearchSpace, name: str, **given: Any) -> StudyAdapter:
    start = {key: given.pop(key) for key in ("startup_trials", "start") if key in given}
    return StudyAdapter(of, SamplerParams(name=name, **start), seed=0, name="abc", **given)  # type: ignore[arg-type]


RECIPE: Mapping[str, Any] = {LR: 0.01, DECAY: 0.5, LAYERS: [0, 1]}


def test_start_from_a_recipe_begins_with_it_and_draws_what_it_does_not_say_evenly() -> None:
    of, even = space(NUMBERS, WORDS), [sample_blind("sobol", space(NUMBERS, WORDS), seed=0, number=n) for n in range(9)]
    study = proposer(of, "tpe", startup_trials=100, recipe={LR: 0.01})
    found = [of.encode(study.ask()[1]) for _ in range(9)]
    assert found[0] == even[0] | {LR: 0.01}
    assert [found[n] == even[n] for n in range(9)] == [n % 3 == 2 for n in range(9)]
    assert [{**values, LR: None} for values in found] == [{**values, LR: None} for values in even]


def test_draws_around_a_recipe_are_normal_within_the_range_and_a_category_is_the_recipes_in_half_of_them() -> None:
    of = space(NUMBERS, WORDS)
    prior = Prior(of, RECIPE)
    found = [sample_near_prior(of, prior, seed=3, number=number) for number in range(1, 1537)]
    around = [values for number, values in enumerate(found, 1) if number % 3 != 2]
    rate = [(math.log10(values[LR]) + 3) / 3 for values in around]  # of .001 to 1
    for shares, center in ((rate, 1 / 3), ([values[DECAY] / 0.5 for values in around], 1.0)):
        expected = stats.truncnorm(-center / DEFAULT_SD, (1 - center) / DEFAULT_SD, center, DEFAULT_SD)
        assert stats.kstest(shares, expected.cdf).statistic < 0.04
    words = [values[LAYERS] for values in around]
    assert {word: round(words.count(word) / len(words), 2) for word in sorted(set(words))} == pytest.approx(
        {"[0, 1]": 1 / 2 + 1 / 6, "all": 1 / 6, "last": 1 / 6}, abs=0.02
    )


def test_draws_around_a_recipe_are_of_the_space_where_there_are_steps() -> None:
    of = space(STEPS)
    prior = Prior(of, {BATCH: 48, DECAY: 0.1})
    found = [sample_near_prior(of, prior, seed=0, number=number) for number in range(60)]
    assert found[0] == {BATCH: 48, DECAY: 0.1}
    assert all(of.values_outside(values) == [] for values in found)
    assert {values[BATCH] for values in found} == {16, 32, 48, 64}


def test_what_a_point_leaves_out_is_the_recipes_which_is_the_first_setting_after_it() -> None:
    of = space(NUMBERS, WORDS)
    study = proposer(of, "tpe", points=[{DECAY: 0.2}], recipe=RECIPE)
    (_, point), (_, first) = study.ask(), study.ask()
    assert point == {**RECIPE, DECAY: 0.2}
    assert first == RECIPE


def test_start_from_a_recipe_is_the_even_one_where_the_space_has_nothing_of_it() -> None:
    for points in ([], [{DECAY: 0.2}, {LR: 0.1}]):
        found = {}
        for start in ("recipe", "sobol"):
            study = proposer(space(NUMBERS, WORDS), "tpe", start=start, startup_trials=100, points=points)
            found[start] = [study.ask()[1] for _ in range(8)]
        assert found["recipe"] == found["sobol"]


def test_prior_of_the_space_comes_before_the_recipe_and_points_take_it_for_what_they_leave_out() -> None:
    prior = {LR: {**NUMBERS[LR], "prior": {"center": 0.1, "spread": 1.001}}}
    of = space({**NUMBERS, **prior}, WORDS)
    study = proposer(of, "tpe", startup_trials=100, points=[{DECAY: 0.2}], recipe=RECIPE)
    found = [study.ask()[1] for _ in range(9)]
    assert found[:2] == [{**RECIPE, LR: 0.1, DECAY: 0.2}, {**RECIPE, LR: 0.1}]
    assert [0.099 < values[LR] < 0.101 for values in found] == [number % 3 != 2 or number < 2 for number in range(9)]


def goodness(values: Mapping[str, Any]) -> float:
    return 1 - (math.log10(values[LR]) + 1.5) ** 2 - (values[DECAY] - 0.1) ** 2 * 10


def play(study: StudyAdapter, count: int) -> list[dict[str, Any]]:
    found = []
    for _ in range(count):
        number, values = study.ask()
        found.append(values)
        study.report(number, 4, goodness(values))
        study.tell(number, COMPLETE, goodness(values), constraints={})
    return found


@pytest.mark.parametrize(("name", "trials"), [("local_gp", 12), ("tpe", 30), ("gp", 12)])
def test_what_learns_gets_better_than_its_start(name: str, trials: int) -> None:
    values = [goodness(each) for each in play(proposer(space(NUMBERS), name, startup_trials=6), trials)]
    assert sum(values[-4:]) / 4 > sum(values[:6]) / 6 + 0.3


def test_start_is_the_sobol_sequence_until_enough_trials_have_ended_however_many_run() -> None:
    of, start = space(NUMBERS), [sample_blind("sobol", space(NUMBERS), seed=0, number=number) for number in range(8)]
    study = proposer(of, "tpe", startup_trials=2)  # there is nothing of a recipe in this space
    assert [of.encode(study.ask()[1]) for _ in range(8)] == start
    study = proposer(of, "tpe", startup_trials=2, start="sobol", recipe={LR: 0.5})
    assert [of.encode(study.ask()[1]) for _ in range(8)] == start
    study = proposer(of, "tpe", startup_trials=2)
    assert [of.encode(values) for values in play(study, 3)][:2] == start[:2]
    assert of.encode(study.ask()[1]) not in start


def test_points_come_first_and_what_one_leaves_out_is_drawn() -> None:
    of = space(NUMBERS, WORDS)
    points = [{LR: 0.5, DECAY: 0.25, LAYERS: [0, 1]}, {LR: 0.01}]
    found = play(proposer(of, "tpe", points=points), 3)
    assert found[0] == points[0]
    assert found[1][LR] == 0.01
    assert 0 <= found[1][DECAY] <= 0.5
    assert found[1][DECAY] == of.decode(sample_blind("sobol", of, seed=0, number=1))[DECAY]
    # A grid is complete all the same.
    steps = space(STEPS)
    study, seen = proposer(steps, "grid", points=[{BATCH: 16, DECAY: 0.1}]), []
    for _ in range(17):
        number, values = study.ask()
        study.tell(number, COMPLETE, 0.0, constraints={})
        seen.append((values[BATCH], round(values[DECAY], 3)))
    assert len(set(seen[1:])) == 16


def stopped(values: Mapping[str, Any], curve: dict[int, float], of: SearchSpace, *, state: TrialState) -> FrozenTrial:
    return create_trial(
        state=state,
        value=curve[max(curve)] if state == TrialState.COMPLETE else None,
        params=of.encode(values),
        distributions=of.distributions(),
        intermediate_values=curve,
        system_attrs={"constraints:empty_share": -0.05},
    )


def test_gaussian_process_sees_a_stopped_trial_at_what_others_gained_from_there() -> None:
    of, setting = space(NUMBERS), {LR: 0.1, DECAY: 0.1}
    whole = [
        stopped(setting, {4: 0.5, 8: 0.7, 16: 0.8}, of, state=TrialState.COMPLETE),
        stopped(setting, {4: 0.6, 8: 0.7, 16: 0.75}, of, state=TrialState.COMPLETE),
        stopped(setting, {4: 0.6, 8: 0.75, 16: 0.8}, of, state=TrialState.COMPLETE),
    ]
    early = [stopped(setting, curve, of, state=TrialState.PRUNED) for curve in ({4: 0.3}, {4: 0.5, 8: 0.6})]
    lost = stopped(setting, {4: math.nan}, of, state=TrialState.PRUNED)
    seen = with_values([*whole, *early, lost])
    assert [trial.value for trial in seen] == pytest.approx([0.8, 0.75, 0.8, 0.5, 0.65])
    assert {trial.state for trial in seen} == {TrialState.COMPLETE}
    assert early[0].state == TrialState.PRUNED  # the study's own is left alone
    assert not any("constraints:empty_share" in trial.system_attrs for trial in seen)
    assert with_values(early)[0].value == 0.3


def test_constraint_that_is_violated_is_told_to_the_gaussian_process() -> None:
    of = space(NUMBERS)
    trials = [stopped({LR: 0.1, DECAY: 0.1}, {4: 0.5}, of, state=TrialState.COMPLETE) for _ in range(2)]
    trials[1].system_attrs = {"constraints:empty_share": 0.2}
    assert [trial.system_attrs["constraints:empty_share"] for trial in with_values(trials)] == [-0.05, 0.2]


def test_sampler_is_shown_the_best_and_the_newest_of_many_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    study = proposer(space(NUMBERS), "random")
    play(study, MAX_VISIBLE_TRIALS + 60)
    shown = [trial.number for trial in study._visible_trials()]
    assert len(shown) == MAX_VISIBLE_TRIALS
    newest = list(range(160, MAX_VISIBLE_TRIALS + 60))
    assert shown[-100:] == newest
    values = [trial.value for trial in study._study.get_trials()]
    older = sorted(range(160), key=lambda number: values[number])[-100:]
    assert shown[:100] == sorted(older)


def test_known_results_count_towards_the_start_and_are_no_trials_of_the_study() -> None:
    of = space(NUMBERS)
    known = [
        stopped(of.decode(params), {16: goodness(of.decode(params))}, of, state=TrialState.COMPLETE)
        for params in (sample_blind("sobol", of, seed=3, number=number) for number in range(20))
    ]
    study = proposer(of, "tpe", startup_trials=10, prior_trials=known)
    warm = play(study, 8)
    cold = play(proposer(of, "tpe", startup_trials=10), 8)
    assert study.proposed == 8
    assert isinstance(study._study, optuna.Study)
    assert len(study._study.get_trials()) == 8
    assert sum(map(goodness, warm)) > sum(map(goodness, cold)) + 2


def test_local_gp_learns_from_configurations_that_failed() -> None:
    """The best settings fail, as those with the highest learning rates may; Optuna's samplers look at no failure."""
    study, failed = proposer(space(NUMBERS), "local_gp", startup_trials=6), 0
    for number in range(24):
        _, values = study.ask()
        fails = values[LR] > 0.2
        if number >= 16:
            failed += fails
        study.report(number, 4, 0.5 + values[LR])
        study.tell(number, FAILED if fails else COMPLETE, 0.5 + values[LR], constraints={})
    assert failed <= 4


def test_pruned_trial_without_a_report_is_nothing_to_learn_from() -> None:
    study = proposer(space(NUMBERS), "gp", startup_trials=1)
    for state in (PRUNED, COMPLETE):
        number, _ = study.ask()
        study.tell(number, state, 0.5, constraints={})
    assert study.ask()[0] == 2

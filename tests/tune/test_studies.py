"""Claims about the studies of a search: the method's own, and that of a control which is tuned with the same budget."""

from dataclasses import replace
from typing import Any

import pytest
from support.simulated_search import LR, SPACE, WEIGHT, WIDE

from pipeline.config import Params
from pipeline.tune.study.studies import StudyWithScheduler, make_studies, num_studies

NAME = "0123456789abcdef" * 4


def params(**changes: Any) -> Params:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return Params().with_values({"search.compare": "same_budget", **dotted}, where="")


def proposals(arm: StudyWithScheduler, count: int = 4) -> list[Any]:
    return [arm.ask() for _ in range(count)]


@pytest.mark.parametrize(
    ("space", "compare", "studies"),
    [(SPACE, "recipe", 1), (SPACE, "same_budget", 1), (WIDE, "recipe", 1), (WIDE, "same_budget", 2)],
)
def test_control_has_a_study_where_it_is_asked_for_and_something_is_left_to_tune(
    space: Any, compare: str, studies: int
) -> None:
    settings = params(search__compare=compare)
    assert num_studies(settings, space) == studies
    assert list(make_studies(settings, space, NAME)) == ["search", "control_study"][:studies]


def test_trials_are_named_by_their_study_and_number() -> None:
    arms = make_studies(params(), WIDE, NAME)
    for study, prefix in (("search", "t"), ("control_study", "c")):
        trials = proposals(arms[study], 2)
        assert [trial.id for trial in trials] == [f"{prefix}0000", f"{prefix}0001"]
        assert [(trial.role, trial.study, trial.number) for trial in trials] == [
            ("trial", study, 0),
            ("trial", study, 1),
        ]
        assert [(trial.seed, trial.of, trial.state) for trial in trials] == [(None, None, None)] * 2
        assert arms[study].prefix == prefix


def test_control_study_varies_the_recipe_alone_and_holds_the_controls_own_values() -> None:
    arms = make_studies(params(retrain__control="paper"), WIDE, NAME)
    for trial in proposals(arms["control_study"]):
        assert trial.values.keys() == {LR, WEIGHT}
        assert trial.values[WEIGHT] == 0.01
    assert {trial.values.keys() == {LR, WEIGHT} for trial in proposals(arms["search"])} == {True}


def test_control_study_tunes_what_the_recipe_varies_also_where_the_control_has_a_value_for_it() -> None:
    control = {WEIGHT: 0.0, LR: 5.0, "model.drop_path": 0.2}
    arms = make_studies(params(), replace(WIDE, controls={"baseline": control}), NAME)
    assert arms["control_study"].fixed == {WEIGHT: 0.0, "model.drop_path": 0.2}
    trials = proposals(arms["control_study"])
    assert len({trial.values[LR] for trial in trials}) == 4
    assert max(trial.values[LR] for trial in trials) <= 1.0
    # So that a resumed search can take them over.
    again = make_studies(params(), replace(WIDE, controls={"baseline": control}), NAME)["control_study"]
    for trial in trials:
        again.adapter.replay(trial)
    assert again.adapter.proposed == 4


def test_studies_have_the_same_rungs_and_the_same_seed() -> None:
    changes = {"train__epochs": 27, "search__scheduler__grace_period": 3, "search__scheduler__reduction_factor": 3.0}
    arms = make_studies(params(**changes), WIDE, NAME)
    assert [arm.scheduler.rung_epochs for arm in arms.values()] == [[3, 6], [3, 6]]
    without = make_studies(params(**changes, search__scheduler__name="none"), WIDE, NAME)
    assert [arm.scheduler.rung_epochs for arm in without.values()] == [[], []]
    rates = [[trial.values[LR] for trial in proposals(make_studies(params(), WIDE, NAME)[name])] for name in arms]
    assert rates == [
        [trial.values[LR] for trial in proposals(make_studies(params(), WIDE, NAME)[name])] for name in arms
    ]
    other = make_studies(params(base__seed=1), WIDE, NAME)["search"]
    assert [trial.values[LR] for trial in proposals(other)] != rates[0]


def test_budget_of_the_comparison_changes_nothing_in_what_the_method_proposes() -> None:
    alone, beside = (make_studies(params(search__compare=name), WIDE, NAME) for name in ("recipe", "same_budget"))
    assert [t.values for t in proposals(alone["search"])] == [t.values for t in proposals(beside["search"])]


def test_studies_have_names_of_their_own_in_optuna() -> None:
    arms = make_studies(params(), WIDE, NAME)
    names = [arm.adapter._study.study_name for arm in arms.values()]
    assert names == ["0123456789ab", "0123456789ab-control_study"]


def test_every_study_begins_with_the_recipe_of_the_parameters_where_the_space_has_it() -> None:
    low, high = WIDE.dimensions[LR]["low"], WIDE.dimensions[LR]["high"]
    inside = (low * high) ** 0.5
    firsts = {}
    for rate in (inside, 2 * high):
        # A weight is no part of a recipe, though the space has this one, too.
        arms = make_studies(params(train__lr=rate, **{WEIGHT.replace(".", "__"): 0.1}), WIDE, NAME)
        firsts[rate] = [proposals(arm, 1)[0].values for arm in arms.values()]
    assert [values[LR] for values in firsts[inside]] == [inside, inside]
    assert all(low <= values[LR] < high and values[LR] != inside for values in firsts[2 * high])
    assert firsts[inside][0][WEIGHT] == firsts[2 * high][0][WEIGHT] != 0.1

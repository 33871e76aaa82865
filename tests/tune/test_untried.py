"""Claims about repeats: no setting is tried twice while others are left, whoever proposes it, and the end is told."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial
from support.simulated_search import Search, told

from pipeline.config import Params
from pipeline.config.schema.search_section import SamplerParams
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, CONTROL_STUDY, FAILED, INFEASIBLE, METHOD, TrialRecord
from pipeline.tune.run_counts import max_runs, requested_trials
from pipeline.tune.selection.candidates import ChoiceRule, select_candidates
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.study import StudyAdapter
from pipeline.tune.study.untried import Untried

LAYERS, FLIP = "regularizer.spatial_entropy.layers", "train.flip"
BATCH, DECAY, LR = "train.batch_size", "train.weight_decay", "train.lr"
WEIGHT = "regularizer.spatial_entropy.weight"
WORDS: Mapping[str, Any] = {
    LAYERS: {"type": "categorical", "choices": ["last", [0, 1]]},
    FLIP: {"type": "categorical", "choices": [True, False]},
}
STEPS: Mapping[str, Any] = {
    BATCH: {"type": "int", "low": 2, "high": 5, "log": True},
    DECAY: {"type": "float", "low": 0.0, "high": 0.3, "step": 0.1},
}
NUMBERS: Mapping[str, Any] = {
    LR: {"type": "float", "low": 0.001, "high": 1.0, "log": True},
    DECAY: {"type": "float", "low": 0.0, "high": 0.5},
}
CONTROLS = {"baseline": {WEIGHT: 0.0}}
SAMPLERS = ("tpe", "local_gp", "gp", "random", "sobol", "grid")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


def space(*parts: Mapping[str, Any]) -> SearchSpace:
    return SearchSpace("space.yaml", {name: spec for part in parts for name, spec in part.items()}, CONTROLS)


def worth(record: TrialRecord, epoch: int = 4) -> float:
    """A made-up result, best in a corner, so that what learns would stay there."""
    values = record.values
    of = 0.2 * (values.get(LAYERS) == "last") + 0.1 * values.get(FLIP, False) + values.get(DECAY, 0.0)
    return float(0.3 + of - 0.1 / epoch)


def settings_of(records: list[TrialRecord], study: str = METHOD) -> list[str]:
    return [repr(sorted(r.values.items())) for r in records if r.study == study]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("at_a_time", [1, 3])
def test_search_tries_every_setting_of_a_small_space_once_and_ends(tmp_path: Path, name: str, at_a_time: int) -> None:
    of = space(WORDS, {BATCH: STEPS[BATCH]})
    search = Search(
        tmp_path,
        {"search.sampler.name": name, "search.trials": 40, "search.budget.full_trainings": None},
        of,
        results=worth,
    )
    search.run(at_a_time=at_a_time)
    found = settings_of(search.outcome)
    assert len(found) == len(set(found)) == 16
    repeated = [record.of for record in search.outcome if record.role == CONFIRMATION and record.of != "baseline"]
    assert len(set(repeated)) == 2
    params = Params().with_values(
        {"search.sampler.name": name, "search.trials": 40, "search.budget.full_trainings": None}, where="here"
    )
    assert max_runs(params, of) == 1 + 16 + (1 + 3) * params.search.confirm.seeds


def test_what_failed_or_breaks_a_constraint_is_not_tried_again(tmp_path: Path) -> None:
    of = space(WORDS)
    search = Search(tmp_path, {"search.trials": 9, "search.confirm.top": 1}, of, results=worth)
    search.fails = lambda record, epoch: None if record.values.get(LAYERS) == "last" else "no"
    search.run()
    assert len(settings_of(search.outcome)) == len(set(settings_of(search.outcome))) == 4
    assert sum(record.state == FAILED for record in search.outcome if record.study == METHOD) == 2
    study = StudyAdapter(of, SamplerParams(name="tpe", startup_trials=1), seed=0, name="abc")
    seen = []
    for _ in range(4):
        number, values = study.ask()
        seen.append(values)
        study.tell(number, INFEASIBLE, math.nan, constraints={"parameters": 1.0})
    assert study.num_to_propose(5) == 0
    assert all(seen.count(values) == 1 for values in seen)


@pytest.mark.parametrize("compare", ["recipe", "same_budget"])
def test_small_space_searched_in_pieces_is_searched_as_at_once(tmp_path: Path, compare: str) -> None:
    of = space(WORDS, {BATCH: STEPS[BATCH]})
    whole = Search(tmp_path / "whole", {"search.trials": 16, "search.compare": compare}, of, results=worth)
    whole.run()
    parts = Search(tmp_path / "parts", {"search.compare": compare}, of, results=worth)
    for trials in (3, 8, 16):
        parts.run(search__trials=trials)
    of_studies = [[r for r in told(each.outcome) if r[3] is not None] for each in (whole, parts)]
    assert of_studies[0] == of_studies[1]


def test_the_controls_own_study_ends_with_its_own_settings(tmp_path: Path) -> None:
    of = space(WORDS, {BATCH: STEPS[BATCH]})  # the control has 2 x 4 of the 16
    asked = {"search.trials": 12, "search.compare": "same_budget", "search.sampler.name": "grid"}
    asked |= {"search.budget.full_trainings": None}
    search = Search(tmp_path, asked, of, results=worth)
    search.run()
    assert len(settings_of(search.outcome)) == len(set(settings_of(search.outcome))) == 12
    own = settings_of(search.outcome, CONTROL_STUDY)
    assert len(own) == len(set(own)) == 8
    assert requested_trials(Params().with_values(asked, where="here"), of) == {METHOD: 12, CONTROL_STUDY: 8}


@pytest.mark.parametrize("name", ["tpe", "grid", "sobol"])
def test_points_of_the_user_come_first_and_count_as_tried(name: str) -> None:
    of = space(WORDS, {BATCH: STEPS[BATCH]})
    points = [
        {LAYERS: [0, 1], FLIP: True, BATCH: 3},
        {LAYERS: "last"},
        {LAYERS: "last"},
        {FLIP: True, LAYERS: [0, 1]},
        {FLIP: True, LAYERS: [0, 1]},
    ]
    recipe = {FLIP: True, BATCH: 3}
    sampler = SamplerParams(name=name, startup_trials=2)
    study = StudyAdapter(of, sampler, seed=0, name="abc", points=points, recipe=recipe)
    found = [study.ask()[1] for _ in range(16)]
    assert found[0] == points[0]
    assert all(point.items() <= values.items() for point, values in zip(points, found, strict=False))
    assert all(found.count(values) == 1 for values in found)


def test_results_of_a_warm_start_are_tried_last_but_where_the_user_names_them() -> None:
    of = space(WORDS)
    values = [{LAYERS: layers, FLIP: flip} for layers in ("last", [0, 1]) for flip in (True, False)]
    known = [
        create_trial(state=TrialState.COMPLETE, value=0.9, params=of.encode(each), distributions=of.distributions())
        for each in values[:3]
    ]
    params = SamplerParams(name="tpe", startup_trials=1)
    study = StudyAdapter(of, params, seed=0, name="abc", prior_trials=known)
    assert study.ask()[1] == values[3]
    assert [each in values[:3] for each in (study.ask()[1] for _ in range(3))] == [True] * 3
    named = StudyAdapter(of, params, seed=0, name="abc", prior_trials=known, points=[values[1]])
    assert named.ask()[1] == values[1]


def test_corner_that_an_endless_space_is_drawn_to_is_proposed_once() -> None:
    untried = Untried(space(NUMBERS))
    corner = {LR: 1.0, DECAY: 0.5}
    for number in range(20):
        found = untried.nearest(corner, seed=number)
        assert untried.new(found)
        assert 0.0 <= found[DECAY] <= 0.5
        assert found[LR] <= 1.0
        untried.add(found)
    assert untried.left is None


def test_steps_that_rounding_has_moved_are_the_same_step() -> None:
    untried = Untried(space({DECAY: STEPS[DECAY], BATCH: STEPS[BATCH]}))
    untried.add({DECAY: 3 * 0.1, BATCH: 2})
    assert untried.is_repeat({DECAY: 0.3, BATCH: 2})
    untried.add({DECAY: -0.0, BATCH: 2})
    assert untried.is_repeat({DECAY: 0.0, BATCH: 2})
    assert untried.left == 14


@settings(max_examples=40, deadline=None)
@given(data=st.data(), large=st.booleans())
def test_replacement_is_new_and_the_nearest_and_keeps_what_is_fixed(data: st.DataObject, large: bool) -> None:
    more = {"train.warmup_epochs": {"type": "int", "low": 0, "high": 2000}} if large else {}
    of = space(WORDS, STEPS, more)
    untried = Untried(of)
    for _ in range(data.draw(st.integers(0, 60))):
        shares = data.draw(st.lists(st.floats(0, 0.999), min_size=len(of.dimensions), max_size=len(of.dimensions)))
        untried.add(of.value_at(shares))
    start = of.value_at([0.4] * len(of.dimensions))
    untried.add(start)
    if untried.left == 0:
        return
    found = untried.nearest(start, seed=1)
    assert untried.new(found)
    assert found == untried.nearest(start, seed=1)
    assert not of.values_outside(of.decode(found))
    kept = untried.nearest(start, seed=1, fixed=[LAYERS])
    assert untried.new(kept)
    if large:
        assert kept[LAYERS] == start[LAYERS]


def test_nearest_is_a_neighbour() -> None:
    of = space({BATCH: {"type": "int", "low": 1, "high": 100}})
    untried = Untried(of)
    for batch in (49, 50, 51, 52):
        untried.add({BATCH: batch})
    assert untried.nearest({BATCH: 50}, seed=0) == {BATCH: 48}


def test_trials_of_a_space_without_end_are_as_many_as_asked_for() -> None:
    params = Params().with_values({"search.trials": 500, "search.budget.full_trainings": None}, where="here")
    assert requested_trials(params, space(WORDS, NUMBERS)) == {METHOD: 500}


def test_completed_trials_of_one_setting_are_one_candidate() -> None:
    def ran(number: int, flip: bool, value: float) -> TrialRecord:
        record = TrialRecord(f"t{number:04d}", number, {FLIP: flip, LAYERS: [0, 1]}, study=METHOD, state=COMPLETE)
        record.epochs = {1: {"val/accuracy": value, "val/loss": 1.0}}
        return record

    records = [ran(0, True, 0.9), ran(1, True, 0.9), ran(2, False, 0.5)]
    assert [each.id for each in select_candidates(records, ChoiceRule(top=2, seeds=0))] == ["t0000", "t0002"]

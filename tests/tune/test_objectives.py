"""Claims about objectives and constraints: what is broken, by how much, in which words, and what cannot be had."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial
from support.simulated_search import SPACE, WEIGHT, WIDE, Search, told

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.provenance.fingerprint import fingerprint_content
from pipeline.score.metrics.wording import ACCURACY_WORDS
from pipeline.tune.journal.records import COMPLETE, INFEASIBLE, METHOD, TrialRecord
from pipeline.tune.objectives.objectives import (
    LATENCY,
    LIMITED,
    PARAMETERS,
    Objectives,
    check_objectives,
    format_limits,
    objectives_from_content,
    objectives_from_params,
)
from pipeline.tune.objectives.parameter_count import parameter_counter
from pipeline.tune.selection.candidates import ChoiceRule, select_candidates
from pipeline.tune.selection.choice import choose_best
from pipeline.tune.study.study import with_values

TWO = Objectives(("val/accuracy", LATENCY), {PARAMETERS: 1000.0, "images_per_s": 50.0})


def params(**settings: Any) -> Params:
    return Params().with_values({name.replace("__", "."): value for name, value in settings.items()}, where="test")


def ran(number: int, accuracy: float, *, state: str = COMPLETE, **measured: float) -> TrialRecord:
    record = TrialRecord(
        f"t{number:04d}", number, {"train.lr": number + 1.0}, state=state, study="search", measured=measured
    )
    if state == COMPLETE:
        record.epochs = {1: {"val/accuracy": accuracy, "val/loss": 1 - accuracy}}
    return record


def test_goals_come_from_the_parameters_and_from_what_decides_a_search() -> None:
    setting = params(search__objectives=["val/accuracy", "parameters"], search__constraints__max_latency_ms=3.0)
    expected = Objectives(("val/accuracy", "parameters"), {LATENCY: 3.0})
    assert objectives_from_params(setting) == expected
    assert (
        objectives_from_content({"objectives": ["val/accuracy", "parameters"], "constraints": {"max_latency_ms": 3.0}})
        == expected
    )
    assert objectives_from_content({}) == objectives_from_params(Params()) == Objectives()
    assert set(LIMITED) == set(Params().search.constraints.model_dump())
    assert expected.directions == ["maximize", "minimize"]
    assert expected.metrics == ["parameters", LATENCY]


def test_violations_are_shares_of_the_limit_in_the_direction_that_gets_worse() -> None:
    measured = {PARAMETERS: 1500.0, "images_per_s": 40.0}
    found = TWO.violations(lambda name: measured.get(name, math.nan))
    assert found == pytest.approx({PARAMETERS: 0.5, "images_per_s": 0.2})
    assert TWO.violations(lambda name: {PARAMETERS: 500.0}.get(name, math.nan)) == {PARAMETERS: -0.5}
    assert TWO.explain_infeasible(measured) == [
        "search.constraints.max_parameters: parameters is 1,500, allowed: at most 1,000",
        "search.constraints.min_images_per_s: images_per_s is 40, allowed: at least 50",
    ]


def test_constraint_is_kept_at_its_limit_and_not_where_it_is_not_known() -> None:
    at_limit = ran(0, 0.5, parameters=1000.0, images_per_s=50.0)
    assert TWO.is_feasible(at_limit)
    assert not TWO.is_feasible(ran(1, 0.5, parameters=1000.0))
    assert not TWO.is_feasible(ran(2, 0.5, parameters=1000.1, images_per_s=50.0))
    assert TWO.explain_infeasible(at_limit.measured) == []


def test_front_leaves_out_what_is_dominated_or_has_no_value() -> None:
    records = [
        ran(0, 0.9, latency_ms=3.0),
        ran(1, 0.8, latency_ms=4.0),  # beaten by the one before
        ran(2, 0.7, latency_ms=1.0),
        ran(3, 0.95),
    ]
    assert [record.id for record in TWO.pareto_front(records)] == ["t0000", "t0002"]


def test_candidates_keep_every_constraint_and_with_several_objectives_are_on_the_front() -> None:
    goals = Objectives(limits={LATENCY: 2.0})
    records = [ran(0, 0.9, latency_ms=3.0), ran(1, 0.8, latency_ms=2.0), ran(2, 0.7, latency_ms=1.9)]
    found = select_candidates(records, ChoiceRule(top=3, seeds=0, max_empty_share=0.0, objectives=goals))
    assert [record.id for record in found] == ["t0001", "t0002"]
    two = Objectives(("val/accuracy", LATENCY))
    records.append(ran(3, 0.85, latency_ms=1.5))
    found = select_candidates(records, ChoiceRule(top=3, seeds=0, max_empty_share=0.0, objectives=two))
    assert [record.id for record in found] == ["t0000", "t0003"]


def test_nothing_that_keeps_the_constraints_is_told_with_the_nearest() -> None:
    goals = Objectives(limits={PARAMETERS: 1000.0, "val/attention/jaccard": 0.5})
    trained = ran(0, 0.9, parameters=900.0)
    trained.epochs[1]["val/attention/jaccard"] = 0.25
    records = [trained, ran(1, math.nan, state=INFEASIBLE, parameters=2000.0)]
    with pytest.raises(UserError) as said:
        choose_best(records, ChoiceRule(top=1, seeds=0, objectives=goals))
    assert str(said.value).splitlines() == [
        "no configuration that the search tried meets search.constraints: 1 were not trained since they break a "
        "constraint, 1 ran in full.",
        "  parameters: the lowest was 900 (t0000), allowed: at most 1,000",
        "  val/attention/jaccard: the highest was 0.2500 (t0000), allowed: at least 0.5000",
        "The trials are kept (`sar-search status`). Ease the constraint, or change the space. With search.warm_start "
        "the new search learns from what ran in full.",
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"search__objectives": ["latency_ms"]}, "must begin with one of val/accuracy, val/loss"),
        ({"search__objectives": ["val/accuracy", "val/accuracy"]}, "names an objective twice"),
        ({"search__objectives": ["val/accuracy", "val/loss"]}, "Set search.scheduler.name: none (it is asha)"),
        (
            {
                "search__objectives": ["val/accuracy", "val/loss"],
                "search__scheduler__name": "none",
                "search__budget__patience": 3,
            },
            "search.budget.patience counts trials without an improvement",
        ),
    ],
)
def test_objectives_that_do_not_go_with_the_rest_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        check_objectives(params(**settings))
    assert said in str(refused.value)
    assert str(refused.value).startswith("params.yaml: search.objectives: ")


def test_limits_are_told_in_words() -> None:
    assert format_limits({"max_parameters": 5e6, "max_latency_ms": None, "min_attention_jaccard": 0.3}) == (
        "max_parameters 5,000,000, min_attention_jaccard 0.3000"
    )


def test_parameters_are_those_of_the_network_that_is_built() -> None:
    from pipeline.models.build import build_model

    setting = params(**{"model.kwargs": {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}})
    count = parameter_counter(setting, num_classes=10, channels=1)
    side = setting.prepare.image_size
    for depth in (2, 3):
        kwargs = {**setting.model.kwargs, "depth": depth}
        config = setting.with_values({"model.kwargs": kwargs}, where="").model.config()
        real = build_model(config, num_classes=10, image_size=(side, side), channels=1)
        expected = sum(each.numel() for each in real.parameters())
        assert count({"model.kwargs": kwargs, "train.lr": 0.1}) == expected
    assert count({"model.kwargs": {"patch_size": 2, "embed_dim": 15, "num_heads": 2}}) == 0  # cannot be built


def optuna_trial(values: list[float] | None, constraints: dict[str, float]) -> Any:
    state = TrialState.PRUNED if values is None else TrialState.COMPLETE
    return create_trial(state=state, values=values, constraints=constraints)


def test_gaussian_process_sees_an_untrained_setting_at_the_worst_and_every_trial_with_every_constraint() -> None:
    trials = [
        optuna_trial([0.9, 3.0], {"empty_share": -0.05, PARAMETERS: -0.5}),
        optuna_trial([0.7, 5.0], {"empty_share": -0.01, PARAMETERS: -0.1}),
        optuna_trial(None, {PARAMETERS: 0.8}),
        optuna_trial([0.8, 1.0], {}),  # of an earlier search
    ]
    seen = with_values(trials, TWO)
    assert [trial.values for trial in seen] == [[0.9, 3.0], [0.7, 5.0], [0.7, 5.0], [0.8, 1.0]]
    assert {trial.state for trial in seen} == {TrialState.COMPLETE}
    # What is not known stands at the median of the others: of -0.05 and -0.01; of -0.5, -0.1 and 0.8.
    assert [trial.constraints["empty_share"] for trial in seen] == pytest.approx([-0.05, -0.01, -0.03, -0.03])
    assert [trial.constraints[PARAMETERS] for trial in seen] == pytest.approx([-0.5, -0.1, 0.8, -0.1])


def test_tuned_control_is_searched_for_the_same_objectives_and_a_broken_off_search_goes_on(tmp_path: Path) -> None:
    settings = {
        "search.compare": "same_budget",
        "search.scheduler.name": "none",
        "search.objectives": ["val/accuracy", "val/loss"],
        "search.budget.target": 0.99,
    }
    whole = Search(tmp_path / "whole", settings, WIDE)
    whole.run()
    assert {record.study for record in whole.outcome} == {"search", "control_study", None}
    broken = Search(tmp_path / "broken", settings, WIDE)
    broken.killed(kill_at=9)
    broken.killed(kill_at=6)
    broken.run()
    assert told(broken.outcome) == told(whole.outcome)


def test_infeasible_trials_have_no_checkpoint_no_epochs_and_are_told_to_listeners(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.constraints.max_parameters": 5.0}, SPACE)
    with search.session() as course:
        course._count = lambda values: 10 if values[WEIGHT] > 0.1 else 3
        search.drive(course)
    tried = [record for record in search.outcome if record.study == METHOD]
    infeasible = [record for record in tried if record.values[WEIGHT] > 0.1]
    assert infeasible
    assert [record for record in tried if record.state == INFEASIBLE] == infeasible
    for record in infeasible:
        assert search.heard.of(record.id) == ["started", "ended infeasible"]
        assert record.id not in search.starts
        assert (record.epochs, record.measured) == ({}, {"parameters": 10})
    (baseline,) = [record for record in search.outcome if record.control]
    assert baseline.state == COMPLETE


def test_metrics_of_classes_are_objectives_after_accuracy_and_decide_among_equals() -> None:
    asked = params(search__objectives=["val/accuracy", "val/macro_f1", "val/auroc"], search__scheduler__name="none")
    check_objectives(asked)
    found = objectives_from_params(asked)
    assert found.directions == ["maximize"] * 3
    assert found.class_metrics == ["val/macro_f1", "val/auroc"]
    assert found.attention_metrics == found.speed_metrics == []
    then = objectives_from_params(params(search__choose__then="val/balanced_accuracy"))
    assert then.class_metrics == ["val/balanced_accuracy"]
    assert then.stopping_metrics == ["val/accuracy"]
    rule = ChoiceRule(top=3, seeds=0, objectives=then, within=1.0, words=replace(ACCURACY_WORDS, margin=0.05))
    trials = [ran(number, accuracy) for number, accuracy in enumerate((0.90, 0.89, 0.7))]
    for trial, value in zip(trials, (0.5, 0.8, 0.9), strict=True):
        trial.epochs[1]["val/balanced_accuracy"] = value
    assert [each.id for each in select_candidates(trials, rule)] == ["t0000", "t0001"]


def test_the_users_metric_is_searched_for_only_where_there_is_one() -> None:
    with pytest.raises(
        UserError, match=r"val/metric stands for a function of yours that .*, but evaluate\.metric is macro_f1"
    ):
        check_objectives(params(search__choose__then="val/metric", evaluate__metric="macro_f1"))
    check_objectives(params(search__choose__then="val/metric", evaluate__metric="mine:score"))


def test_a_metric_that_decides_is_part_of_what_names_the_search() -> None:
    def content(**settings: Any) -> dict[str, Any]:
        return fingerprint_content(params(**settings), {}, data_hash="d", split_hash="s")

    plain = content()
    assert content(evaluate__metric="macro_f1", evaluate__margin=0.02) == plain
    assert content(search__choose__then="val/macro_f1") == plain | {"then": "val/macro_f1"}
    own = content(search__choose__then="val/metric", evaluate__metric="mine:score")
    assert own == plain | {"then": "val/metric", "metric": "mine:score"}

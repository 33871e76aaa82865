"""Every rule of the gate: what passes, what fails, and what a small test cannot tell."""

from dataclasses import replace
from typing import Any

import pytest
from support.partial_results import filled

from pipeline.artifacts.registration import ArmsTag
from pipeline.config.schema.result_sections import PromoteParams
from pipeline.promotion.gate import (
    ACCEPTED,
    FAILED,
    NOT_APPLIED,
    PASSED,
    UNDECIDED,
    GateInputs,
    Rule,
    evaluate_gate,
    overall_outcome,
)
from pipeline.score.metrics.metric import METRICS
from pipeline.score.paired_test import PairedDifference, PairedScores

ARMS: dict[str, Any] = {
    "control": "baseline",
    "difference": 0.002,
    "low": -0.006,
    "high": 0.010,
    "confidence": 0.95,
    "seeds": [5, 4],
    "images": 360,
    "detectable_difference": 0.012,
    "note": None,
}
GOOD = GateInputs(
    accuracy=0.97,
    ece=0.02,
    images=360,
    commonest=0.11,
    arms=ARMS,
    margin=0.01,
    champion=3,
    pair=PairedDifference(0.0, -0.008, 0.008, 0.95, 360, 1, 1),
    latency_ms=4.0,
)


def pair(low: float, high: float) -> PairedDifference:
    return PairedDifference((low + high) / 2, low, high, 0.95, 360, 6, 6)


def judged(facts: GateInputs, params: PromoteParams) -> list[Rule]:
    """By what a version's tag says of its arms, which is a mapping here."""
    return evaluate_gate(replace(facts, arms=filled(ArmsTag, **facts.arms)), params)


def rule(name: str, facts: GateInputs = GOOD, **params: Any) -> Rule:
    return next(each for each in judged(facts, PromoteParams(**params)) if each.name == name)


def test_a_good_challenger_passes_every_rule() -> None:
    rules = judged(GOOD, PromoteParams(max_latency_ms=10.0))
    assert [each.name for each in rules] == ["accuracy", "champion", "control", "calibration", "latency"]
    assert {each.outcome for each in rules} == {PASSED}
    assert overall_outcome(rules) == PASSED


@pytest.mark.parametrize(
    ("accuracy", "bound", "outcome", "said"),
    [
        (0.90, 0.90, PASSED, "90.0 % on 360 test images; needed: at least 90.0 %"),
        (0.89, 0.90, FAILED, "89.0 %"),
        (0.12, None, PASSED, "above 11.0 %, the share of the most frequent class"),
        (0.11, None, FAILED, "above 11.0 %"),
    ],
)
def test_accuracy_has_a_floor(accuracy: float, bound: float | None, outcome: str, said: str) -> None:
    found = rule("accuracy", replace(GOOD, accuracy=accuracy), min_accuracy=bound)
    assert found.outcome == outcome
    assert said in found.detail


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(-0.009, 0.02, PASSED), (-0.02, 0.02, UNDECIDED), (-0.03, -0.005, UNDECIDED), (-0.05, -0.011, FAILED)],
)
def test_against_the_champion_the_whole_interval_counts(low: float, high: float, outcome: str) -> None:
    assert rule("champion", replace(GOOD, pair=pair(low, high))).outcome == outcome


def test_too_few_images_for_the_margin_are_told_with_what_would_be_enough() -> None:
    found = rule("champion", replace(GOOD, pair=pair(-0.019, 0.019)))
    assert "against version 3 on the same 360 images (95 % interval -1.9 to +1.9 points" in found.detail
    assert found.to_decide.startswith("about 3,036 test images if both are equally good, or `promote.margin: 0.02`, ")
    assert "if a loss of 1.9 points is acceptable" in found.to_decide
    assert "further seeds would not help" in found.to_decide


@pytest.mark.parametrize(
    ("low", "metric", "written"),
    [
        (-0.013, METRICS["accuracy"].words, "`promote.margin: 0.014`"),
        (-0.0131, METRICS["accuracy"].words, "`promote.margin: 0.014`"),
        (-0.0985, METRICS["accuracy"].words, "`promote.margin: 0.099`"),
        (-0.0995, METRICS["accuracy"].words, ""),  # parameters refuse 0.1
        (-0.15, METRICS["auroc"].words, ""),
        (-0.15, METRICS["log_loss"].words, "`promote.margin: 0.121`"),
    ],
)
def test_the_margin_that_would_decide_is_told_as_params_takes_it(low: float, metric: Any, written: str) -> None:
    """Of a log loss, the other end of the interval is the loss."""
    near = replace(GOOD, pair=PairedScores(low / 2, low, 0.12, 0.95, 360), metric=metric)
    found = rule("champion", near)
    assert found.outcome == UNDECIDED
    assert written in found.to_decide
    assert ("promote.margin" in found.to_decide) == bool(written)


def test_a_wider_margin_decides() -> None:
    assert rule("champion", replace(GOOD, pair=pair(-0.019, 0.019)), margin=0.02).outcome == PASSED


def test_a_first_champion_is_compared_with_none() -> None:
    assert rule("champion", replace(GOOD, pair=None, champion=None)).outcome == NOT_APPLIED


@pytest.mark.parametrize(
    ("wanted", "low", "high", "outcome"),
    [
        ("not_worse", -0.009, 0.02, PASSED),
        ("not_worse", -0.02, 0.02, UNDECIDED),
        ("not_worse", -0.03, -0.01, FAILED),
        ("better", 0.001, 0.02, PASSED),
        ("better", -0.001, 0.02, UNDECIDED),
        ("better", -0.02, 0.0, FAILED),
        ("any", -0.9, -0.8, NOT_APPLIED),
    ],
)
def test_the_comparison_with_the_control_is_required_as_asked(
    wanted: str, low: float, high: float, outcome: str
) -> None:
    arms = ARMS | {"low": low, "high": high, "difference": (low + high) / 2}
    assert rule("control", replace(GOOD, arms=arms), control=wanted).outcome == outcome


def test_the_margin_against_the_control_is_the_evaluations_and_against_the_champion_promotes() -> None:
    facts = replace(GOOD, arms=ARMS | {"low": -0.015}, margin=0.02)
    assert rule("control", facts).outcome == PASSED
    assert "not worse by more than 2.0 points (evaluate.margin)" in rule("control", facts).detail
    assert rule("control", replace(facts, margin=0.01), margin=0.05).outcome == UNDECIDED
    assert rule("champion", replace(facts, pair=pair(-0.015, 0.01))).outcome == UNDECIDED


def test_not_worse_is_the_evaluations_endpoint_at_the_level_that_decided_it() -> None:
    endpoint = {"name": "accuracy", "shown": False, "difference": -0.002, "low": -0.012, "high": 0.008, "level": 0.975}
    facts = replace(GOOD, arms=ARMS | {"low": -0.009, "endpoint": endpoint})
    found = rule("control", facts)
    assert found.outcome == UNDECIDED
    assert "-0.2 points against baseline (97.5 % interval -1.2 to +0.8 points; 5 and 4 seeds)" in found.detail
    shown = replace(facts, arms=ARMS | {"low": -0.02, "endpoint": endpoint | {"low": -0.0099}})
    assert rule("control", shown).outcome == PASSED
    better = replace(facts, arms=ARMS | {"low": 0.001, "endpoint": endpoint})
    assert rule("control", better, control="better").outcome == PASSED


PARTS = {"seeds": [4e-6], "both": [3e-5], "seed_counts": [4], "images": 4e-6, "images_both": 3e-5, "image_count": 400}


def test_a_comparison_that_cannot_tell_says_how_many_seeds_or_images_could() -> None:
    arms = ARMS | {"low": -0.018, "high": 0.022, "variance_parts": PARTS}
    found = rule("control", replace(GOOD, arms=arms, margin=0.012))
    assert found.to_decide == (
        "(if both are equally good) about 12 seeds an arm on as many images (retrain.seeds), or about 2,530 test images "
        "with as many seeds"
    )
    better = rule("control", replace(GOOD, arms=arms | {"difference": 0.015}), control="better")
    assert better.to_decide.startswith("(if it is better by 1.5 points) ")
    many = PARTS | {"seeds": [1e-6], "images": 9e-5, "both": [1e-6], "images_both": 1e-6}
    found = rule("control", replace(GOOD, arms=arms | {"variance_parts": many}))
    assert "more seeds alone would not do: the images' part of the variance stays" in found.to_decide


def test_a_version_of_earlier_says_what_would_be_enough_of_both_together() -> None:
    arms = ARMS | {"low": -0.018, "high": 0.022, "detectable_difference": 0.03}
    found = rule("control", replace(GOOD, arms=arms))
    assert found.to_decide == (
        "(if both are equally good) about 36 seeds an arm (retrain.seeds) and 3,240 test images, both together"
    )


FIRST = replace(GOOD, pair=None, champion=None)


@pytest.mark.parametrize(
    ("low", "high", "champion", "given", "outcome"),
    [
        (-0.02, 0.02, None, {}, ACCEPTED),
        (-0.03, -0.005, None, {}, UNDECIDED),  # a loss is shown; whether of more than the margin cannot be told
        (-0.02, 0.02, None, {"first_undecided": "refuse"}, UNDECIDED),
        (-0.02, 0.02, 3, {}, UNDECIDED),
        (-0.02, 0.02, None, {"control": "better"}, UNDECIDED),  # was asked for, and is not shown
        (-0.03, -0.01, None, {}, FAILED),
        (-0.03, -0.01, 3, {}, FAILED),
        (-0.009, 0.02, None, {}, PASSED),
        (-0.009, 0.02, None, {"first_undecided": "refuse"}, PASSED),
        (None, None, None, {}, UNDECIDED),  # without an interval there is no largest loss to accept
    ],
)
def test_without_a_champion_what_cannot_be_told_is_accepted_and_what_is_shown_is_not(
    low: float | None, high: float | None, champion: int | None, given: dict[str, Any], outcome: str
) -> None:
    arms = ARMS | {"low": low, "high": high, "difference": -0.002, "note": "no interval"}
    assert rule("control", replace(FIRST, arms=arms, champion=champion), **given).outcome == outcome


def test_what_is_accepted_says_the_largest_loss_and_what_would_have_told() -> None:
    found = rule("control", replace(FIRST, arms=ARMS | {"low": -0.0234, "high": 0.02, "difference": -0.0017}))
    assert found.outcome == "undecided, accepted"
    assert found.detail == (
        "-0.2 points against baseline (95 % interval -2.3 to +2.0 points; 5 and 4 seeds); needed: not worse by more than "
        "1.0 points (evaluate.margin). A loss of up to 2.3 points is not ruled out, and is accepted since there is no "
        "champion (promote.first_undecided: accept)"
    )
    assert found.to_decide.startswith("(if both are equally good) about ")


def test_no_other_rule_is_accepted_undecided() -> None:
    rules = judged(replace(FIRST, ece=0.5, accuracy=0.1), PromoteParams())
    assert {each.name for each in rules if each.outcome == FAILED} == {"accuracy", "calibration"}


def test_without_an_interval_the_control_is_undecided() -> None:
    arms = ARMS | {"low": None, "high": None, "detectable_difference": None, "note": "with one seed there is none"}
    found = rule("control", replace(GOOD, arms=arms))
    assert (found.outcome, "with one seed" in found.detail) == (UNDECIDED, True)
    assert "at least 2 seeds" in found.to_decide


@pytest.mark.parametrize(("bound", "outcome"), [(0.02, PASSED), (0.019, FAILED), (None, NOT_APPLIED)])
def test_calibration_has_a_bound(bound: float | None, outcome: str) -> None:
    assert rule("calibration", max_ece=bound).outcome == outcome


@pytest.mark.parametrize(("bound", "outcome"), [(4.0, PASSED), (3.9, FAILED), (None, NOT_APPLIED)])
def test_latency_has_a_bound(bound: float | None, outcome: str) -> None:
    assert rule("latency", max_latency_ms=bound).outcome == outcome


@pytest.mark.parametrize(
    ("outcomes", "whole"),
    [
        ([PASSED, PASSED], PASSED),
        ([PASSED, UNDECIDED], UNDECIDED),
        ([UNDECIDED, FAILED, PASSED], FAILED),
        ([PASSED, ACCEPTED], ACCEPTED),
        ([NOT_APPLIED, PASSED], PASSED),
        ([NOT_APPLIED, UNDECIDED], UNDECIDED),
        ([ACCEPTED, UNDECIDED], UNDECIDED),
        ([ACCEPTED, FAILED], FAILED),
    ],
)
def test_one_rule_that_fails_or_cannot_tell_decides(outcomes: list[str], whole: str) -> None:
    assert overall_outcome([Rule("x", each, "") for each in outcomes]) == whole


F1, LOSS = METRICS["macro_f1"].words, METRICS["log_loss"].words
BY_F1 = replace(
    GOOD,
    metric=F1,
    value=0.91,
    blind=0.02,
    champion_margin=0.02,
    pair=PairedScores(0.0, -0.012, 0.012, 0.95, 360),
    arms={**ARMS, "metric": F1.content()},
)
BY_LOSS = replace(
    GOOD,
    metric=LOSS,
    value=0.31,
    blind=2.3,
    champion_margin=0.02,
    pair=PairedScores(0.0, -0.012, 0.012, 0.95, 360),
    arms={**ARMS, "difference": -0.002, "low": -0.010, "high": 0.006, "metric": LOSS.content()},
)


def test_another_metric_has_a_rule_in_place_of_accuracys() -> None:
    rules = judged(BY_F1, PromoteParams())
    assert [each.name for each in rules] == ["macro-F1", "champion", "control", "calibration", "latency"]
    assert {each.outcome for each in rules[:-1]} == {PASSED}
    assert rules[0].detail == (
        "91.0 % on 360 test images; needed: higher than 2.0 %, the value if every image is answered with the classes' "
        "shares"
    )
    assert rule("macro-F1", replace(BY_F1, value=0.02)).outcome == FAILED
    assert rule("macro-F1", BY_F1, min_metric=0.92).outcome == FAILED
    assert "at least 91.0 % (promote.min_metric)" in rule("macro-F1", BY_F1, min_metric=0.91).detail
    # Accuracy is asked for beside it only where its own parameter says so.
    assert rule("accuracy", BY_F1, min_accuracy=0.98).outcome == FAILED
    assert rule("accuracy", GOOD, min_metric=0.98).outcome == FAILED


def test_less_is_better_turns_every_rule() -> None:
    assert {each.outcome for each in judged(BY_LOSS, PromoteParams())[:-1]} == {PASSED}
    least = rule("log loss", BY_LOSS, min_metric=0.3)
    assert least.outcome == FAILED
    assert "at most 0.300 (promote.min_metric)" in least.detail
    worse = replace(BY_LOSS, pair=PairedScores(0.05, 0.03, 0.07, 0.95, 360))
    assert rule("champion", worse).outcome == FAILED
    better = replace(BY_LOSS, pair=PairedScores(-0.05, -0.07, -0.03, 0.95, 360))
    assert rule("champion", better).outcome == PASSED
    assert (
        "-0.050 in log loss against version 3 on the same 360 images (95 % interval -0.070 to -0.030); needed: not "
        in (rule("champion", better).detail)
    )
    for low, high, outcome in ((0.02, 0.04, FAILED), (-0.04, 0.02, UNDECIDED), (-0.04, 0.009, PASSED)):
        arms = {**BY_LOSS.arms, "low": low, "high": high, "difference": (low + high) / 2}
        assert rule("control", replace(BY_LOSS, arms=arms)).outcome == outcome
    arms = {**BY_LOSS.arms, "low": -0.04, "high": -0.001, "difference": -0.02}
    assert rule("control", replace(BY_LOSS, arms=arms), control="better").outcome == PASSED


def test_a_first_model_is_accepted_with_what_is_not_ruled_out_and_not_with_a_rise_that_is_shown() -> None:
    first = {"champion": None, "pair": None, "margin": 0.02}
    arms = {**BY_LOSS.arms, "low": -0.01, "high": 0.03}
    found = rule("control", replace(BY_LOSS, arms=arms, **first))
    assert found.outcome == ACCEPTED
    assert "A rise of up to 0.030 is not ruled out" in found.detail
    shown = {**arms, "low": 0.001, "difference": 0.015}
    refused = rule("control", replace(BY_LOSS, arms=shown, **first))
    assert refused.outcome == UNDECIDED
    assert "A rise is shown" in refused.detail


def test_images_that_would_tell_follow_from_the_interval_and_a_metric_without_one_never_tells() -> None:
    found = rule("champion", replace(BY_F1, pair=PairedScores(0.0, -0.03, 0.03, 0.95, 360)))
    assert found.outcome == UNDECIDED
    # (1.96 + .84)^2 (.03 / 1.967 / .02)^2 360, by hand.
    assert found.to_decide.startswith("about 1,644 test images if both are equally good, or `promote.margin: 0.031`, ")
    never = rule("champion", replace(BY_F1, pair=PairedScores(0.0, None, None, 0.95, 360, "it is declared not smooth")))
    assert never.outcome == UNDECIDED
    assert "without an interval: it is declared not smooth; needed" in never.detail


def test_margin_against_the_champion_is_the_metrics_own_where_none_is_given() -> None:
    near = replace(BY_F1, pair=PairedScores(-0.01, -0.019, -0.001, 0.95, 360))
    assert rule("champion", near).outcome == PASSED
    assert rule("champion", near, margin=0.01).outcome == UNDECIDED

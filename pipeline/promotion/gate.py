"""The gate before `champion`: what a challenger must show, rule by rule.

A rule has four outcomes. "passed" and "failed" are what the figures show; "undecided" is a test that is too small to
tell, and then what would be enough is said. "undecided, accepted" is a comparison with the control that cannot tell,
of a first model, which has no champion to replace: the parameters accept that (`promote.first_undecided`). A challenger
passes the gate if every rule is passed or accepted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.schema.result_sections import PromoteParams
from pipeline.console.format import format_interval, format_percent, format_points
from pipeline.score.paired_test import PairedDifference
from pipeline.score.sample_size import describe_enough, parts_from

PASSED, FAILED, UNDECIDED, ACCEPTED = "passed", "failed", "undecided", "undecided, accepted"


@dataclass(frozen=True)
class Rule:
    """What came of one rule. detail: the figures and the bound. to_decide: what would decide an undecided one."""

    name: str
    outcome: str
    detail: str
    to_decide: str = ""


@dataclass(frozen=True)
class GateInputs:
    """What is known of a challenger; accuracies, errors and differences are fractions of 1.

    accuracy, ece: its own on the test set. commonest: the share of the test set's most frequent class. arms: the
    comparison of its configuration with the control (`pipeline.score.comparison.Comparison`), the control's name, and
    what register put beside it. margin: what may be lost against the control, as the evaluation had it. pair: the
    challenger against the champion on the same images; None where there is no champion, whose version `champion` is, or
    where there are no images on which both can be judged, for which `not_compared` has the reason. tested_on: what the
    images are, in words.
    latency_ms: of one image by itself; None where it was not measured.
    """

    accuracy: float
    ece: float
    images: int
    commonest: float
    arms: Mapping[str, Any]
    control: str
    margin: float
    champion: int | None
    pair: PairedDifference | None
    latency_ms: float | None
    tested_on: str = "test images"
    not_compared: str = ""


def evaluate_gate(inputs: GateInputs, params: PromoteParams) -> list[Rule]:
    """Every rule of the gate, in the order in which they are told."""
    return [
        _accuracy(inputs, params),
        _champion(inputs, params),
        _control(inputs, params),
        _calibration(inputs, params),
        _latency(inputs, params),
    ]


def overall_outcome(rules: Sequence[Rule]) -> str:
    """The worst of the rules' outcomes: failed, undecided, accepted though undecided, passed."""
    found = {rule.outcome for rule in rules}
    return next((outcome for outcome in (FAILED, UNDECIDED, ACCEPTED) if outcome in found), PASSED)


def _accuracy(inputs: GateInputs, params: PromoteParams) -> Rule:
    if params.min_accuracy is None:
        passed, bound = (
            inputs.accuracy > inputs.commonest,
            f"above {format_percent(inputs.commonest)}, the most frequent class",
        )
    else:
        passed, bound = inputs.accuracy >= params.min_accuracy, f"at least {format_percent(params.min_accuracy)}"
    said = f"{format_percent(inputs.accuracy)} on {inputs.images:,} {inputs.tested_on}; needed: {bound}"
    return Rule("accuracy", PASSED if passed else FAILED, said)


def _champion(inputs: GateInputs, params: PromoteParams) -> Rule:
    if inputs.not_compared:
        enough = "a champion whose procedure was tested in folds too, or evaluate.holdout, which keeps images apart"
        return Rule("champion", UNDECIDED, inputs.not_compared, enough)
    if inputs.pair is None:
        return Rule("champion", PASSED, "there is none yet to compare with")
    pair, margin = inputs.pair, params.margin
    said = (
        f"{format_points(pair.difference)} against version {inputs.champion} on the same {pair.images:,} images "
        f"({_interval(pair.low, pair.high, pair.confidence)}; each alone is right on {pair.only_first} and "
        f"{pair.only_second}); needed: not worse by more than {format_points(margin).lstrip('+')}"
    )
    if pair.low > -margin:
        return Rule("champion", PASSED, said)
    if pair.high < -margin:
        return Rule("champion", FAILED, said)
    needed = (
        f"about {pair.images_needed(margin):,} test images if both are equally good, or a promote.margin above "
        f"{format_points(-pair.low).lstrip('+')}; further seeds would not tell, since two fixed models are compared"
    )
    return Rule("champion", UNDECIDED, said, needed)


def _control(inputs: GateInputs, params: PromoteParams) -> Rule:
    if params.control == "any":
        return Rule("control", PASSED, "not asked for (promote.control: any)")
    arms, margin, better = inputs.arms, inputs.margin, params.control == "better"
    # Not worse is the evaluation's first endpoint, at the level at which that was decided.
    found = arms if better else arms.get("endpoint") or arms
    difference, low, high = found["difference"], found["low"], found["high"]
    confidence = float(found.get("level", arms["confidence"]))
    lost = format_points(margin).lstrip("+")
    wanted = "better" if better else f"not worse by more than {lost} (evaluate.margin)"
    said = f"{format_points(difference)} against {inputs.control}"
    if low is None or high is None:
        said += f", without an interval: {arms['note']}; needed: {wanted}"
        return Rule("control", UNDECIDED, said, "at least 2 seeds in each arm (retrain.seeds), networks that differ")
    best, control = arms["seeds"]
    said += f" ({_interval(low, high, confidence)}; {best} and {control} seeds); needed: {wanted}"
    bound = 0.0 if better else -margin
    if low > bound:
        return Rule("control", PASSED, said)
    if high <= bound:
        return Rule("control", FAILED, said)
    enough = _enough(arms, max(difference, margin) if better else margin, confidence, better=better)
    if better or inputs.champion is not None or params.first_undecided == "refuse":
        return Rule("control", UNDECIDED, said, enough)
    if arms["high"] is not None and arms["high"] < 0:  # at the confidence at which a loss is said
        return Rule(
            "control", UNDECIDED, f"{said}. A loss is shown, which promote.first_undecided does not accept", enough
        )
    said += (
        f". A loss of up to {format_points(-low).lstrip('+')} is not ruled out, and is accepted since there is no "
        "champion (promote.first_undecided: accept)"
    )
    return Rule("control", ACCEPTED, said, enough)


def _enough(arms: Mapping[str, Any], distance: float, confidence: float, *, better: bool) -> str:
    """What would decide the comparison of the arms, if they differ by the distance from what is to be ruled out."""
    truth = f"(if it is better by {format_points(distance).lstrip('+')})" if better else "(if both are equally good)"
    if arms.get("variance_parts"):
        return f"{truth} {describe_enough(parts_from(arms['variance_parts']), distance, confidence)}"
    # A version that was registered without the parts of the variance: more of both shrinks all of it.
    factor = max(1.0, (arms["detectable_difference"] / distance) ** 2)
    seeds, images = math.ceil(factor * min(arms["seeds"])), math.ceil(factor * arms["images"])
    return f"{truth} about {seeds:,} seeds an arm (retrain.seeds) and {images:,} test images, both together"


def _calibration(inputs: GateInputs, params: PromoteParams) -> Rule:
    said = f"expected calibration error {format_percent(inputs.ece)}"
    if params.max_ece is None:
        return Rule("calibration", PASSED, f"{said}; no bound (promote.max_ece)")
    passed = inputs.ece <= params.max_ece
    return Rule(
        "calibration", PASSED if passed else FAILED, f"{said}; needed: at most {format_percent(params.max_ece)}"
    )


def _latency(inputs: GateInputs, params: PromoteParams) -> Rule:
    if params.max_latency_ms is None or inputs.latency_ms is None:
        return Rule("latency", PASSED, "not measured (promote.max_latency_ms)")
    passed = inputs.latency_ms <= params.max_latency_ms
    said = (
        f"{inputs.latency_ms:.1f} ms an image by itself on this machine; needed: at most {params.max_latency_ms:g} ms"
    )
    return Rule("latency", PASSED if passed else FAILED, said)


def _interval(low: float, high: float, confidence: float) -> str:
    return f"{100 * confidence:.4g} % {format_interval(low, high)}"

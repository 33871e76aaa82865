"""The gate before `champion`: what a challenger must show, rule by rule.

A rule has four outcomes. "passed" and "failed" are what the figures show; "undecided" is a test that is too small to
tell, and then what would be enough is said. "undecided, accepted" is a comparison with the control that cannot tell,
of a first model, which has no champion to replace: the parameters accept that (`promote.first_undecided`). A challenger
passes the gate if every rule is passed or accepted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.artifacts.registration import ArmsTag
from pipeline.config.schema.result_sections import PromoteParams
from pipeline.console.format import format_level, format_percent
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords, words_of
from pipeline.score.paired_test import PairedDifference, PairedScores
from pipeline.score.sample_size import describe_enough

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

    accuracy, ece: its own on the test set. commonest: the share of the test set's most frequent class. arms: its
    configuration compared with the control, as register wrote it down. margin: what may be lost against the control, as
    the evaluation had it. pair: the challenger against the champion on the same images; None where there is no
    champion, whose version `champion` is, or where there are no images on which both can be judged, for which
    `not_compared` has the reason. tested_on: what the images are, in words.
    latency_ms: of one image by itself; None where it was not measured. metric: `evaluate.metric` of now; value: its own
    by that; blind: what the shares of the classes as the answer to every image give, of accuracy `commonest`.
    champion_margin: what may be lost by it against the champion, where promote.margin says nothing.
    """

    accuracy: float
    ece: float
    images: int
    commonest: float
    arms: ArmsTag
    margin: float
    champion: int | None
    pair: PairedDifference | PairedScores | None
    latency_ms: float | None
    metric: MetricWords = ACCURACY_WORDS
    value: float = math.nan
    blind: float = math.nan
    champion_margin: float = 0.01
    tested_on: str = "test images"
    not_compared: str = ""


def evaluate_gate(inputs: GateInputs, params: PromoteParams) -> list[Rule]:
    """Every rule of the gate, in the order in which they are told."""
    by_accuracy = inputs.metric.key == ACCURACY_WORDS.key
    return [
        *([] if by_accuracy else [_metric(inputs, params)]),
        *([_accuracy(inputs, params)] if by_accuracy or params.min_accuracy is not None else []),
        _champion(inputs, params),
        _control(inputs, params),
        _calibration(inputs, params),
        _latency(inputs, params),
    ]


def overall_outcome(rules: Sequence[Rule]) -> str:
    """The worst of the rules' outcomes: failed, undecided, accepted though undecided, passed."""
    found = {rule.outcome for rule in rules}
    return next((outcome for outcome in (FAILED, UNDECIDED, ACCEPTED) if outcome in found), PASSED)


def _metric(inputs: GateInputs, params: PromoteParams) -> Rule:
    words, asked = inputs.metric, params.min_metric
    if asked is None:
        passed = words.sign * (inputs.value - inputs.blind) > 0
        bound = (
            f"{words.better} than {words.format_value(inputs.blind)}, which the classes' shares give as every answer"
        )
    else:
        passed = words.sign * (inputs.value - asked) >= 0
        bound = f"at {'most' if words.lower_is_better else 'least'} {words.format_value(asked)} (promote.min_metric)"
    said = f"{words.format_value(inputs.value)} on {inputs.images:,} {inputs.tested_on}; needed: {bound}"
    return Rule(words.label, PASSED if passed else FAILED, said)


def _accuracy(inputs: GateInputs, params: PromoteParams) -> Rule:
    least = params.min_metric if params.min_accuracy is None else params.min_accuracy
    if least is None:
        passed, bound = (
            inputs.accuracy > inputs.commonest,
            f"above {format_percent(inputs.commonest)}, the most frequent class",
        )
    else:
        passed, bound = inputs.accuracy >= least, f"at least {format_percent(least)}"
    said = f"{format_percent(inputs.accuracy)} on {inputs.images:,} {inputs.tested_on}; needed: {bound}"
    return Rule("accuracy", PASSED if passed else FAILED, said)


def _champion(inputs: GateInputs, params: PromoteParams) -> Rule:
    if inputs.not_compared:
        enough = "a champion whose procedure was tested in folds too, or evaluate.holdout, which keeps images apart"
        return Rule("champion", UNDECIDED, inputs.not_compared, enough)
    if inputs.pair is None:
        return Rule("champion", PASSED, "there is none yet to compare with")
    pair, words = inputs.pair, inputs.metric
    margin = inputs.champion_margin if params.margin is None else params.margin
    lost = words.format_difference(margin).lstrip("+")
    needed = f"needed: not worse by more than {lost}"
    of = "" if words.key == ACCURACY_WORDS.key else f" in {words.label}"
    said = f"{words.format_difference(pair.difference)}{of} against version {inputs.champion} on the same"
    if pair.low is None or pair.high is None:
        said += f" {pair.images:,} images, without an interval: {pair.note}; {needed}"
        return Rule("champion", UNDECIDED, said, "another evaluate.metric, or other test images")
    alone = (
        f"; each alone is right on {pair.only_first} and {pair.only_second}"
        if isinstance(pair, PairedDifference)
        else ""
    )
    said += f" {pair.images:,} images ({_interval(words, pair.low, pair.high, pair.confidence)}{alone}); {needed}"
    worst, best = _turned(words, pair.low, pair.high)
    if worst > -margin:
        return Rule("champion", PASSED, said)
    if best < -margin:
        return Rule("champion", FAILED, said)
    enough = (
        f"about {pair.images_needed(margin):,} test images if both are equally good, or a promote.margin above "
        f"{words.format_difference(-worst).lstrip('+')}; further seeds would not tell, since two fixed models are "
        "compared"
    )
    return Rule("champion", UNDECIDED, said, enough)


def _control(inputs: GateInputs, params: PromoteParams) -> Rule:
    if params.control == "any":
        return Rule("control", PASSED, "not asked for (promote.control: any)")
    arms, margin, better = inputs.arms, inputs.margin, params.control == "better"
    words = words_of(arms.metric)
    # Not worse is the evaluation's first endpoint, at the level at which that was decided.
    found = arms if better or arms.endpoint is None else arms.endpoint
    difference, low, high = found.difference, found.low, found.high
    confidence = arms.confidence if found is arms or arms.endpoint is None else arms.endpoint.level
    lost = words.format_difference(margin).lstrip("+")
    wanted = "better" if better else f"not worse by more than {lost} (evaluate.margin)"
    of = "" if words.key == ACCURACY_WORDS.key else f" in {words.label}"
    said = f"{words.format_difference(difference)}{of} against {arms.control}"
    if low is None or high is None:
        said += f", without an interval: {arms.note}; needed: {wanted}"
        return Rule("control", UNDECIDED, said, "at least 2 seeds in each arm (retrain.seeds), networks that differ")
    best, control = arms.seeds
    said += f" ({_interval(words, low, high, confidence)}; {best} and {control} seeds); needed: {wanted}"
    bound = 0.0 if better else -margin
    worst, least = _turned(words, low, high)
    if worst > bound:
        return Rule("control", PASSED, said)
    if least <= bound:
        return Rule("control", FAILED, said)
    distance = max(words.sign * difference, margin) if better else margin
    enough = _enough(arms, distance, confidence, words, better=better)
    if better or inputs.champion is not None or params.first_undecided == "refuse":
        return Rule("control", UNDECIDED, said, enough)
    # A loss is said at the confidence of the comparison.
    if arms.low is not None and arms.high is not None and _turned(words, arms.low, arms.high)[1] < 0:
        return Rule(
            "control",
            UNDECIDED,
            f"{said}. A {words.harm} is shown, which promote.first_undecided does not accept",
            enough,
        )
    said += (
        f". A {words.harm} of up to {words.format_difference(-worst).lstrip('+')} is not ruled out, and is accepted "
        "since there is no champion (promote.first_undecided: accept)"
    )
    return Rule("control", ACCEPTED, said, enough)


def _turned(words: MetricWords, low: float, high: float) -> tuple[float, float]:
    """The ends of an interval, the worse one first, as gains."""
    return (-high, -low) if words.lower_is_better else (low, high)


def _enough(arms: ArmsTag, distance: float, confidence: float, words: MetricWords, *, better: bool) -> str:
    """What would decide the comparison of the arms, if they differ by the distance from what is to be ruled out."""
    truth = (
        f"(if it is better by {words.format_difference(distance).lstrip('+')})"
        if better
        else "(if both are equally good)"
    )
    if arms.variance_parts:
        return f"{truth} {describe_enough(arms.variance_parts, distance, confidence)}"
    # A version that was registered without the parts of the variance: more of both shrinks all of it.
    factor = max(1.0, ((arms.detectable_difference or 0.0) / distance) ** 2)
    seeds, images = math.ceil(factor * min(arms.seeds)), math.ceil(factor * arms.images)
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


def _interval(words: MetricWords, low: float, high: float, confidence: float) -> str:
    return f"{format_level(confidence)} {words.format_interval(low, high)}"

"""The gate before `champion`: the rules that a challenger must pass.

A rule has five outcomes. With "passed" and "failed" the figures decide. With "undecided" the test is too small to
decide, and the rule says how much data would be enough. "undecided, accepted" applies to a first model, which has no
champion to replace: the comparison with its control is undecided, and the parameters accept that
(`promote.first_undecided`). With "not applied" the rule has judged nothing, since there is no champion to compare with
or the parameters set no bound. A challenger passes the gate if every rule is passed, accepted or not applied.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.artifacts.registration import ArmsTag
from pipeline.config.schema.result_sections import SHARE_MARGIN_LIMIT, PromoteParams
from pipeline.console.format import format_level, format_percent
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords, words_of
from pipeline.score.paired_test import PairedDifference, PairedScores
from pipeline.score.sample_size import describe_enough

PASSED, FAILED, UNDECIDED, ACCEPTED = "passed", "failed", "undecided", "undecided, accepted"
NOT_APPLIED = "not applied"


@dataclass(frozen=True)
class Rule:
    """Result of one rule.

    Attributes:
        name: Name of the rule.
        outcome: `PASSED`, `FAILED`, `UNDECIDED`, `ACCEPTED` or `NOT_APPLIED`.
        detail: The figures and the bound.
        to_decide: What would decide an undecided rule; "" for others.
    """

    name: str
    outcome: str
    detail: str
    to_decide: str = ""


@dataclass(frozen=True)
class GateInputs:
    """Figures by which a challenger is judged. Accuracies, errors and differences are fractions of 1.

    Attributes:
        accuracy: Accuracy of the challenger on its test images.
        ece: Expected calibration error on the same images.
        images: Number of these images.
        commonest: Share of the most frequent class of these images.
        arms: Comparison of its configuration with the control, as `register` has recorded it.
        margin: Loss against the control that is accepted, as in its evaluation.
        champion: Version of the champion; None if there is none.
        pair: Challenger against champion on the same images; None without a champion, or without common images.
        latency_ms: Milliseconds for one image alone; None if it was not measured.
        metric: Current `evaluate.metric`.
        value: Value of the challenger by this metric.
        blind: Value of predicting the classes' shares for every image; for accuracy, `commonest` is used instead.
        champion_margin: Loss by the metric against the champion that is accepted if promote.margin is null.
        tested_on: Description of the test images.
        not_compared: Reason why champion and challenger have no common images; "" if they have.
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
    """Returns the result of every rule of the gate, in the order in which they are printed.

    Args:
        inputs: Figures of the challenger.
        params: Section `promote` of params.yaml.
    """
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
    """Returns the worst outcome of the rules; `PASSED` if there are no rules.

    From the worst to the best they are `FAILED`, `UNDECIDED`, `ACCEPTED` (undecided, which params.yaml accepts) and
    `PASSED`. A rule that was not applied has no part in it.

    Args:
        rules: Results of the rules.
    """
    found = {rule.outcome for rule in rules}
    return next((outcome for outcome in (FAILED, UNDECIDED, ACCEPTED) if outcome in found), PASSED)


def _metric(inputs: GateInputs, params: PromoteParams) -> Rule:
    words, asked = inputs.metric, params.min_metric
    if asked is None:
        passed = words.sign * (inputs.value - inputs.blind) > 0
        bound = (
            f"{words.better} than {words.format_value(inputs.blind)}, the value if every image is answered with the "
            "classes' shares"
        )
    else:
        passed = words.sign * (inputs.value - asked) >= 0
        bound = f"at {'most' if words.lower_is_better else 'least'} {words.format_value(asked)} (promote.min_metric)"
    said = f"{words.format_value(inputs.value)} on {inputs.images:,} {inputs.tested_on}; needed: {bound}"
    return Rule(words.label, PASSED if passed else FAILED, said)


def _accuracy(inputs: GateInputs, params: PromoteParams) -> Rule:
    least = params.min_metric if params.min_accuracy is None else params.min_accuracy
    if least is None:
        passed = inputs.accuracy > inputs.commonest
        bound = f"above {format_percent(inputs.commonest)}, the share of the most frequent class"
    else:
        passed, bound = inputs.accuracy >= least, f"at least {format_percent(least)}"
    said = f"{format_percent(inputs.accuracy)} on {inputs.images:,} {inputs.tested_on}; needed: {bound}"
    return Rule("accuracy", PASSED if passed else FAILED, said)


def _champion(inputs: GateInputs, params: PromoteParams) -> Rule:
    if inputs.not_compared:
        enough = "a champion whose procedure was tested in folds too, or evaluate.holdout, which keeps images apart"
        return Rule("champion", UNDECIDED, inputs.not_compared, enough)
    if inputs.pair is None:
        return Rule("champion", NOT_APPLIED, "there is none yet to compare with")
    pair, words = inputs.pair, inputs.metric
    margin = inputs.champion_margin if params.margin is None else params.margin
    lost = words.format_difference(margin).lstrip("+")
    needed = f"needed: not worse by more than {lost} (promote.margin)"
    of = "" if words.key == ACCURACY_WORDS.key else f" in {words.label}"
    said = f"{words.format_difference(pair.difference)}{of} against version {inputs.champion} on the same"
    if pair.low is None or pair.high is None:
        said += f" {pair.images:,} images, without an interval: {pair.note}; {needed}"
        return Rule("champion", UNDECIDED, said, "another evaluate.metric, or other test images")
    alone = (
        f"; only the challenger is right on {pair.only_first} of them, only the champion on {pair.only_second}"
        if isinstance(pair, PairedDifference)
        else ""
    )
    said += f" {pair.images:,} images ({_interval(words, pair.low, pair.high, pair.confidence)}{alone}); {needed}"
    worst, best = _turned(words, pair.low, pair.high)
    if worst > -margin:
        return Rule("champion", PASSED, said)
    if best < -margin:
        return Rule("champion", FAILED, said)
    enough = f"about {pair.images_needed(margin):,} test images if both are equally good"
    wider = words.margin_above(-worst)
    # Parameters refuse a margin of a share from this limit on.
    if not words.is_share or wider < SHARE_MARGIN_LIMIT:
        enough += (
            f", or `promote.margin: {wider:g}`, if a {words.harm} of {words.format_difference(-worst).lstrip('+')} is "
            "acceptable"
        )
    enough += "; further seeds would not help, since two fixed models are compared"
    return Rule("champion", UNDECIDED, said, enough)


def _control(inputs: GateInputs, params: PromoteParams) -> Rule:
    if params.control == "any":
        return Rule("control", NOT_APPLIED, "not asked for (promote.control: any)")
    arms, margin, better = inputs.arms, inputs.margin, params.control == "better"
    words = words_of(arms.metric)
    # That the configuration is not worse is the evaluation's first endpoint. It is judged at the endpoint's level.
    found = arms if better or arms.endpoint is None else arms.endpoint
    difference, low, high = found.difference, found.low, found.high
    confidence = arms.confidence if found is arms or arms.endpoint is None else arms.endpoint.level
    lost = words.format_difference(margin).lstrip("+")
    wanted = "better" if better else f"not worse by more than {lost} (evaluate.margin)"
    of = "" if words.key == ACCURACY_WORDS.key else f" in {words.label}"
    said = f"{words.format_difference(difference)}{of} against {arms.control}"
    if low is None or high is None:
        said += f", without an interval: {arms.note}; needed: {wanted}"
        enough = "at least 2 seeds in each arm (retrain.seeds), and networks that differ"
        return Rule("control", UNDECIDED, said, enough)
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
    # Whether a loss is shown is judged at the confidence of the comparison.
    if arms.low is not None and arms.high is not None and _turned(words, arms.low, arms.high)[1] < 0:
        said += f". A {words.harm} is shown, which promote.first_undecided does not accept"
        return Rule("control", UNDECIDED, said, enough)
    said += (
        f". A {words.harm} of up to {words.format_difference(-worst).lstrip('+')} is not ruled out, and is accepted "
        "since there is no champion (promote.first_undecided: accept)"
    )
    return Rule("control", ACCEPTED, said, enough)


def _turned(words: MetricWords, low: float, high: float) -> tuple[float, float]:
    """Returns the ends of an interval as gains, the worse one first.

    Args:
        words: Metric in words, which says whether lower is better.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """
    return (-high, -low) if words.lower_is_better else (low, high)


def _enough(arms: ArmsTag, distance: float, confidence: float, words: MetricWords, *, better: bool) -> str:
    """Describes how much data would decide the comparison of the arms.

    Args:
        arms: Comparison of the arms.
        distance: Assumed distance between their true difference and the bound.
        confidence: Confidence of the interval.
        words: Metric in words.
        better: Whether the configuration must be better than the control, instead of not worse.
    """
    size = words.format_difference(distance).lstrip("+")
    truth = f"(if it is better by {size})" if better else "(if both are equally good)"
    if arms.variance_parts:
        return f"{truth} {describe_enough(arms.variance_parts, distance, confidence)}"
    # Without the components of variance, the interval is assumed to shrink with more seeds and images together.
    factor = max(1.0, ((arms.detectable_difference or 0.0) / distance) ** 2)
    seeds, images = math.ceil(factor * min(arms.seeds)), math.ceil(factor * arms.images)
    return f"{truth} about {seeds:,} seeds an arm (retrain.seeds) and {images:,} test images, both together"


def _calibration(inputs: GateInputs, params: PromoteParams) -> Rule:
    said = f"expected calibration error {format_percent(inputs.ece)}"
    if params.max_ece is None:
        return Rule("calibration", NOT_APPLIED, f"{said}; no bound (promote.max_ece)")
    said += f"; needed: at most {format_percent(params.max_ece)}"
    return Rule("calibration", PASSED if inputs.ece <= params.max_ece else FAILED, said)


def _latency(inputs: GateInputs, params: PromoteParams) -> Rule:
    taken, most = inputs.latency_ms, params.max_latency_ms
    if taken is None or most is None:
        return Rule("latency", NOT_APPLIED, "not measured; no bound (promote.max_latency_ms)")
    said = f"{taken:.1f} ms for one image alone on this machine; needed: at most {most:g} ms"
    return Rule("latency", PASSED if taken <= most else FAILED, said)


def _interval(words: MetricWords, low: float, high: float, confidence: float) -> str:
    """Formats an interval with its confidence.

    Args:
        words: Metric in words.
        low: Lower end.
        high: Upper end.
        confidence: Confidence, as a fraction of 1.
    """
    return f"{format_level(confidence)} {words.format_interval(low, high)}"

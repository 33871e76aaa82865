"""The report's part on statistics: the endpoints declared beforehand, further analyses, and the change by class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.stage_results import BEST
from pipeline.console.format import format_level
from pipeline.figures.curves import difference_figure
from pipeline.figures.fonts import display_labels
from pipeline.figures.report import Row, Words
from pipeline.score.comparison import PAIRED, Comparison, clip_to_possible, p_value
from pipeline.score.endpoints import ATTENTION, LOG_LOSS, Endpoint, endpoint_names
from pipeline.score.family import Member, compare_classes, mcnemar, two_way_bootstrap
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords

Table = NDArray[np.bool_]
"""Whether each seed's network got each image right, (S, N)."""

_BESIDE_METRIC = {ATTENTION: "attention better (AUROC of the fixed head)", LOG_LOSS: "log loss lower"}
"""Endpoints that are not of the metric, in words, by their names in evaluation.json."""

CHANGES_SHOWN = 20
"""Classes that the figure of changes shows at most."""


def describe_analysis(
    comparison: Comparison,
    endpoints: Sequence[Endpoint],
    correct: Mapping[str, Table],
    control: str,
    *,
    margin: float,
    seed: int,
    looked: str,
    look: int = 1,
    words: MetricWords = ACCURACY_WORDS,
    tables: Mapping[str, NDArray[Any]] | None = None,
) -> Words:
    """Returns the endpoints, how they were tested, and further analyses, as (name, sentence) pairs.

    Args:
        comparison: Comparison of the arms by the metric, with an interval that is possible.
        endpoints: Endpoints of evaluation.json, with intervals that are possible.
        correct: Right answers (S, N) by arm.
        control: Name of the control.
        margin: Margin of the metric.
        seed: Seed of the bootstrap.
        looked: The results that were seen before the test set was, in words.
        look: Number of this look at the test images.
        words: Metric by which the arms are compared, in words.
        tables: Pseudo-values (S, N) of the metric by arm; None for accuracy, and if they are not available.
    """
    paired, metric = comparison.layout == PAIRED, words
    of_metric = endpoint_names(metric)
    level = format_level(comparison.confidence)
    if tables is None and metric.key == ACCURACY_WORDS.key:
        tables = correct
    said = [
        ("endpoints, named beforehand", _describe_order(endpoints, comparison.confidence, margin, look, metric)),
        *(
            (_BESIDE_METRIC[endpoint.name], _describe_endpoint(endpoint))
            for endpoint in endpoints
            if endpoint.name not in of_metric
        ),
        (
            "intervals",
            "of the difference of the means, best minus control, over seeds and images both, "
            + (
                "seed by seed and image by image (a two-way layout of their differences)"
                if paired
                else "of arms that do not share their seeds and are taken as independent"
            )
            + (f", within each of {comparison.folds} folds, and summed." if comparison.folds > 1 else "."),
        ),
    ]
    p = p_value(comparison)
    if p is None or comparison.low is None or comparison.high is None:
        said.append(
            (
                metric.label,
                f"{metric.format_difference(comparison.difference, 2)}, without an interval: {comparison.note}.",
            )
        )
    else:
        found = (
            f"{metric.format_difference(comparison.difference, 2)}, {level} "
            f"{metric.format_interval(comparison.low, comparison.high, 2)}, {_p(p)}"
        )
        outcomes = [_describe_outcome(each, comparison, metric) for each in endpoints if each.name in of_metric]
        said.append((metric.label, ". ".join([found, *outcomes]) + "."))
        if comparison.detectable_difference is None:
            detectable = metric.ask_for_seeds(comparison.seeds)
        else:
            least = metric.format_difference(comparison.detectable_difference, 2).lstrip("+")
            detectable = f"at {level}, a true difference of {least} would be found four times out of five."
        said.append(("detectable difference", detectable))
    if comparison.folds == 1:
        arms = None if tables is None else (tables[BEST], tables[control])
        said += _describe_beside(comparison, arms, correct[BEST], correct[control], seed, metric)
    said.append(
        (
            "families",
            "the changes by class, below, are a group of comparisons, and the scores of attention another. Within a "
            "group, p is corrected by Holm and intervals by Bonferroni, so that all of them hold together. They only "
            "describe, and are no part of the verdict.",
        )
    )
    said.append(("results seen before the test", f"{looked}."))
    return said


def _describe_beside(
    comparison: Comparison,
    tables: tuple[Table, Table] | None,
    best: Table,
    control: Table,
    seed: int,
    metric: MetricWords,
) -> list[tuple[str, str]]:
    """Returns the plain bootstrap, and a comparison of two single networks, as (name, sentence) pairs.

    Both need networks that were all tested on all images, so there is neither with folds.

    Args:
        comparison: Comparison of the arms by the metric.
        tables: Pseudo-values (S, N) of the metric, of the best configuration and of the control; None if not available.
        best: Right answers of the best configuration, (S, N).
        control: Right answers of the control, (S2, N).
        seed: Seed of the bootstrap.
        metric: The metric in words.
    """
    said = []
    if tables is not None and (
        boot := two_way_bootstrap(
            *tables,
            confidence=comparison.confidence,
            seed=seed,
            shared_seeds=comparison.layout == PAIRED,
        )
    ):
        # Resampling underestimates the variance over few seeds. On a small test set, images contribute most
        # of the variance, and the bootstrap's interval may still be the wider one.
        narrower = boot[1] - boot[0] < (comparison.high or 0.0) - (comparison.low or 0.0)
        but = "with so few seeds it is too narrow, and " * narrower
        told = f"{metric.format_interval(*boot, 2)}; {but}it decides nothing."
        said.append(("plain bootstrap, seeds and images", told))
    fixed = mcnemar(best[0], control[0])
    said.append(
        (
            "two fixed networks",
            f"of the first seed of either arm, {_images_right(fixed.only_first)} with the best configuration alone, "
            f"{fixed.only_second} with the control alone (McNemar, exact: {_p(fixed.p)}). This describes those two "
            "networks; another seed gives two others.",
        )
    )
    return said


def _describe_order(
    endpoints: Sequence[Endpoint], confidence: float, margin: float, look: int, metric: MetricWords
) -> str:
    """Returns the endpoints in the order in which they are tested, with the error rate that holds, in words.

    Args:
        endpoints: Endpoints of evaluation.json.
        confidence: Confidence of all endpoints together.
        margin: Margin of the metric.
        look: Number of this look at the test images; from the second on, the error rate does not hold.
        metric: The metric in words.
    """
    level = format_level(1 - confidence)
    held = f"The probability that any of these statements is wrong is at most {level}."
    if look > 1:
        held = f"At a first look, the probability of any wrong statement is at most {level}; not so at look {look}."
    not_worse = (
        f"the {metric.label} is not {metric.worse} than the control's by {metric.format_margin(margin)} or more "
        "(evaluate.margin)"
    )
    harm = f"{held} A {metric.harm} of {metric.label} is reported in any case."
    better = f"that the {metric.label} is {metric.better}"
    if any(endpoint.name == ATTENTION for endpoint in endpoints):
        return (
            f"that {not_worse}, and that the attention of the fixed head ranks the object's pixels higher than the "
            f"control's (AUROC), by Holm's rule; where both are shown, {better}. {harm}"
        )
    loss = ", then that the log loss is lower" if any(endpoint.name == LOG_LOSS for endpoint in endpoints) else ""
    return f"that {not_worse}{loss}, then {better}, in this order until one is not shown. {harm}"


def _describe_endpoint(endpoint: Endpoint) -> str:
    """Returns the outcome of an endpoint on attention or log loss, with its interval."""
    outcome = _outcome(endpoint)
    if endpoint.low is None or endpoint.high is None or endpoint.p is None:
        return f"{outcome}; there is no interval."
    found = f"{endpoint.difference:+.3f}, {format_level(endpoint.level)} interval"
    return f"{outcome}: {found} {endpoint.low:+.3f} to {endpoint.high:+.3f}, {_p(endpoint.p)}."


def _describe_outcome(endpoint: Endpoint, comparison: Comparison, metric: MetricWords) -> str:
    """Returns the outcome of an endpoint on the metric, with its interval if that is another one than the comparison's.

    Args:
        endpoint: The endpoint.
        comparison: Comparison of the arms by the metric.
        metric: The metric in words.
    """
    not_worse, better, worse = endpoint_names(metric)
    what = {not_worse: f"Not {metric.worse} by the margin", better: metric.better, worse: metric.worse}[endpoint.name]
    said = f"{what[0].upper()}{what[1:]}: {_outcome(endpoint)}"
    if endpoint.low is None or endpoint.high is None or endpoint.p is None:
        return said
    if endpoint.level != comparison.confidence:
        said += f" at {format_level(endpoint.level)}, {metric.format_interval(endpoint.low, endpoint.high, 2)}"
    return f"{said} ({_p(endpoint.p)})"


def _outcome(endpoint: Endpoint) -> str:
    return "shown" if endpoint.shown else "not shown" if endpoint.tested else "not tested"


def describe_levels(endpoints: Sequence[Endpoint], comparison: Comparison, metric: MetricWords) -> str:
    """Returns the caption of the figure of the difference: its level, and why the verdict may have another one.

    Args:
        endpoints: Endpoints of evaluation.json.
        comparison: Comparison of the arms by the metric.
        metric: The metric in words.
    """
    if comparison.low is None:
        return "Difference to the control; there is no interval."
    level = format_level(comparison.confidence)
    caption = f"Difference to the control with its {level} interval; one that crosses 0 shows no direction."
    first = endpoint_names(metric)[0]
    used = next((each.level for each in endpoints if each.name == first and each.low is not None), None)
    if used is None or used == comparison.confidence:
        return caption
    return (
        f"{caption} The verdict has the {format_level(used)} interval: two statements are tested together, and only if "
        "one is shown at half of the error rate may the other one have all of it (Holm)."
    )


def _images_right(count: int) -> str:
    return f"{count} test image{' is' if count == 1 else 's are'} right"


def class_rows(
    evaluation: Evaluation,
    classes: Sequence[str],
    labels: NDArray[np.int64],
    correct: Mapping[str, Table],
    control: str,
    *,
    confidence: float,
    shared_seeds: bool = True,
    folds: NDArray[np.int64] | None = None,
) -> list[Row]:
    """Returns a row for every class: images, both accuracies, the change with its interval, and Holm's p.

    Args:
        evaluation: Result of the evaluation.
        classes: Names of the classes.
        labels: Class of each test image, (N,).
        correct: Right answers (S, N) by arm.
        control: Name of the control.
        confidence: Confidence with which all intervals hold together.
        shared_seeds: Whether row s of both arms is the same seed.
        folds: Number of each image's fold, (N,); None without folds.
    """
    members = compare_classes(
        correct[BEST],
        correct[control],
        labels,
        len(classes),
        confidence=confidence,
        shared_seeds=shared_seeds,
        folds=folds,
    )
    rows = zip(
        classes,
        np.bincount(labels, minlength=len(classes)),
        evaluation.best.per_class_accuracy,
        evaluation.arms[control].per_class_accuracy,
        members,
        strict=True,
    )
    return [
        {"class": name, "images": int(count), "best": best, "control": other, **_change(member)}
        for name, count, best, other, member in rows
    ]


def class_figure(rows: Sequence[Row], confidence: float) -> tuple[str, Figure] | None:
    """Draws the change of each class's accuracy from the control to the best arm, with its interval.

    If there are more than `CHANGES_SHOWN` classes, only those with the largest changes are drawn. Classes that have too
    few test images to be compared are left out.

    Args:
        rows: Rows of `class_rows`.
        confidence: Confidence with which all intervals hold together.

    Returns:
        (caption, figure); None if no class has enough test images.
    """
    changed = [row for row in rows if row["change"] is not None]
    if not changed:
        return None
    most = sorted(changed, key=lambda row: -abs(row["change"]))[:CHANGES_SHOWN]
    drawn = [row for row in changed if row in most]
    labels = display_labels([row["class"] for row in rows])
    label = dict(zip((row["class"] for row in rows), labels.texts, strict=True))
    figure = difference_figure([(label[row["class"]], row["change"], row["low"], row["high"]) for row in drawn])
    which = f"the {len(drawn)} classes that changed most" if len(drawn) < len(changed) else "every class"
    by = " Classes by their number in the table." if labels.numbered else ""
    return (
        f"Change of accuracy by class, {which}; the intervals hold together at {format_level(confidence)}.{by}",
        figure,
    )


def _change(member: Member | None) -> dict[str, float | None]:
    if member is None:
        return {"change": None, "low": None, "high": None, "p": None}
    found = clip_to_possible(member.comparison)
    # With few images, a t interval can still exceed the range -1..1 of a difference of two accuracies.
    low, high = (None if end is None else min(1.0, max(-1.0, end)) for end in (found.low, found.high))
    return {"change": found.difference, "low": low, "high": high, "p": member.p_holm}


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"

"""The report's part on statistics: what was declared beforehand, what stands beside it, and the change by class."""

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
from pipeline.score.comparison import PAIRED, Comparison, p_value
from pipeline.score.endpoints import ATTENTION, LOG_LOSS, Endpoint, endpoint_names
from pipeline.score.family import Member, compare_classes, mcnemar, two_way_bootstrap
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords

Table = NDArray[np.bool_]

CHANGES_SHOWN = 20


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
    """What was to be found out and how, and what stands beside it, as (name, sentence) pairs.

    endpoints: of evaluation.json. look: which look at these test images it is. words: of the metric that the comparison
    is by; tables: its pseudo-values by arm, None of accuracy and where they are not known.
    """
    paired, metric = comparison.layout == PAIRED, words
    of_endpoints = _endpoint_words(metric)
    if tables is None and metric.key == ACCURACY_WORDS.key:
        tables = correct
    said = [
        ("endpoints, named beforehand", _describe_order(endpoints, comparison.confidence, margin, look, metric)),
        *((of_endpoints[endpoint.name], _describe_endpoint(endpoint, metric)) for endpoint in endpoints),
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
            f"{metric.format_difference(comparison.difference, 2)}, "
            f"{metric.format_interval(comparison.low, comparison.high, 2)}, {_p(p)}"
        )
        least = metric.format_difference(comparison.detectable_difference or 0.0, 2).lstrip("+")
        said.append((metric.label, f"{found}."))
        said.append(("could be found", f"a true difference of {least}, four times out of five."))
    if comparison.folds == 1:
        arms = None if tables is None else (tables[BEST], tables[control])
        said += _describe_beside(comparison, arms, correct[BEST], correct[control], seed, metric)
    said.append(
        (
            "families",
            "the changes by class, below, are one, the scores of attention another: p by Holm, intervals by "
            "Bonferroni. They describe, and are no part of the verdict.",
        )
    )
    said.append(("looked at before", f"{looked}."))
    return said


def _describe_beside(
    comparison: Comparison,
    tables: tuple[Table, Table] | None,
    best: Table,
    control: Table,
    seed: int,
    metric: MetricWords,
) -> list[tuple[str, str]]:
    """The bootstrap, and two networks on the same images: both of networks that were tested on all of them.

    tables: of the metric, of both arms. best, control: which images were right.
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
        # Resampled seeds vary less than seeds do; where images decide, as on a small test set, it may still be wider.
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


def _endpoint_words(metric: MetricWords) -> dict[str, str]:
    """The endpoints in words, by the names of evaluation.json."""
    not_worse, better, worse = endpoint_names(metric)
    return {
        not_worse: f"{metric.label} not worse",
        ATTENTION: "attention better (AUROC of the fixed head)",
        LOG_LOSS: "log loss lower",
        better: f"{metric.label} {metric.better}",
        worse: f"{metric.label} {metric.worse}",
    }


def _describe_order(
    endpoints: Sequence[Endpoint], confidence: float, margin: float, look: int, metric: MetricWords
) -> str:
    level = format_level(1 - confidence)
    held = f"That any of it is said wrongly has a chance of at most {level}."
    if look > 1:
        held = f"At a first look, a chance of at most {level} that any of it is said wrongly; not at look {look}."
    not_worse = (
        f"the {metric.label} is not {metric.worse} than the control's by {metric.format_margin(margin)} or more "
        "(evaluate.margin)"
    )
    harm = f"{held} A {metric.harm} of {metric.label} is said in any case."
    better = f"that the {metric.label} is {metric.better}"
    if any(endpoint.name == ATTENTION for endpoint in endpoints):
        return (
            f"that {not_worse}, and that the attention of the fixed head ranks the object's pixels higher than the "
            f"control's (AUROC), by Holm's rule; where both are shown, {better}. {harm}"
        )
    loss = ", then that the log loss is lower" if any(endpoint.name == LOG_LOSS for endpoint in endpoints) else ""
    return f"that {not_worse}{loss}, then {better}, in this order until one is not shown. {harm}"


def _describe_endpoint(endpoint: Endpoint, metric: MetricWords) -> str:
    outcome = "shown" if endpoint.shown else "not shown" if endpoint.tested else "not tested"
    if endpoint.low is None or endpoint.high is None or endpoint.p is None:
        return f"{outcome}; there is no interval."
    level = format_level(endpoint.level)
    if endpoint.name in (ATTENTION, LOG_LOSS):
        found = f"{endpoint.difference:+.3f}, {level} interval {endpoint.low:+.3f} to {endpoint.high:+.3f}"
    else:
        found = (
            f"{metric.format_difference(endpoint.difference, 2)}, {level} "
            f"{metric.format_interval(endpoint.low, endpoint.high, 2)}"
        )
    return f"{outcome}: {found}; {_p(endpoint.p)} in its direction."


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
    """A row for every class: images, both accuracies, the change with its interval, and Holm's p. folds: the number of
    each image's fold; None without folds.
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


def class_figure(rows: Sequence[Row]) -> tuple[str, Figure] | None:
    """(caption, figure) of the change of every class, of very many those that changed most; None without any."""
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
    return f"Change of accuracy by class, {which}; the intervals hold together.{by}", figure


def _change(member: Member | None) -> dict[str, float | None]:
    if member is None:
        return {"change": None, "low": None, "high": None, "p": None}
    found = member.comparison
    # A class of few images has t intervals beyond what a difference of two shares can be.
    low, high = (None if end is None else min(1.0, max(-1.0, end)) for end in (found.low, found.high))
    return {"change": found.difference, "low": low, "high": high, "p": member.p_holm}


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"

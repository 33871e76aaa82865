"""The report's part on statistics: what was declared beforehand, what stands beside it, and the change by class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.artifacts.stage_results import BEST
from pipeline.console.format import format_interval, format_points
from pipeline.figures.curves import difference_figure
from pipeline.figures.fonts import display_labels
from pipeline.figures.report import Words
from pipeline.score.comparison import Comparison
from pipeline.score.family import Member, compare_classes, mcnemar, p_value, two_way_bootstrap

Table = NDArray[np.bool_]

CHANGES_SHOWN = 20


def describe_analysis(
    comparison: Comparison, correct: Mapping[str, Table], control: str, *, margin: float, seed: int, looked: str
) -> Words:
    """What was to be found out and how, and what stands beside it, as (name, sentence) pairs."""
    level = f"{100 * comparison.confidence:.4g} %"
    words = [
        (
            "primary, named beforehand",
            "difference of the arms' mean test accuracies over seeds, best minus control, with an interval over seeds "
            f"and images both (a two-way layout); {level}. It is one comparison and is not corrected.",
        ),
        (
            "no difference",
            f"is said only where the whole interval lies within {100 * margin:.1f} points of 0 (evaluate.margin); "
            "otherwise there are not enough data.",
        ),
    ]
    p = p_value(comparison)
    if p is None or comparison.low is None or comparison.high is None:
        words.append(("found", f"{format_points(comparison.difference, 2)}, without an interval: {comparison.note}."))
    else:
        found = (
            f"{format_points(comparison.difference, 2)}, {format_interval(comparison.low, comparison.high, 2)}, {_p(p)}"
        )
        least = 100 * (comparison.detectable_difference or 0.0)
        words.append(("found", f"{found}."))
        words.append(("could be found", f"a true difference of {least:.2f} points, four times out of five."))
    if comparison.paired_t_p is not None:
        low, high = comparison.paired_t_low or 0.0, comparison.paired_t_high or 0.0
        paired = f"{format_interval(low, high, 2)}, {_p(comparison.paired_t_p)}; of these test images alone."
        words.append(("secondary, paired t over seeds", paired))
    if boot := two_way_bootstrap(correct[BEST], correct[control], confidence=comparison.confidence, seed=seed):
        # Resampled seeds vary less than seeds do; where images decide, as on a small test set, it may still be wider.
        narrower = boot[1] - boot[0] < (comparison.high or 0.0) - (comparison.low or 0.0)
        said = (
            f"{format_interval(*boot, 2)}; {'with so few seeds it is too narrow, and ' * narrower}it decides nothing."
        )
        words.append(("plain bootstrap, seeds and images", said))
    fixed = mcnemar(correct[BEST][0], correct[control][0])
    words.append(
        (
            "two fixed networks",
            f"of the first seed of either arm, {_images_right(fixed.only_first)} with the best configuration alone, "
            f"{fixed.only_second} with the control alone (McNemar, exact: {_p(fixed.p)}). This describes those two "
            "networks; another seed gives two others.",
        )
    )
    words.append(("family", "the changes by class, below, are one family: p by Holm, intervals by Bonferroni."))
    words.append(("looked at before", f"{looked}."))
    return words


def _images_right(count: int) -> str:
    return f"{count} test image{' is' if count == 1 else 's are'} right"


def class_rows(
    evaluation: Mapping[str, Any],
    classes: Sequence[str],
    labels: NDArray[np.int64],
    correct: Mapping[str, Table],
    control: str,
    *,
    confidence: float,
) -> list[dict[str, Any]]:
    """A row for every class: images, both accuracies, the change with its interval, and Holm's p."""
    arms = evaluation["arms"]
    members = compare_classes(correct[BEST], correct[control], labels, len(classes), confidence=confidence)
    rows = zip(
        classes,
        np.bincount(labels, minlength=len(classes)),
        arms[BEST]["per_class_accuracy"],
        arms[control]["per_class_accuracy"],
        members,
        strict=True,
    )
    return [
        {"class": name, "images": int(count), "best": best, "control": other, **_change(member)}
        for name, count, best, other, member in rows
    ]


def class_figure(rows: Sequence[Mapping[str, Any]]) -> tuple[str, Figure] | None:
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

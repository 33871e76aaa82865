"""Figures of numbers: learning curves, objective by trial, confusion, calibration, differences with intervals.

Series differ in mark or line style as well as in colour. Accuracies are passed as fractions and drawn in per
cent. NaN, and None where it is allowed, means "not measured" and leaves a gap.

Shape letters: S seeds, E epochs, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from pipeline.console.format import STATE_WORDS, format_level
from pipeline.figures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SERIES,
    SKY,
    VERMILION,
    WIDTH,
    new_figure,
    open_axes,
)
from pipeline.figures.fonts import display_labels, fit_fonts
from pipeline.figures.objective_axis import ACCURACY_AXIS, ObjectiveAxis
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords

_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
_NUMBERED_CLASSES = 15
_NAMED_CLASSES = 40


@dataclass(frozen=True)
class _Mark:
    marker: str
    colour: str
    size: float
    filled: bool = True


_STATES: Mapping[str, _Mark] = {
    "complete": _Mark("o", BLUE, 30),
    "pruned": _Mark("v", SKY, 30, filled=False),
    "failed": _Mark("x", VERMILION, 40),
    "infeasible": _Mark("s", GREY, 26, filled=False),
    "control": _Mark("D", ORANGE, 50),
}


def learning_curves(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    ylabel: str = "accuracy (%)",
    scale: float = 100.0,
    title: str = "",
) -> Figure:
    """Draws each series as the mean over its seeds, with a band from the lowest to the highest seed.

    Args:
        series: name -> (epochs (E,), values (S, E), or (E,) for one seed). NaN after a seed's last epoch is
            left out.
        ylabel: label of the vertical axis.
        scale: factor by which values are multiplied.
        title: heading of the figure; empty for none.

    Raises:
        ValueError: the shapes of epochs and values do not fit.
    """
    figure, axes = _canvas(3.6, title)
    for (name, (epochs, values)), colour, dash in zip(series.items(), cycle(SERIES), cycle(_DASHES), strict=False):
        steps, table = np.asarray(epochs), scale * np.atleast_2d(np.asarray(values, dtype=np.float64))
        if table.ndim != 2 or steps.shape != table.shape[1:]:
            raise ValueError(f"series {name!r}: epochs {steps.shape} do not fit values {table.shape}")
        drawn = ~np.isnan(table).all(axis=0)
        steps, table = steps[drawn], table[:, drawn]
        label = name if len(table) == 1 else f"{name} ({len(table)} seeds)"
        axes.plot(steps, np.nanmean(table, axis=0), color=colour, linestyle=dash, linewidth=1.8, label=label)
        if len(table) > 1:
            low, high = np.nanmin(table, axis=0), np.nanmax(table, axis=0)
            axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_below(axes)
    return figure


def objective_by_trial(
    trials: Sequence[Mapping[str, Any]], *, objective: ObjectiveAxis = ACCURACY_AXIS, title: str = ""
) -> Figure:
    """Draws the first objective of each trial, and the best completed one so far as a line.

    Controls have their own mark and do not affect the line. Trials without a value are drawn at the lower
    edge.

    Args:
        trials: mappings with "state" (complete, pruned, failed, or infeasible: not trained), "value" (None or
            NaN without one) and, for a control, "control" true; in the order of starting.
        objective: axis of the objective.
        title: heading of the figure; empty for none.

    Raises:
        ValueError: a state is unknown.
    """
    figure, axes = _canvas(3.6, title)
    kinds = ["control" if trial.get("control") else str(trial["state"]) for trial in trials]
    if unknown := set(kinds) - set(_STATES):
        raise ValueError(f"unknown trial states: {', '.join(sorted(unknown))}")
    values = np.array([_number(trial["value"]) * objective.scale for trial in trials])
    places = np.arange(1, len(trials) + 1)
    finished = np.array([kind == "complete" for kind in kinds], dtype=bool) & ~np.isnan(values)
    better, worst = (np.minimum, np.inf) if objective.minimize else (np.maximum, -np.inf)
    best = better.accumulate(np.where(finished, values, worst)) if len(trials) else values
    started = np.isfinite(best)
    axes.step(places[started], best[started], where="post", color=GREY, linewidth=1.4, label="best so far", zorder=1)
    for kind, mark in _STATES.items():
        chosen = np.array([other == kind for other in kinds], dtype=bool)
        at = chosen & ~np.isnan(values)
        style: dict[str, Any] = {"marker": mark.marker, "s": mark.size, "linewidths": 1.4, "zorder": 3}
        style |= {"color": mark.colour} if mark.filled else {"facecolors": "none", "edgecolors": mark.colour}
        if at.any():
            axes.scatter(places[at], values[at], label=f"{STATE_WORDS.get(kind, kind)} ({chosen.sum()})", **style)
        missing = places[chosen & np.isnan(values)]
        if len(missing):
            label = None if at.any() else f"{STATE_WORDS.get(kind, kind)} ({chosen.sum()})"
            foot = axes.get_xaxis_transform()
            axes.scatter(missing, np.full(len(missing), 0.03), transform=foot, clip_on=False, label=label, **style)
    axes.set(xlabel="trial, in the order of starting", ylabel=objective.label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_below(axes)
    return figure


def confusion_figure(confusion: ArrayLike, classes: Sequence[str], *, title: str = "") -> Figure:
    """Draws a confusion matrix, coloured by the share of each row, with counts if there are few classes.

    All classes are numbered if the names of some cannot be drawn with the installed fonts; see
    `pipeline.figures.fonts`.

    Args:
        confusion: counts (C, C), a row for each true class.
        classes: names (C,).
        title: heading of the figure; empty for none.

    Raises:
        ValueError: matrix and names do not fit.
    """
    counts = np.asarray(confusion)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"a confusion matrix of {len(classes)} classes cannot have shape {counts.shape}")
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    side = 2.2 + min(4.6, 0.42 * len(classes))
    figure, axes = _canvas(side, title, width=side + 1.2)
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="share of the true class (%)", shrink=0.8)
    step = math.ceil(len(classes) / _NAMED_CLASSES)
    ticks = range(0, len(classes), step)
    labels = display_labels(classes)
    names = [labels.texts[tick] for tick in ticks]
    turned = len(classes) > 12 or max((len(name) for name in names), default=0) > 3
    axes.set_xticks(ticks, names, rotation=90 if turned else 0, fontfamily=labels.families, parse_math=False)
    axes.set_yticks(ticks, names, fontfamily=labels.families, parse_math=False)
    if len(classes) <= _NUMBERED_CLASSES:
        for row, column in zip(*np.nonzero(counts), strict=True):
            ink = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=ink, fontsize=8)
    by = " (number of the class)" if labels.numbered else ""
    axes.set(xlabel=f"predicted{by}", ylabel=f"true{by}")
    axes.grid(visible=False)
    return figure


def reliability_figure(bins: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]], *, title: str = "") -> Figure:
    """Draws accuracy against confidence. A perfectly calibrated network is on the diagonal.

    The area of a mark grows with its number of images, so that nobody reads much into a bin of three.

    Args:
        bins: name -> (mean confidence, accuracy, number of images), each by bin, NaN where a bin is empty.
        title: heading of the figure; empty for none.
    """
    figure, axes = _canvas(4.2, title, width=4.8)
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle="--", label="perfect")
    for (name, columns), colour, marker in zip(bins.items(), cycle(SERIES), cycle("osD^v"), strict=False):
        confidence, accuracy, count = (np.asarray(column, dtype=np.float64) for column in columns)
        held = count > 0
        area = 12 + 160 * count[held] / max(1.0, count.sum())
        axes.plot(100 * confidence[held], 100 * accuracy[held], color=colour, linewidth=1, alpha=0.6)
        axes.scatter(100 * confidence[held], 100 * accuracy[held], s=area, color=colour, marker=marker, label=name)
    axes.set(xlabel="confidence (%)", ylabel="accuracy (%)", xlim=(-2, 102), ylim=(-2, 102), aspect="equal")
    _legend(axes)
    return figure


def difference_figure(
    rows: Sequence[tuple[str, float, float | None, float | None]],
    *,
    margin: float | None = None,
    title: str = "",
    words: MetricWords = ACCURACY_WORDS,
    confidence: float | None = None,
) -> Figure:
    """Draws differences with their intervals, one a row.

    Args:
        rows: (name, difference, low, high) as fractions. A row without an interval (None) is drawn hollow.
        margin: size of the differences that are too small to matter, which are shaded; None for no shading.
        title: heading of the figure; empty for none.
        words: the metric in words.
        confidence: level of the intervals, which the legend then names; None for none.
    """
    scale = 100 if words.in_points else 1
    figure, axes = _canvas(1.3 + 0.42 * len(rows), title)
    if margin is not None:
        label = f"within {100 * margin:.1f} points" if words.in_points else f"within {words.format_margin(margin)}"
        axes.axvspan(-scale * margin, scale * margin, color=GREEN, alpha=0.12, linewidth=0, label=label)
    axes.axvline(0, color=BLACK, linewidth=1)
    first = next((place for place, (*_, low, high) in enumerate(rows) if low is not None and high is not None), None)
    for place, (_, difference, low, high) in enumerate(rows):
        if low is None or high is None:
            axes.plot(scale * difference, place, "o", color=BLUE, markerfacecolor="white", markersize=7)
            continue
        of_intervals = None if confidence is None or place != first else f"{format_level(confidence)} interval"
        axes.plot(
            [scale * low, scale * high], [place, place], color=BLUE, linewidth=2.2, solid_capstyle="butt",
            label=of_intervals,
        )  # fmt: skip
        axes.plot(scale * difference, place, "o", color=BLUE, markersize=7)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    fit_fonts(figure)
    unit = "points of test" if words.in_points else "test"
    axes.set(xlabel=f"difference to the control ({unit} {words.label})", ylim=(len(rows) - 0.4, -0.6))
    axes.grid(visible=False, axis="y")
    _legend(axes)
    return figure


def _canvas(height: float, title: str, *, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Returns an empty figure with axes.

    Args:
        height: inches.
        title: heading of the figure; empty for none.
        width: inches.
    """
    figure = new_figure(height, title, width=width)
    axes = figure.add_subplot()
    open_axes(axes, size=9)
    return figure, axes


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8.5, frameon=True, framealpha=0.85, edgecolor="none")


def _legend_below(axes: Axes) -> None:
    """Places the legend below the axes, where it covers nothing."""
    if axes.get_legend_handles_labels()[0] and isinstance(axes.figure, Figure):
        axes.figure.legend(loc="outside lower center", ncols=5, fontsize=8.5, frameon=False)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)

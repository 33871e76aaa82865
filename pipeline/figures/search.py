"""Figures of a search: good configurations, parameters that seem to matter, and number of trials by epoch.

A trial is a mapping with "state" (complete, pruned or failed), "value" (of the first objective, None without
one), "epochs" and "parameters" (numbers or words by short name). The caller leaves out controls and
confirmations. The value of a trial that was stopped early is the one of its last epoch. Because that is no
result, it never has colour.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from pipeline.console.format import STATE_WORDS
from pipeline.figures import BLUE, GREY, ORANGE, SKY, new_figure, open_axes
from pipeline.figures.objective_axis import ACCURACY_AXIS, ObjectiveAxis

Trial = Mapping[str, Any]

_ABREAST = 3
_MAP = "cividis"
"""Colour map whose lightness rises evenly, also for readers without red or green."""


def parallel_figure(
    trials: Sequence[Trial],
    *,
    logarithmic: Collection[str] = (),
    objective: ObjectiveAxis = ACCURACY_AXIS,
    least_span: float = 0.0,
    title: str = "",
) -> Figure | None:
    """Draws each trial as a line through its parameters to its value.

    Completed trials are coloured by their value, and the best is thickest. Trials that were stopped early are
    thin and grey, and end before the last axis.

    Args:
        trials: the trials.
        logarithmic: names of the parameters that are searched, and drawn, on a logarithmic scale.
        objective: axis of the first objective.
        least_span: least width of the scale of values and colours, in the objective's own unit, so that a
            difference that means little does not look large.
        title: heading of the figure; empty for none.

    Returns:
        The figure; None without a completed trial.
    """
    done = [trial for trial in trials if _is_result(trial)]
    names = _names(trials)
    if not done or not names:
        return None
    figure = new_figure(3.6, title)
    axes = figure.add_subplot()
    scales = {name: _Scale([trial["parameters"].get(name) for trial in trials], name in logarithmic) for name in names}
    colours = colormaps[_MAP]
    values = [objective.scale * float(trial["value"]) for trial in done]
    low, high = min(values), max(values)
    best = low if objective.minimize else high
    wider = max(0.0, (objective.scale * least_span - (high - low)) / 2)
    low, high = low - wider, high + wider
    span = Normalize(low - objective.scale / 100, high + objective.scale / 100) if low == high else Normalize(low, high)
    for trial in trials:
        places = [scales[name].place(trial["parameters"].get(name)) for name in names]
        if not _is_result(trial):
            axes.plot(range(len(names)), places, color=GREY, linewidth=0.7, alpha=0.5, linestyle=(0, (4, 2)), zorder=1)
            continue
        value = objective.scale * float(trial["value"])
        end = 0.5 if low == high else (value - low) / (high - low)
        style: dict[str, Any] = {
            "linewidth": 3.0 if value == best else 1.4,
            "zorder": 2 + end,
        }
        axes.plot(range(len(names) + 1), [*places, end], color=colours(span(value)), **style)
    for place, name in enumerate(names):
        axes.axvline(place, color="#444444", linewidth=0.8, zorder=4)
        for height, text in scales[name].ticks():
            axes.annotate(
                text, (place, height), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, zorder=5,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.95, "pad": 0.8},
            )  # fmt: skip
    axes.axvline(len(names), color="#444444", linewidth=0.8, zorder=4)
    axes.set_xticks(range(len(names) + 1), [*names, objective.words.replace(" ", "\n", 1)], fontsize=9)
    axes.set(yticks=[], ylim=(-0.06, 1.06), xlim=(-0.05, len(names) + 0.05))
    axes.spines[:].set_visible(False)
    figure.colorbar(ScalarMappable(span, _MAP), ax=axes, label=objective.label, shrink=0.9)
    return figure


def importance_figure(
    shares: Mapping[str, float], *, objective: ObjectiveAxis = ACCURACY_AXIS, title: str = ""
) -> Figure | None:
    """Draws each parameter's share of the variance as a bar, the largest on top.

    Args:
        shares: share in [0, 1] of each parameter, by its name.
        objective: axis of the first objective.
        title: heading of the figure; empty for none.

    Returns:
        The figure; None without shares.
    """
    if not shares:
        return None
    ranked = sorted(shares.items(), key=lambda item: item[1])
    figure = new_figure(0.9 + 0.36 * len(ranked), title)
    axes = figure.add_subplot()
    bars = axes.barh([name for name, _ in ranked], [100 * share for _, share in ranked], color=BLUE, height=0.6)
    axes.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=9)
    axes.set(xlabel=f"share of the variance of {objective.words} (%)", xlim=(0, 110))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def slice_figure(
    trials: Sequence[Trial],
    *,
    logarithmic: Collection[str] = (),
    objective: ObjectiveAxis = ACCURACY_AXIS,
    title: str = "",
) -> Figure | None:
    """Draws the first objective against each parameter.

    Filled marks are completed trials. Hollow marks are trials that were stopped early, at their last value.

    Args:
        trials: the trials.
        logarithmic: names of the parameters that are searched, and drawn, on a logarithmic scale.
        objective: axis of the first objective.
        title: heading of the figure; empty for none.

    Returns:
        The figure; None without a completed trial.
    """
    names = _names(trials)
    drawn = [trial for trial in trials if trial["value"] is not None and trial["state"] != "failed"]
    if not any(_is_result(trial) for trial in drawn) or not names:
        return None
    columns = min(_ABREAST, len(names))
    rows = math.ceil(len(names) / columns)
    figure = new_figure(2.7 * rows + 0.4, title)
    first: Axes | None = None
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1, sharey=first)
        first = first or axes
        scale = _Scale([trial["parameters"].get(name) for trial in trials], name in logarithmic)
        for complete in (False, True):
            chosen = [trial for trial in drawn if _is_result(trial) == complete and name in trial["parameters"]]
            at = [scale.position(trial["parameters"][name]) for trial in chosen]
            style: dict[str, Any] = {"color": BLUE} if complete else {"facecolors": "none", "edgecolors": SKY}
            label = STATE_WORDS["complete" if complete else "pruned"]
            heights = [objective.scale * float(trial["value"]) for trial in chosen]
            axes.scatter(at, heights, s=30, marker="o" if complete else "v", label=label, **style)
        if scale.words:
            axes.set_xticks(range(len(scale.words)), [str(word) for word in scale.words])
            axes.set_xlim(-0.5, len(scale.words) - 0.5)
        elif scale.logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(name, fontsize=9)
        open_axes(axes, size=8)
        if index % columns == 0:
            axes.set_ylabel(objective.label, fontsize=9)
    assert first is not None
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    return figure


def survival_figure(trials: Sequence[Trial], *, title: str = "") -> Figure | None:
    """Draws the number of trials that still ran after each epoch.

    The line falls at the rungs, which show how many trials were stopped there. Failed trials are not counted.

    Args:
        trials: the trials.
        title: heading of the figure; empty for none.

    Returns:
        The figure; None if no trial was stopped early.
    """
    ended = [(int(trial["epochs"]), str(trial["state"])) for trial in trials if trial["state"] != "failed"]
    stopped = [epochs for epochs, state in ended if state == "pruned"]
    if not stopped:
        return None
    figure = new_figure(2.8, title)
    axes = figure.add_subplot()
    last = max(epochs for epochs, _ in ended)
    epochs = list(range(1, last + 1))
    reached = [sum(end >= epoch for end, _ in ended) for epoch in epochs]
    axes.step([0, *epochs], [len(ended), *reached], where="pre", color=BLUE, linewidth=1.8)
    for rung in sorted(set(stopped)):
        axes.axvline(rung, color=ORANGE, linewidth=1, linestyle="--", zorder=0)
        said = f"{stopped.count(rung)} stopped early\nafter epoch {rung}"
        axes.annotate(said, (rung, len(ended)), xytext=(4, 0), textcoords="offset points", va="top", fontsize=8)
    axes.set(xlabel="epoch", ylabel="trials that trained it", ylim=(0, 1.15 * len(ended)), xlim=(0, last))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


class _Scale:
    """Scale of a parameter: words in alphabetical order, or numbers on a linear or logarithmic axis.

    Args:
        values: the parameter's values in all trials, None where a trial does not have it.
        logarithmic: whether the parameter is searched on a logarithmic scale.
    """

    def __init__(self, values: Sequence[Any], logarithmic: bool) -> None:
        given = [value for value in values if value is not None]
        self.words = [] if all(_is_number(value) for value in given) else sorted({str(value) for value in given})
        numbers = [] if self.words else [float(value) for value in given]
        self.low, self.high = min(numbers, default=0.0), max(numbers, default=0.0)
        self.logarithmic = logarithmic and self.low > 0

    def position(self, value: Any) -> float:
        """Returns the position of a value on the parameter's own axis."""
        return float(self.words.index(str(value))) if self.words else float(value)

    def place(self, value: Any) -> float:
        """Returns the place of a value from 0, the lowest, to 1, the highest; NaN for None."""
        if value is None:
            return math.nan
        at = self.position(value)
        low, high = (0.0, len(self.words) - 1.0) if self.words else (self.low, self.high)
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return 0.5 if low == high else (at - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Returns (place, text) of every word, or of the lowest, middle and highest number."""
        if self.words:
            return [(self.place(word), word) for word in self.words]
        if self.low == self.high:
            return [(0.5, f"{self.low:.3g}")]
        middle = math.sqrt(self.low * self.high) if self.logarithmic else (self.low + self.high) / 2
        return [(self.place(value), f"{value:.3g}") for value in (self.low, middle, self.high)]


def _is_result(trial: Trial) -> bool:
    return trial["state"] == "complete" and trial["value"] is not None and not math.isnan(trial["value"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _names(trials: Sequence[Trial]) -> list[str]:
    """Returns the names of the parameters that differ between trials, in their order."""
    names = dict.fromkeys(name for trial in trials for name in trial["parameters"])
    return [name for name in names if len({str(trial["parameters"].get(name)) for trial in trials}) > 1]

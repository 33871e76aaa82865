"""Pareto figure of a search for several objectives.

A configuration is a mapping with the objectives' values by name, "trial", "control", "front", "chosen" and
"keeps" (whether it meets the constraints).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.artifacts.search_result import SearchSummary
from pipeline.artifacts.stage_results import read_table
from pipeline.figures import BLUE, GREY, ORANGE, SKY, VERMILION, WIDTH, new_figure, open_axes
from pipeline.figures.fonts import fit_fonts
from pipeline.figures.objective_axis import objective_axis

Config = Mapping[str, Any]

PICTURE = "pareto.png"
"""File name in results/search/. DVC does not track it, since a search for one objective has none."""

_ABREAST = 2
_STEPS = {"minimize": "steps-post", "maximize": "steps-pre"}
"""Draw style of the front by the direction of the horizontal objective."""


def front_figure(folder: Path, summary: SearchSummary, *, title: str = "") -> Figure | None:
    """Draws the Pareto front in a search's results.

    Args:
        folder: folder with the search's pareto.csv.
        summary: summary of the search.
        title: heading of the figure; empty for none.

    Returns:
        The figure; None for a search for one objective.

    Raises:
        UserError: the table is missing.
    """
    objectives = summary.objectives
    if len(objectives) < 2:
        return None
    configs = [
        {
            "trial": row["trial"],
            "control": row["role"] == "control",
            **{column: row[column] == "true" for column in ("front", "chosen")},
            "keeps": row["keeps_constraints"] == "true",
            **{name: float(row[name]) if row[name] else math.nan for name in objectives},
        }
        for row in read_table(folder / "pareto.csv", made_by="search")
    ]
    return pareto_figure(configs, objectives, title=title)


def write_pareto_figure(folder: Path, summary: SearchSummary) -> None:
    """Writes the Pareto figure beside the results, and removes one of an earlier search.

    Args:
        folder: folder with the search's pareto.csv.
        summary: summary of the search.
    """
    (folder / PICTURE).unlink(missing_ok=True)
    figure = front_figure(folder, summary, title="Pareto front of the search")
    if figure is not None:
        fit_fonts(figure)
        figure.savefig(folder / PICTURE)


def pareto_figure(configs: Sequence[Config], objectives: Mapping[str, str], *, title: str = "") -> Figure | None:
    """Draws the first objective against each other one.

    Filled marks are the front. With two objectives, steps join them, because any point between two
    configurations is no better than the worse of both. Pale marks are dominated, crosses break a constraint,
    diamonds are controls, and a star is the chosen configuration.

    Args:
        configs: the configurations.
        objectives: "maximize" or "minimize" by name. An arrow at the axis shows the better direction.
        title: heading of the figure; empty for none.

    Returns:
        The figure; None with fewer than two objectives or without a front.
    """
    names = list(objectives)
    drawn = [each for each in configs if all(math.isfinite(each[name]) for name in names)]
    if len(names) < 2 or not any(each["front"] for each in drawn):
        return None
    columns = min(_ABREAST, len(names) - 1)
    rows = math.ceil((len(names) - 1) / columns)
    figure = new_figure(3.4 * rows + 0.5, title, width=WIDTH if columns > 1 else 5.6)
    first, first_axes = names[0], None
    for index, other in enumerate(names[1:]):
        axes = figure.add_subplot(rows, columns, index + 1, sharey=first_axes)
        first_axes = first_axes or axes
        _draw(axes, drawn, other, first, step=_STEPS[objectives[other]] if len(names) == 2 else None)
        axes.set_xlabel(_label(other, objectives[other], ("←", "→")), fontsize=9)
        if index % columns == 0:
            axes.set_ylabel(_label(first, objectives[first], ("↓", "↑")), fontsize=9)
    assert first_axes is not None
    figure.legend(
        *first_axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8.5, frameon=False
    )
    return figure


def _draw(axes: Axes, configs: Sequence[Config], across: str, up: str, *, step: str | None) -> None:
    """Draws one pair of objectives.

    Args:
        axes: the axes.
        configs: the configurations.
        across, up: objectives of the horizontal and vertical axis.
        step: draw style of the line that joins the front; None for no line.
    """

    def at(chosen: Sequence[Config]) -> tuple[list[float], list[float]]:
        return [_scaled(across, each[across]) for each in chosen], [_scaled(up, each[up]) for each in chosen]

    tried = [each for each in configs if not each["control"]]
    front = sorted((each for each in tried if each["front"]), key=lambda each: float(each[across]))
    dominated = [each for each in tried if each["keeps"] and not each["front"]]
    broken = [each for each in tried if not each["keeps"]]
    controls = [each for each in configs if each["control"]]
    if step is not None:
        axes.plot(*at(front), color=BLUE, linewidth=1, drawstyle=step, zorder=2)
    kinds: list[tuple[str, Sequence[Config], dict[str, Any]]] = [
        ("dominated", dominated, {"marker": "o", "s": 28, "facecolors": "none", "edgecolors": SKY, "zorder": 1}),
        ("breaks a constraint", broken, {"marker": "x", "s": 28, "color": GREY, "zorder": 1}),
        ("Pareto front", front, {"marker": "o", "s": 38, "color": BLUE, "zorder": 3}),
        ("control", controls, {"marker": "D", "s": 38, "color": ORANGE, "zorder": 4}),
        (
            "chosen",
            [each for each in front if each["chosen"]],
            {"marker": "*", "s": 150, "color": VERMILION, "zorder": 5},
        ),
    ]
    for label, chosen, style in kinds:
        if chosen:
            axes.scatter(*at(chosen), label=label, **style)
    for each in controls:
        place = (_scaled(across, each[across]), _scaled(up, each[up]))
        axes.annotate(str(each["trial"]), place, xytext=(5, 4), textcoords="offset points", fontsize=8)
    open_axes(axes, size=8)


def _scaled(name: str, value: float) -> float:
    return objective_axis(name).scale * float(value)


def _label(name: str, direction: str, arrows: tuple[str, str]) -> str:
    """Returns the label of an axis.

    Args:
        name: the objective.
        direction: "maximize" or "minimize".
        arrows: arrows towards smaller and larger values.
    """
    return f"{objective_axis(name).label}  {arrows[direction == 'maximize']} better"

"""The Pareto front of a search, read back from its results and drawn."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipeline.artifacts.stage_results import read_table
from pipeline.figures.fonts import fit_fonts
from pipeline.figures.pareto import pareto_figure

PICTURE = "pareto.png"
"""Its name in results/search/. DVC does not know it, since a search for one objective has none."""


def front_figure(folder: Path, summary: Mapping[str, Any], *, title: str = "") -> Figure | None:
    """The figure of pareto.csv in a search's results; None of a search for one objective. summary: of summary.json.

    Raises:
        UserError: the table is not there.
    """
    objectives: Mapping[str, str] = summary.get("objectives", {})
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


def write_pareto_figure(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write the figure beside the results; one of an earlier search goes."""
    (folder / PICTURE).unlink(missing_ok=True)
    figure = front_figure(folder, summary, title="Pareto front of the search")
    if figure is not None:
        fit_fonts(figure)
        figure.savefig(folder / PICTURE)

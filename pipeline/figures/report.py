"""The page a person reads after a search: one HTML file that needs nothing else.

`ReportData` is what the page says, as plain data and figures; `render_report` turns it into HTML with the template next
to this module. Figures are embedded as PNG, and nothing is fetched from anywhere.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from pipeline.console.format import format_duration, format_percent, format_points, format_value_short
from pipeline.figures import short_names
from pipeline.figures.fonts import display_labels, fit_fonts
from pipeline.figures.objective_axis import ACCURACY_AXIS, ObjectiveAxis
from pipeline.score.metrics.wording import MetricWords

Row = Mapping[str, Any]
Words = Sequence[tuple[str, str]]

_TRIALS_SHOWN = 50
_ABSENT = "\N{EN DASH}"


@dataclass(frozen=True)
class ReportData:
    """What the report says. Accuracies, deviations and ECE are fractions of 1; None hides what does not exist.

    title, verdict   the heading, and the sentences of `score.verdict`
    remarks          further sentences under the verdict, such as a comparison's note
    arms             rows with arm, seeds (None of a probe), accuracy, accuracy_sd (None with one seed), nll (nats),
                     ece; metric and metric_sd, where the arms are compared by another metric
    metric           that in words; None: accuracy
    objective        the first one of the search
    difference       figure of the difference and its interval
    analysis         (name, sentence) pairs: what was declared beforehand, what was found, what stands beside it
    ensembles        what the rows of the ensembles among the arms say, in words; None without any
    probe            what its row among the arms says, in words; None without one
    folds            rows with fold, images, setting, best, control, difference, low, high (None without an interval);
                     none without folds
    folds_note       what is to be known of them
    look             which look at the test images it is (`pipeline.state.looks`)
    attention        rows with row, jaccard_best, jaccard_fixed, auroc, average_precision, pointing_game, energy; best
                     and control, then the trivial baselines. None if the data have no masks
    attention_changes
                     best minus control by the same columns: difference, low, high (None where there is no interval)
    attention_note   sentences on it: where the masks come from, the number of images left out
    trials           rows with trial, state, epochs, value (of the first objective; None if there is none), parameters
                     (by dotted path), control (bool), in the order of starting
    trials_figure, learning_curves, search_curves, confusion, calibration
                     figures from `figures.curves`; search_curves: of the first objective
    search_figures   (caption, figure) from `figures.search`
    classes          rows with class, images, best, control (accuracies; None for a class without images), and change,
                     low, high, p (None where the class cannot be compared)
    class_figure     (caption, figure) of the changes
    cost             (name, words) pairs
    usage            rows with part, cpu_busy, machine_cpu_busy, gpu_busy, data_wait (fractions of 1), memory_mb,
                     gpu_memory_mb, each None if it is not known; none where nothing was measured
    attention_figures
                     (caption, figure) from `figures.attention`
    commit, data_hash, fingerprint, command, versions (by library), seconds
                     what it takes to get the same numbers again; commit None outside a repository
    """

    title: str
    verdict: str
    arms: Sequence[Row]
    look: int
    trials: Sequence[Row]
    commit: str | None
    data_hash: str
    fingerprint: str
    command: str
    versions: Mapping[str, str]
    seconds: float
    remarks: Sequence[str] = ()
    metric: MetricWords | None = None
    objective: ObjectiveAxis = ACCURACY_AXIS
    difference: Figure | None = None
    ensembles: str | None = None
    probe: str | None = None
    folds: Sequence[Row] = ()
    folds_note: str = ""
    analysis: Words = ()
    attention: Sequence[Row] | None = None
    attention_changes: Sequence[Row] = ()
    attention_note: str | None = None
    trials_figure: Figure | None = None
    search_figures: Sequence[tuple[str, Figure]] = ()
    learning_curves: Figure | None = None
    search_curves: Figure | None = None
    classes: Sequence[Row] | None = None
    class_figure: tuple[str, Figure] | None = None
    confusion: Figure | None = None
    calibration: Figure | None = None
    attention_figures: Sequence[tuple[str, Figure]] | None = None
    cost: Words = ()
    usage: Sequence[Row] = ()


def render_report(data: ReportData) -> str:
    """Return the report as one HTML page. A row without one of its keys raises `jinja2.UndefinedError`, naming it.

    Trials are sorted by the first objective, at most fifty of them shown, the controls always among these.
    """
    environment = page_environment()
    shown = shown_trials(data.trials, objective=data.objective)
    numbered = data.classes is not None and display_labels([str(row["class"]) for row in data.classes]).numbered
    columns = short_names(name for trial in shown for name in trial["parameters"])
    return environment.get_template("report.html.j2").render(
        data=data, trials=shown, columns=columns, more_trials=len(data.trials) - len(shown), numbered=numbered
    )


def page_environment() -> Environment:
    """Templates of this folder, with filters for numbers and figures."""
    environment = Environment(
        loader=PackageLoader("pipeline.figures", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_percent,
        fixed=_fixed,
        signed=_signed,
        deviation=_deviation,
        change=_change,
        setting=partial(format_value_short, digits=4),
        duration=format_duration,
        picture=_picture,
        megabytes=_megabytes,
    )
    return environment


def shown_trials(
    trials: Sequence[Row], limit: int = _TRIALS_SHOWN, *, objective: ObjectiveAxis = ACCURACY_AXIS
) -> list[Row]:
    """Choose at most `limit` trials: all controls first, then the best; sorted by their value, unknown last."""
    rank = partial(_rank, objective=objective)
    ranked = sorted(trials, key=rank)
    kept = sorted(ranked, key=lambda trial: not trial["control"])[:limit]
    return sorted(kept, key=rank)


def _rank(trial: Row, objective: ObjectiveAxis) -> float:
    return math.inf if _missing(trial["value"]) else -objective.gain(float(trial["value"]))


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _percent(value: float | None, digits: int = 1) -> str:
    return _ABSENT if value is None or math.isnan(value) else format_percent(value, digits)


def _fixed(value: float | None, digits: int = 3) -> str:
    return _ABSENT if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _signed(value: float | None, digits: int = 3) -> str:
    return _ABSENT if value is None or math.isnan(value) else f"{value + 0.0:+.{digits}f}"


def _deviation(share: float | None) -> str:
    return _ABSENT if share is None or math.isnan(share) else f"\N{PLUS-MINUS SIGN} {100 * share:.2f}"


def _change(share: float | None) -> str:
    return _ABSENT if _missing(share) or share is None else format_points(share, unit=False)


def _megabytes(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:,.0f} MB"


def _picture(figure: Figure, description: str) -> Markup:
    buffer = io.BytesIO()
    fit_fonts(figure)
    # The library's version stays out of the file, so that equal figures are equal bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None}, facecolor="white")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(escape(description), data)

"""Report of a search for its reader: one HTML file that needs nothing else.

`ReportData` is the content, as plain data and figures. `render_report` turns it into HTML with the template
next to this module. Figures are embedded as PNG, and nothing is fetched from elsewhere.
"""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from pipeline.console.format import STATE_WORDS, format_duration, format_percent, format_points, format_value_short
from pipeline.figures import short_names
from pipeline.figures.fonts import display_labels, fit_fonts
from pipeline.figures.objective_axis import ACCURACY_AXIS, ObjectiveAxis
from pipeline.score.metrics.wording import MetricWords

Row = Mapping[str, Any]
Words = Sequence[tuple[str, str]]

_TRIALS_SHOWN = 50
_ABSENT = "\N{EN DASH}"
"""Text of a value that does not exist."""


@dataclass(frozen=True)
class ReportData:
    """Content of the report.

    Accuracies, deviations and ECE are fractions of 1. None hides a part that does not exist.

    Attributes:
        title: the heading.
        verdict: the sentences of `score.verdict`.
        arms: rows with arm, seeds (None for a probe), accuracy, accuracy_sd (None with one seed), nll (nats)
            and ece; also metric and metric_sd if the arms are compared by another metric.
        look: number of the look at the test images (`pipeline.state.looks`).
        trials: rows with trial, state, epochs, value (of the first objective; None without one), parameters
            (by dotted path) and control (bool), in the order of starting.
        commit: commit of the checkout; None outside a repository.
        data_hash, fingerprint: hash of the prepared set, and fingerprint of the search.
        command: the command that gives the same results.
        versions: version of each library by its name.
        seconds: workers' time of search and retraining together.
        remarks: further sentences under the verdict, such as a comparison's note.
        metric: the other metric in words; None for accuracy.
        objective: axis of the search's first objective.
        difference: (caption, figure) of the difference and its interval.
        ensembles: sentences on the rows of ensembles among the arms; None without any.
        probe: sentences on the probe's row among the arms; None without one.
        folds: rows with fold, images, setting, best, control, difference, low and high (None without an
            interval); empty without folds.
        folds_note: sentences on the folds.
        analysis: (name, sentence) pairs on the declared analysis, its results and further comparisons.
        pictures: rows with class and `images`, numbers by role and in all; the last row is of all classes. Empty
            if the split's report is not there.
        pictures_about: (name, words) pairs on the origin, masks, broken files and copies of the pictures.
        pictures_remarks: sentences on what is odd about the pictures.
        attention: rows with row, jaccard_best, jaccard_fixed, auroc, average_precision, pointing_game and
            energy: best and control, then the trivial baselines. None if the data have no masks.
        attention_changes: best minus control for each of these columns: difference, low, high (None without
            an interval).
        attention_note: sentences on the origin of the masks and the number of images left out.
        trials_figure, learning_curves, search_curves, confusion, calibration: figures from `figures.curves`;
            `search_curves` shows the first objective.
        search_figures: (caption, figure) from `figures.search`.
        search_note: a sentence on the figures of the search that were left out; empty without any.
        classes: rows with class, images, best and control (accuracies; None for a class without images), and
            change, low, high and p (None if the class cannot be compared).
        class_figure: (caption, figure) of the changes.
        attention_figures: (caption, figure) from `figures.attention`.
        cost: (name, words) pairs.
        usage: rows with part, cpu_busy, machine_cpu_busy, gpu_busy, data_wait (fractions of 1), memory_mb and
            gpu_memory_mb, each None if unknown; empty if nothing was measured.
        usage_note: a sentence on other work that slowed the runs down; empty without any.
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
    difference: tuple[str, Figure] | None = None
    ensembles: str | None = None
    probe: str | None = None
    folds: Sequence[Row] = ()
    folds_note: str = ""
    analysis: Words = ()
    pictures: Sequence[Row] = ()
    pictures_about: Words = ()
    pictures_remarks: Sequence[str] = ()
    attention: Sequence[Row] | None = None
    attention_changes: Sequence[Row] = ()
    attention_note: str | None = None
    trials_figure: Figure | None = None
    search_figures: Sequence[tuple[str, Figure]] = ()
    learning_curves: Figure | None = None
    search_note: str = ""
    search_curves: Figure | None = None
    classes: Sequence[Row] | None = None
    class_figure: tuple[str, Figure] | None = None
    confusion: Figure | None = None
    calibration: Figure | None = None
    attention_figures: Sequence[tuple[str, Figure]] | None = None
    cost: Words = ()
    usage: Sequence[Row] = ()
    usage_note: str = ""


def render_report(data: ReportData) -> str:
    """Renders the report as one HTML page. A row without one of its keys raises `jinja2.UndefinedError`.

    Trials are sorted by the first objective. At most fifty of them are shown, always with the controls.

    Args:
        data: the content.
    """
    environment = page_environment()
    shown = shown_trials(data.trials, objective=data.objective)
    numbered = data.classes is not None and display_labels([str(row["class"]) for row in data.classes]).numbered
    columns = short_names(name for trial in shown for name in trial["parameters"])
    return environment.get_template("report.html.j2").render(
        data=data, trials=shown, columns=columns, more_trials=len(data.trials) - len(shown), numbered=numbered
    )


def page_environment() -> Environment:
    """Returns an environment for this folder's templates, with filters for numbers and figures."""
    environment = Environment(
        loader=PackageLoader("pipeline.figures", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_or_absent(format_percent),
        fixed=_or_absent(lambda value, digits=3: f"{value:.{digits}f}"),
        signed=_or_absent(lambda value, digits=3: f"{value + 0.0:+.{digits}f}"),
        deviation=_or_absent(lambda share: f"\N{PLUS-MINUS SIGN} {100 * share:.2f}"),
        change=_or_absent(partial(format_points, unit=False)),
        setting=partial(format_value_short, digits=4),
        duration=format_duration,
        picture=_picture,
        state=lambda state: STATE_WORDS.get(state, state),
        megabytes=_or_absent(lambda value: f"{value:,.0f} MB"),
    )
    return environment


def shown_trials(
    trials: Sequence[Row], limit: int = _TRIALS_SHOWN, *, objective: ObjectiveAxis = ACCURACY_AXIS
) -> list[Row]:
    """Chooses the trials that the report shows: the controls, and as many of the best others as the limit allows.

    Args:
        trials: rows as in `ReportData.trials`.
        limit: largest number of trials, controls included.
        objective: axis of the first objective, whose direction ranks the trials.

    Returns:
        The chosen trials from best to worst, with the controls among them and those without a value last.
    """
    rank = partial(_rank, objective=objective)
    ranked = sorted(trials, key=rank)
    kept = sorted(ranked, key=lambda trial: not trial["control"])[:limit]
    return sorted(kept, key=rank)


def _rank(trial: Row, objective: ObjectiveAxis) -> float:
    return math.inf if _missing(trial["value"]) else -objective.gain(float(trial["value"]))


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _or_absent(form: Callable[..., str]) -> Callable[..., str]:
    """Returns a filter that formats a number, and shows a dash for a missing one."""
    return lambda value, *digits: _ABSENT if _missing(value) else form(value, *digits)


def _picture(figure: Figure, description: str) -> Markup:
    buffer = io.BytesIO()
    fit_fonts(figure)
    # The file must not contain the library's version, so that equal figures are equal bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None}, facecolor="white")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(escape(description), data)

"""The report's part on the search: its trials in rows and figures, its learning curves, its cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pipeline.artifacts.retraining import Retraining
from pipeline.artifacts.search_result import RungCorrelation, SearchSummary
from pipeline.compute.usage_summary import MEMORY, SHARES
from pipeline.console.format import STATE_WORDS, format_count, format_duration
from pipeline.figures import short_names
from pipeline.figures.curves import learning_curves
from pipeline.figures.objective_axis import objective_axis
from pipeline.figures.pareto import front_figure
from pipeline.figures.report import Row, Words
from pipeline.figures.search import importance_figure, parallel_figure, slice_figure, survival_figure
from pipeline.tune.journal.records import COMPLETE, INFEASIBLE, MIN_COMPLETED, PRUNED, VAL_ACCURACY
from pipeline.tune.objectives.objectives import (
    AUROC,
    JACCARD,
    LATENCY,
    OF_CLASSES,
    PARAMETERS,
    THROUGHPUT,
    format_limits,
)
from pipeline.tune.selection.findings import describe_findings

OBJECTIVE_COLUMNS = (*OF_CLASSES, JACCARD, AUROC, PARAMETERS, LATENCY, THROUGHPUT, "breaks")
"""Columns of trials.csv for objectives and constraints."""
FIXED_COLUMNS = {
    *("trial", "role", "study", "seed", "state", "epochs", "val/accuracy", "val/loss", "empty_share", "reason"),
    *OBJECTIVE_COLUMNS,
}
"""Columns of trials.csv that are no parameters of the search space."""
OWN_STUDY = "search"
"""Name of the method's study in trials.csv."""


def trial_rows(rows: Sequence[Mapping[str, str]], objective: str) -> list[Row]:
    """Returns the report's rows of trials.csv, without confirmations, which repeat a trial's configuration.

    Columns of objectives and constraints stand among the parameters, except for the first objective, which is the
    row's value.

    Args:
        rows: Rows of trials.csv.
        objective: The first objective.
    """
    trials: list[Row] = []
    for row in rows:
        if row["role"] != "confirmation":
            trial = _trial(row, objective)
            shown = (name for name in OBJECTIVE_COLUMNS if name != objective and row.get(name))
            trial["parameters"].update({name: _number(row[name]) for name in shown})
            trials.append(trial)
    return trials


LEAST_COMPLETE = 3
"""Number of trials that ran in full from which on parallel coordinates and slices are drawn; fewer show no pattern."""
LEAST_IMAGES = 5
"""Validation images that the colour scale spans at least, so that a single one does not look like an effect."""


def note_on_figures(rows: Sequence[Mapping[str, str]]) -> str:
    """Returns a sentence if too few trials ran in full for parallel coordinates and slices; else an empty text."""
    complete = sum(row["study"] == OWN_STUDY and row["state"] == COMPLETE for row in rows)
    if complete >= LEAST_COMPLETE:
        return ""
    ran = "no trial" if not complete else format_count(complete, "trial")
    return (
        f"Parallel coordinates and slices are left out: {ran} ran in full, and with fewer than {LEAST_COMPLETE} they "
        "show no pattern."
    )


def search_figures(rows: Sequence[Mapping[str, str]], summary: SearchSummary) -> list[tuple[str, Figure]]:
    """Returns figures of the method's own trials, without controls, as (caption, figure) pairs.

    A figure for which there are too few trials is left out.
    """
    first, axis = summary.objective, objective_axis(summary.objective)
    tried = [_trial(row, first) for row in rows if row["study"] == OWN_STUDY and row["state"] != INFEASIBLE]
    short = short_names(name for trial in tried for name in trial["parameters"])
    for trial in tried:
        trial["parameters"] = {short[name]: value for name, value in trial["parameters"].items()}
    complete = sum(trial["state"] == COMPLETE for trial in tried)
    over = f"the {complete} trials that ran in full" if complete != 1 else "the one trial that ran in full"
    stopped = sum(trial["state"] == PRUNED for trial in tried)
    others = f"; grey: {stopped} stopped early" if stopped else ""
    hollow = f"; hollow: {stopped} stopped early, at the last value before that" if stopped else ""
    shares = {name.removeprefix("regularizer."): share for name, share in summary.importances.items()}
    scales = {short.get(name.removeprefix("regularizer."), "") for name in summary.logarithmic}
    agreed = _rank_agreement(summary.rung_correlations)
    few = "" if complete >= MIN_COMPLETED else f" Importances are drawn from {MIN_COMPLETED} on."
    span, spanned = _least_span(tried, summary)
    enough = complete >= LEAST_COMPLETE
    drawn = [
        (
            f"Parallel coordinates of {over}, coloured by {axis.words}{others}.{spanned}",
            parallel_figure(tried, logarithmic=scales, objective=axis, least_span=span) if enough else None,
        ),
        (
            f"Slices: {axis.words} by parameter, of {over}{hollow}.{few}",
            slice_figure(tried, logarithmic=scales, objective=axis) if enough else None,
        ),
        (
            f"Importances (PED-ANOVA) over {over}; those stopped early do not count.",
            importance_figure(shares, objective=axis),
        ),
        (f"Rung survival: how many trials trained each epoch, controls left out.{agreed}", survival_figure(tried)),
    ]
    return [(caption, figure) for caption, figure in drawn if figure is not None]


def _least_span(tried: Sequence[Row], summary: SearchSummary) -> tuple[float, str]:
    """Returns the least width of the colour scale, and a sentence if the trials' values lie closer together.

    Args:
        tried: Rows of the method's own trials.
        summary: Summary of the search.

    Returns:
        The width as a share of 1, 0 where the objective is not accuracy or the number of images is unknown; the
        sentence, or an empty text.
    """
    if summary.objective != VAL_ACCURACY or summary.forecast is None or summary.forecast.images < 1:
        return 0.0, ""
    images = summary.forecast.images
    values = [trial["value"] for trial in tried if trial["state"] == COMPLETE and trial["value"] is not None]
    apart = max(values, default=0.0) - min(values, default=0.0)
    span = LEAST_IMAGES / images
    if apart >= span:
        return span, ""
    return span, (
        f" The values lie {format_count(round(apart * images), 'validation image')} of {images} apart; the colours "
        f"span {LEAST_IMAGES}."
    )


def _rank_agreement(correlations: Mapping[str, RungCorrelation]) -> str:
    """Returns the rank correlation of each rung with the last epoch, in words; an empty text if there is none."""
    if not correlations:
        return ""
    said = ", ".join(f"epoch {rung}: {found.correlation:.2f}" for rung, found in correlations.items())
    trials = max(found.trials for found in correlations.values())
    little = ", so few that it says little" if trials < MIN_COMPLETED else ""
    return f" Rank correlation with the last epoch, over the {trials} trials that ran in full{little}: {said}."


def front_figures(folder: Path, summary: SearchSummary) -> list[tuple[str, Figure]]:
    """Returns the Pareto front as a list of one (caption, figure) pair; empty if the search has one objective.

    Args:
        folder: Folder of the search's results.
        summary: Summary of the search.
    """
    figure = front_figure(folder, summary)
    if figure is None:
        return []
    names, trials = ", ".join(summary.objectives), ", ".join(each.trial for each in summary.front)
    caption = (
        f"Pareto front over {names}, on validation images with one seed: {trials}. No other trial that ran in full is "
        "better in one of these without being worse in another. The retrained configuration was chosen "
        "from the front."
    )
    return [(caption, figure)]


def early_remarks(summary: SearchSummary) -> list[str]:
    """Returns a sentence if the search tried fewer trials than were asked for; else no sentence."""
    if not summary.stopped_by:
        return []
    tried, asked = sum(summary.trials.values()), summary.trials_asked
    of = f" of {asked}" if asked else ""
    return [f"The search was ended early by {summary.stopped_by}, with {tried}{of} trials."]


def objective_remarks(summary: SearchSummary) -> list[str]:
    """Returns sentences on several objectives and on constraints; none if neither was asked for."""
    remarks = []
    if summary.objectives:
        count = len(summary.front)
        remarks.append(
            f"Objectives {', '.join(summary.objectives)}: the best configuration was chosen from the Pareto front, "
            f"which has {count} configuration{'s' * (count != 1)}."
        )
    if limits := summary.constraints:
        remarks.append(f"The best configuration meets search.constraints ({format_limits(limits)}); controls need not.")
    return remarks


def health_remarks(summary: SearchSummary) -> list[str]:
    """Returns what the health check found against the search, with advice; none if the search was not checked."""
    return [f"The search's health: {line}" for line in describe_findings(summary.health)]


def search_curves(
    curves: Sequence[Mapping[str, str]],
    rows: Sequence[Mapping[str, str]],
    shown: Mapping[str, str],
    objective: str,
) -> Figure | None:
    """Draws the first objective by epoch of some trials, with their confirmations as further seeds.

    Args:
        curves: Rows of curves.csv.
        rows: Rows of trials.csv.
        shown: Displayed name of each trial that is drawn, by the trial's id.
        objective: The first objective.

    Returns:
        The figure; None if none of the trials has a value.
    """
    by_trial: dict[str, dict[int, float]] = {}
    for row in curves:
        if row.get(objective):
            by_trial.setdefault(row["trial"], {})[int(row["epoch"])] = float(row[objective])
    confirmations = [row["trial"] for row in rows if row["role"] == "confirmation"]
    series = {}
    for trial, name in shown.items():
        own = [trial, *(each for each in confirmations if each.startswith(f"{trial}-seed"))]
        found = [by_trial[each] for each in own if each in by_trial]
        if found:
            epochs = np.arange(1, max(max(values) for values in found) + 1)
            table = [[values.get(int(epoch), np.nan) for epoch in epochs] for values in found]
            series[name] = (epochs, np.array(table))
    axis = objective_axis(objective)
    return learning_curves(series, ylabel=axis.label, scale=axis.scale) if series else None


def describe_cost(summary: SearchSummary, retrained: Retraining) -> Words:
    """Returns the time, epochs and money that the search and the retraining took, as (label, text) pairs."""
    spent, epochs = summary.spent, summary.epochs
    count = len(retrained.runs) + sum(len(fold.runs) for fold in retrained.folds)
    words = [
        ("search, by the clock", format_duration(3600 * spent.hours)),
        ("search, workers' time", format_duration(3600 * spent.worker_hours)),
        ("epochs trained", f"{epochs.spent:,}"),
        (
            "saved by stopping early",
            f"{epochs.saved_by_stopping:,} epochs, about "
            + format_duration(3600 * spent.worker_hours_saved_by_stopping),
        ),
        ("retraining, workers' time", f"{format_duration(retrained.seconds)} for {format_count(count, 'run')}"),
    ]
    if spent.gpu_hours:
        words.append(("search, GPU-hours", f"{spent.gpu_hours:.2f}"))
    if spent.cost is not None:
        words.append(("search, money", f"{spent.cost:.2f} at search.budget.price_per_gpu_hour"))
    return words


def usage_rows(summary: SearchSummary, retrained: Retraining) -> list[Row]:
    """Returns a row each for the search and the retraining, with their use of the machine's resources.

    A part without any measurement has no row. A single quantity that was not measured, as in searches of earlier
    versions, is None.
    """
    found = {"search": summary.spent.usage, "retraining": retrained.usage}
    return [
        {"part": part, **{name: usage.get(name) for name in (*SHARES, *MEMORY)}}
        for part, usage in found.items()
        if usage
    ]


BUSY, OWN = 0.9, 0.6
"""Share of the machine's CPU from which on it is busy, and share of a run's cores up to which the run is not what makes
it so.
"""


def describe_other_work(rows: Sequence[Row]) -> str:
    """Returns a sentence if the CPU was busy with other work than the runs; else an empty text.

    Args:
        rows: Result of `usage_rows`.
    """
    slowed = [
        row["part"]
        for row in rows
        if (row["machine_cpu_busy"] or 0.0) >= BUSY and row["cpu_busy"] is not None and row["cpu_busy"] <= OWN
    ]
    if not slowed:
        return ""
    return (
        f"During the {' and the '.join(slowed)} the machine's CPU was busy, but the runs used little of their cores: "
        "other work ran beside them and slowed them down. It may be their own data workers (train.workers), which do "
        "not count as part of a run; else the times above are longer than those of a free machine."
    )


def plotted_trials(summary: SearchSummary, rows: Sequence[Mapping[str, str]]) -> str:
    """Returns a sentence on how many results were seen before the test set was."""
    counts = ", ".join(f"{count} {STATE_WORDS[state]}" for state, count in summary.trials.items() if count) or "none"
    of_control = sum(row["role"] == "control trial" for row in rows)
    controls = sum(row["role"] == "control" for row in rows)
    tuned = f", {of_control} trials of the control's own study" if of_control else ""
    return (
        f"{format_count(sum(summary.trials.values()), 'trial')} ({counts}){tuned}, "
        f"{format_count(controls, 'control')} and {format_count(summary.confirmations, 'confirmation')}, all of them "
        "on validation images"
    )


def _trial(row: Mapping[str, str], objective: str) -> dict[str, Any]:
    parameters = {name: _number(value) for name, value in row.items() if name not in FIXED_COLUMNS and value}
    return {
        "trial": row["trial"],
        "state": row["state"],
        "control": row["role"].startswith("control"),
        "epochs": int(row["epochs"]),
        "value": float(row[objective]) if row[objective] else None,
        "parameters": {name.removeprefix("regularizer."): value for name, value in parameters.items()},
    }


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text

"""Content of the report, gathered from the results of the other stages."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.artifacts.best_config import BestConfig
from pipeline.artifacts.evaluation import ArmScores, Difference, EnsembleScores, Evaluation, ProbeScores
from pipeline.artifacts.evaluation_words import describe_ensembles, describe_probe
from pipeline.artifacts.evaluations import correct_by_arm, has_shared_seeds, probabilities_by_arm, seeds_by_arm
from pipeline.artifacts.retraining import Retraining
from pipeline.artifacts.search_result import SearchSummary
from pipeline.artifacts.stage_results import BEST, read_table
from pipeline.config import Params, Values
from pipeline.console.format import config_name
from pipeline.data.prepared.encoded import ImageRows
from pipeline.data.prepared.prepared import Manifest, open_prepared
from pipeline.figures.attention import comparison_figure
from pipeline.figures.curves import (
    confusion_figure,
    difference_figure,
    learning_curves,
    objective_by_trial,
    reliability_figure,
)
from pipeline.figures.objective_axis import objective_axis
from pipeline.figures.report import ReportData, Row
from pipeline.inputs.data_split import describe_faults, read_split_report
from pipeline.preflight.power import AUTO, describe_expectation, make_forecast
from pipeline.provenance.git import git_problem
from pipeline.provenance.trace import commit, versions
from pipeline.score.classify import ReliabilityBins, reliability_bins
from pipeline.score.comparison import clip_to_possible
from pipeline.score.metrics.metric import METRICS
from pipeline.score.metrics.wording import MetricWords, words_of
from pipeline.score.verdict import possible_endpoints
from pipeline.stages.report.fold_content import describe_folds, registered_remarks
from pipeline.stages.report.picture_content import describe_pictures, picture_remarks, picture_rows
from pipeline.stages.report.search_content import (
    describe_cost,
    describe_other_work,
    early_remarks,
    front_figures,
    health_remarks,
    note_on_figures,
    objective_remarks,
    plotted_trials,
    search_curves,
    search_figures,
    trial_rows,
    usage_rows,
)
from pipeline.stages.report.statistics import class_figure, class_rows, describe_analysis, describe_levels
from pipeline.train.sidecar import read_sidecar
from pipeline.workspace import Workspace

ATTENTION_COLUMNS = {
    "jaccard_best": "jaccard_best_head",
    "jaccard_fixed": "jaccard_fixed_head",
    "auroc": "auroc",
    "average_precision": "average_precision",
    "pointing_game": "pointing_game",
    "energy": "energy",
}
"""The attention table's columns, and the names of these scores in evaluation.json."""

BASELINES = {
    "random": "blind: random",
    "uniform": "blind: uniform",
    "centre": "blind: centred Gaussian",
    "all_on": "blind: everything attended",
}
"""Names of the baselines in evaluation.json, and in the attention table."""


LEAST_IN_BIN = 10
"""Test images that a mark of the calibration figure stands for at least; fewer would draw a zigzag of chance."""


def gather_report(workspace: Workspace, params: Params) -> ReportData:
    """Returns the whole content of the report.

    Raises:
        UserError: An earlier stage has not run.
    """
    results = workspace.results
    evaluation = Evaluation.read(results / "evaluate")
    summary = SearchSummary.read(results / "search")
    found = BestConfig.read(results / "search")
    retrained = Retraining.read(results / "retrain")
    prepared, division = open_prepared(workspace.prepared), read_split_report(workspace)
    control, metric, told = evaluation.control, evaluation.words, evaluation.other_metric
    comparison = clip_to_possible(evaluation.comparison) if metric.is_share else evaluation.comparison
    endpoints = possible_endpoints(evaluation.endpoints, evaluation.comparison, evaluation.attention_comparison, metric)
    rows = read_table(results / "search" / "trials.csv", made_by="search")
    first = summary.objective
    trials, objective = trial_rows(rows, first), objective_axis(first)
    with np.load(results / "evaluate" / "predictions.npz") as archive:
        predictions = {name: archive[name] for name in archive.files}
    correct = correct_by_arm(predictions, control)
    classes = class_rows(
        evaluation,
        prepared.classes,
        predictions["labels"],
        correct,
        control,
        confidence=comparison.confidence,
        shared_seeds=has_shared_seeds(predictions, control),
        folds=predictions.get("folds"),
    )
    remarks = [
        *registered_remarks(evaluation),
        f"Best configuration: {config_name(found.best)} ({found.trial}). {_chosen(summary)}.",
        f"The control is {summary.against}.",
        *_seed_remarks(params, summary, evaluation, retrained),
        *early_remarks(summary),
        *objective_remarks(summary),
        *health_remarks(summary),
    ]
    if faults := describe_faults(workspace):
        remarks.append(faults)
    if comparison.note and comparison.low is not None:  # without an interval, the verdict says it already
        remarks.append(f"{comparison.note[0].upper()}{comparison.note[1:]}.")
    arms = {BEST: "best", control: f"control: {control}"}
    usage = usage_rows(summary, retrained)
    return ReportData(
        title=f"{params.set_name}: what the search over {params.search.space} found",
        verdict=evaluation.verdict,
        remarks=remarks,
        arms=_score_rows(evaluation, arms, told),
        metric=told,
        objective=objective,
        ensembles=describe_ensembles(evaluation.ensembles) if evaluation.ensembles else None,
        probe=describe_probe(evaluation),
        difference=(
            describe_levels(endpoints, comparison, metric),
            difference_figure(
                [("best - control", comparison.difference, comparison.low, comparison.high)],
                margin=metric.margin,
                words=metric,
                confidence=comparison.confidence,
            ),
        ),
        analysis=describe_analysis(
            comparison,
            endpoints,
            correct,
            control,
            margin=metric.margin,
            seed=params.base.seed,
            looked=plotted_trials(summary, rows),
            look=evaluation.look or 1,
            words=metric,
            tables=_score_tables(predictions, control, metric),
        ),
        folds=[each.content() for each in evaluation.folds],
        folds_note=describe_folds(evaluation),
        look=evaluation.look or 1,
        pictures=picture_rows(division),
        pictures_about=describe_pictures(prepared.manifest, division),
        pictures_remarks=picture_remarks(prepared.manifest, division),
        attention=_attention_rows(evaluation, arms),
        attention_changes=_attention_changes(evaluation),
        attention_note=_attention_note(evaluation, prepared.manifest),
        trials=trials,
        trials_figure=objective_by_trial(trials, objective=objective),
        search_figures=[
            *front_figures(results / "search", summary),
            *search_figures(rows, summary),
        ],
        search_note=note_on_figures(rows),
        learning_curves=_curves(workspace, retrained, arms),
        search_curves=search_curves(
            read_table(results / "search" / "curves.csv", made_by="search"),
            rows,
            {found.trial: "best", control: f"control: {control}"},
            first,
        ),
        classes=classes,
        class_figure=class_figure(classes, comparison.confidence),
        confusion=confusion_figure(evaluation.best.confusion, prepared.classes, title="best, all seeds"),
        calibration=_calibration(predictions, arms),
        attention_figures=_pictures(workspace, prepared.images, prepared.masks, control, found.best),
        commit=_commit(workspace),
        data_hash=evaluation.data_hash,
        fingerprint=evaluation.fingerprint,
        command="make repro" if workspace.own is None else "sar-search compare --run, with this method among others",
        versions=versions(),
        cost=describe_cost(summary, retrained),
        usage=usage,
        usage_note=describe_other_work(usage),
        seconds=3600 * summary.spent.training_hours + retrained.seconds,
    )


def _chosen(summary: SearchSummary) -> str:
    """Returns in words how the best configuration was chosen.

    If it was confirmed, the sentence gives its mean over the confirmations, whose seeds had no part in the search.
    """
    best, why = summary.best, summary.choice.why
    why = f"{why[0].upper()}{why[1:]}"
    if best.further_mean is None:
        return why
    count = len(best.further_seeds)
    words = words_of(summary.choice.metric)
    return (
        f"{why}. Over its {count} further seed{'s' * (count != 1)}, which the search did not see, its validation "
        f"{words.label} was {words.format_value(best.further_mean)}"
    )


def _seed_remarks(params: Params, summary: SearchSummary, evaluation: Evaluation, retrained: Retraining) -> list[str]:
    """Returns remarks on the number of seeds: what was to be expected of it, and with `auto` the reason for it.

    Args:
        params: All parameters.
        summary: Summary of the search.
        evaluation: Result of the evaluation.
        retrained: Result of the retraining.
    """
    forecast = make_forecast(params, summary.forecast, evaluation.test_images)
    seeds = retrained.seeds
    chosen = [f"Seeds: {seeds.why} (retrain.seeds: auto)."] if seeds is not None and seeds.asked == AUTO else []
    return [*chosen, describe_expectation(params, forecast, len(evaluation.best.seeds), evaluation.words)]


def _score_tables(
    predictions: Mapping[str, NDArray[Any]], control: str, metric: MetricWords
) -> dict[str, NDArray[Any]] | None:
    """Returns the metric's pseudo-values by arm.

    Args:
        predictions: Content of predictions.npz.
        control: Name of the control.
        metric: Metric by which the arms are compared, in words.

    Returns:
        Pseudo-values (S, N) by arm; None if the metric has none. They are None for a user's function too, because it is
        not called again for the report.
    """
    if (known := METRICS.get(metric.name)) is None:
        return None
    arms = probabilities_by_arm(predictions, control)
    tables = known.tables(arms, predictions["labels"], predictions.get("folds"))
    return tables if tables and all(np.isfinite(table).all() for table in tables.values()) else None


def _score_rows(evaluation: Evaluation, arms: Mapping[str, str], metric: MetricWords | None = None) -> list[Row]:
    """Returns a row for each arm, for the ensemble of each arm's seeds, and for the probe, if there are any.

    Only the arms' rows have deviations over seeds.

    Args:
        evaluation: Result of the evaluation.
        arms: Displayed name of each arm.
        metric: The metric in words, if it is not accuracy; else None.
    """
    scored: dict[str, ArmScores | EnsembleScores | ProbeScores] = {
        shown: evaluation.arms[arm] for arm, shown in arms.items()
    }
    if (found := evaluation.ensembles) is not None:
        both = zip(arms.values(), (found.best, found.control), strict=True)
        scored |= {f"{shown}, ensemble": each for shown, each in both}
    if evaluation.probe is not None:
        scored["probe (frozen features, no training)"] = evaluation.probe
    rows: list[Row] = []
    for name, scores in scored.items():
        seeds = len(scores.seeds) if isinstance(scores, ArmScores) else getattr(scores, "seeds", None)
        row: dict[str, Any] = {"arm": name, "seeds": seeds, "accuracy_sd": getattr(scores, "accuracy_sd", None)}
        row |= {"accuracy": scores.accuracy, "nll": scores.nll, "ece": scores.ece}
        if metric is not None:
            row["metric"] = scores.value if isinstance(scores, ProbeScores) else scores.value(metric)
            row["metric_sd"] = scores.value(metric, "_sd") if isinstance(scores, ArmScores) else None
        rows.append(row)
    return rows


def _attention_rows(evaluation: Evaluation, arms: Mapping[str, str]) -> list[Row] | None:
    if evaluation.baselines is None:
        return None
    scored = {shown: evaluation.arms[arm].location for arm, shown in arms.items()}
    scored |= {shown: evaluation.baselines[name] for name, shown in BASELINES.items()}
    return [
        {"row": name, **{column: getattr(scores, key) for column, key in ATTENTION_COLUMNS.items()}}
        for name, scores in scored.items()
    ]


def _attention_changes(evaluation: Evaluation) -> list[Row]:
    """Returns the arms' differences in attention, in the order of the table's columns; empty if nothing was
    compared.
    """
    if not (found := evaluation.attention_differences):
        return []
    nothing = Difference(difference=None, low=None, high=None)
    return [found.get(key, nothing).content() for key in ATTENTION_COLUMNS.values()]


def _attention_note(evaluation: Evaluation, manifest: Manifest) -> str | None:
    """Returns a note on the masks; None if there is nothing to note."""
    said = []
    if manifest.get("masks_from") == "boxes":
        said.append("A mask here is the area of the picture's boxes; what else lies in one counts as object.")
    if count := evaluation.best.left_out:
        said.append(f"{count} test images without a usable mask are left out.")
    return " ".join(said) or None


def _curves(workspace: Workspace, retrained: Retraining, arms: Mapping[str, str]) -> Figure:
    """Draws the training accuracy by epoch of all runs that were tested.

    Args:
        workspace: The checkout.
        retrained: Result of the retraining.
        arms: Displayed name of each arm.
    """
    by_arm: dict[str, list[list[float]]] = {}
    for run in retrained.tested_runs():
        curves = read_sidecar(workspace.models / run.folder)["curves"]
        by_arm.setdefault(arms[run.arm], []).append([row["train/accuracy"] for row in curves])
    series = {name: (np.arange(1, len(rows[0]) + 1), np.array(rows)) for name, rows in by_arm.items()}
    return learning_curves(series, ylabel="training accuracy (%)")


def _calibration(predictions: Mapping[str, NDArray[Any]], arms: Mapping[str, str]) -> Figure:
    shown = {}
    for arm, name in arms.items():
        runs = [values for key, values in predictions.items() if key.rpartition("-seed")[0] == arm]
        bins = reliability_bins(np.concatenate(runs), np.tile(predictions["labels"], len(runs)))
        shown[name] = _merge_bins(bins, LEAST_IN_BIN * len(runs))
    return reliability_figure(shown)


def _merge_bins(bins: ReliabilityBins, least: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Merges neighbouring bins until each has enough images; a last one with fewer goes to the one before.

    Args:
        bins: The bins.
        least: Number of images that is enough.

    Returns:
        Mean confidence, accuracy and number of images of each merged bin.
    """
    starts, held = [0], 0
    for place, count in enumerate(bins.count):
        if held >= least:
            starts.append(place)
            held = 0
        held += int(count)
    if held < least and len(starts) > 1:
        starts.pop()
    counts = np.add.reduceat(bins.count, starts)
    confidence, accuracy = (
        np.add.reduceat(np.nan_to_num(means) * bins.count, starts) / counts
        for means in (bins.confidence, bins.accuracy)
    )
    return confidence, accuracy, counts


def _pictures(
    workspace: Workspace,
    images: ImageRows,
    masks: ImageRows | None,
    control: str,
    best: Values,
) -> list[tuple[str, Figure]]:
    """Draws the attention of each arm's first seed on the same test images; returns (caption, figure) pairs.

    Args:
        workspace: The checkout.
        images: Images of the prepared set, by id.
        masks: Masks of the prepared set, by id; None without masks.
        control: Name of the control.
        best: The best configuration, by dotted path; its threshold cuts the maps.
    """
    with np.load(workspace.results / "evaluate" / "attention.npz") as archive:
        ids, seeds = archive["ids"], seeds_by_arm(archive.files, control)
        maps = {name: archive[f"{arm}-seed{seeds[arm][0]}"] for name, arm in (("best", BEST), ("control", control))}
    threshold = float(best.get("regularizer.spatial_entropy.threshold", 0.0))
    figure = comparison_figure(images[ids], maps, masks=masks[ids] if masks is not None else None, threshold=threshold)
    return [("Test images; last block; the first seed of the best configuration and of its control.", figure)]


def _commit(workspace: Workspace) -> str | None:
    if trouble := git_problem(workspace.root):
        print(f"{trouble}. The report names no commit.", file=sys.stderr)
        return None
    return commit(workspace.root)

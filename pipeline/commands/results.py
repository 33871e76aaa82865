"""`sar-search results`: results of the last run in words, for the terminal."""

from pipeline.artifacts.best_config import BestConfig
from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.evaluation_words import describe_ensembles, describe_probe
from pipeline.artifacts.search_result import SearchSummary
from pipeline.artifacts.stage_results import BEST
from pipeline.console.format import config_name, format_count, wrap_text
from pipeline.errors import UserError
from pipeline.inputs.data_split import describe_faults
from pipeline.promotion.registered_version import describe_registry
from pipeline.state.looks import describe_look
from pipeline.state.searches import describe_running
from pipeline.workspace import Workspace


def _check_there(workspace: Workspace) -> None:
    """Checks that the pipeline has produced its results.

    Raises:
        UserError: it has not; the message says what to run or to wait for.
    """
    needed = ("evaluate/evaluation.json", "register/registered.json", "search/best.yaml", "search/summary.json")
    if all((workspace.results / name).exists() for name in needed):
        return
    if running := describe_running(workspace):
        raise UserError(f"no results yet: {running}")
    raise UserError(f"{workspace.results}: no results yet, or not all of them. Run `make repro`.")


def _fold_lines(evaluation: Evaluation, registered: str) -> list[str]:
    """Returns a line for each fold, and what is known of the registered network; empty without folds.

    Args:
        evaluation: the evaluation.
        registered: configuration of the registered network, in words.
    """
    if not (folds := evaluation.folds):
        return []
    lines, words = [""], evaluation.words
    for row in folds:
        interval = "" if row.low is None or row.high is None else f" ({words.format_interval(row.low, row.high)})"
        lines.append(f"fold {row.fold:<5} {words.format_difference(row.difference)}{interval}    {row.setting}")
    said = "The registered network was trained on all images, so none is left to test it"
    if found := evaluation.holdout:
        said = (
            "The registered network was trained on the images of all folds; its accuracy on the "
            f"{found.images:,} images kept apart is {found.accuracy:.4f}"
        )
    what = "The figures above rate searching and training: the networks of each fold were tested on its images alone."
    return [*lines, "", f"registered {registered}", wrap_text(f"{said}. {what}")]


def _spread(deviation: float | None) -> str:
    """Returns the standard deviation over seeds in words that the number of seeds follows; None: that number alone."""
    return "" if deviation is None else f"standard deviation {deviation:.4f} over "


def describe_results(workspace: Workspace) -> str:
    """Returns the results of the last run, and where their parts are, in lines.

    Args:
        workspace: the checkout.

    Raises:
        UserError: there are no results yet.
    """
    results = workspace.results
    _check_there(workspace)
    evaluation = Evaluation.read(results / "evaluate")
    found, summary = BestConfig.read(results / "search"), SearchSummary.read(results / "search")
    lines, ensembles = [wrap_text(evaluation.verdict), ""], evaluation.ensembles
    metric = evaluation.other_metric
    width = max(10, *(len(f"{arm} of each fold") for arm in (BEST, evaluation.control))) if evaluation.folds else 10
    for arm, config in ((BEST, found.best), (evaluation.control, found.control(evaluation.control))):
        scores = evaluation.arms[arm]
        count = format_count(len(scores.seeds), "seed")
        together = (ensembles.best if arm == BEST else ensembles.control) if ensembles else None
        # In folds every search has chosen a configuration of its own, so none belongs to the figures.
        name, setting = (f"{arm} of each fold", "") if evaluation.folds else (arm, f"    {config_name(config)}")
        lines.append(
            f"{name:<{width}} test accuracy {scores.accuracy:.4f} ({_spread(scores.accuracy_sd)}{count})"
            + (f", {together.accuracy:.4f} as one ensemble" if together else "")
            + setting
        )
        if metric is not None:
            lines.append(
                f"{'':<{width}} test {metric.label} {scores.value(metric):.4f} "
                f"({_spread(scores.value(metric, '_sd'))}{count})"
                + (f", {together.value(metric):.4f} as one ensemble" if together else "")
            )
    if probe := evaluation.probe:
        by = "" if metric is None else f", test {metric.label} {probe.value:.4f}"
        lines.append(f"{'probe':<{width}} test accuracy {probe.accuracy:.4f}{by}    frozen features, no training")
    if said := describe_probe(evaluation):
        lines += ["", wrap_text(said)]
    if ensembles:
        lines += ["", wrap_text(describe_ensembles(ensembles))]
    lines += _fold_lines(evaluation, config_name(found.best))
    lines += [
        "",
        f"The control is {summary.against}.",
        describe_look(evaluation.look or 1),
        *([wrap_text(f"{faults} The report says more.")] if (faults := describe_faults(workspace)) else []),
        f"report     {results / 'report' / 'index.html'}",
        f"trials     {results / 'search' / 'trials.csv'}",
        f"weights    {workspace.models}",
        f"registry   {describe_registry(workspace)}",
        "MLflow     `make ui`",
    ]
    return "\n".join(lines)

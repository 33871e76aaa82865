"""search: space + split -> `results/search/` (see `pipeline.tune.selection.result_files`). Run by `dvc repro search`.

With folds, a further search runs on the images outside of each fold. Its results are the same files in
`results/search/folds/<number>/`. `results/search/folds/searches.json` lists these searches; the list is empty without
folds. The searches run one after another, on the same workers.

The working state lies under `state/searches/`, by fingerprint. Run again after an interruption, the stage resumes
from there.
"""

import os
import shutil
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import replace

from rich.console import Console

from pipeline.artifacts.best_config import BestConfig, FoldSearch, FoldSearches
from pipeline.artifacts.search_result import SearchSummary
from pipeline.cluster.runtime import shared_ray
from pipeline.console.format import fit_lines
from pipeline.data.prepared.prepared import open_prepared
from pipeline.entry import ANNOUNCED, new_lines, run_stage
from pipeline.figures.pareto import write_pareto_figure
from pipeline.inputs.guides import guided_configs, train_guides
from pipeline.inputs.procedure import Part
from pipeline.preflight.estimate import START_S, describe_seconds, remaining_work
from pipeline.preflight.plan import Plan, make_plan
from pipeline.preflight.power import describe_power, make_forecast, run_cost
from pipeline.preflight.search_budget import max_epochs
from pipeline.preflight.total_estimate import describe_rest, estimate_rest
from pipeline.score.metrics.chosen_metric import chosen_metric
from pipeline.stages.search.mlflow_callback import MlflowCallback, search_variables
from pipeline.stages.search.search_progress import SearchProgress
from pipeline.state.search_summary import describe_fold_summary, describe_start, describe_summary
from pipeline.tracking.hooks import notify_on_exit
from pipeline.tune.journal.records import JOURNAL, VAL_ACCURACY, TrialRecord, read_history
from pipeline.tune.objectives.objectives import objectives_from_params
from pipeline.tune.ray.runner import run_search
from pipeline.tune.run_counts import max_confirmation_runs, max_runs
from pipeline.tune.selection.confirm import FIRST_SEED
from pipeline.tune.selection.result_files import write_results
from pipeline.tune.task import SearchTask
from pipeline.workspace import FOLDS, Workspace


def main(workspace: Workspace) -> None:
    """Plans the searches, runs or resumes them, and writes their results."""
    plan = make_plan(workspace)
    plans = plan.parts()
    tasks = [each.task() for each in plans]
    compared = workspace.own is not None  # then the command has printed one plan of all methods
    histories = [read_history(task.folder / JOURNAL) for task in tasks]
    work = [remaining_work(each, history) for each, history in zip(plans, histories, strict=True)]
    begin = [bool(left.trials + left.full_runs) for left in work]
    if not compared:
        _print_new(plan.describe())
    for task, begins in zip(tasks, begin, strict=True):
        _print_new(describe_start(task, workspace.searches, compared=compared, nothing_left=not begins))
    expected, words = estimate_rest(plans, histories, recent=True), ""
    if not compared:
        _print_new("\n".join(describe_rest(expected, len(plans))))
    if expected is not None:
        begins_in = f"{START_S[0]:.0f} to {START_S[1]:.0f} s, or longer on a busy machine"
        print(f"starting Ray; the first epochs come when its workers have begun, in {begins_in}", flush=True)
        # Searches of folds follow each other, each on almost as many images.
        low, high = (seconds / expected.searches for seconds in expected.seconds)
        words = "" if expected.busy else describe_seconds((low, high))
    shutil.rmtree(workspace.results / "search" / FOLDS, ignore_errors=True)
    found = []
    with shared_ray() if len(plans) > 1 else nullcontext():
        for each, task, begins, history in zip(plans, tasks, begin, histories, strict=True):
            found.append(_search(each, task, words, history.trials.values(), quiet=not begins))
    FoldSearches(folds=[listed for _, listed in found if listed.fold]).write(workspace.results / "search" / FOLDS)
    if compared:
        return
    prepared, split, summary = open_prepared(workspace.prepared), _part(plans[0]).split, found[0][0]
    tested = sum(map(len, split.tested))
    forecast, cost = make_forecast(plan.params, summary.forecast, tested), run_cost(plan.params, summary)
    metric, masks = chosen_metric(plan.params).words, prepared.masks is not None
    # Under `sar-search repro` the table has been printed before the search, so the row of retrain.seeds suffices.
    brief = ANNOUNCED in os.environ
    for line in describe_power(plan.params, forecast, metric, masks=masks, cost=cost, brief=brief):
        print(fit_lines(line), flush=True)  # also the lines that head the table, without which its row says nothing


def _print_new(text: str) -> None:
    """Prints those of the lines that `sar-search repro` has not printed before this stage."""
    for line in new_lines(text):
        print(fit_lines(line), flush=True)


def _search(
    plan: Plan, task: SearchTask, expected: str, journaled: Collection[TrialRecord], *, quiet: bool = False
) -> tuple[SearchSummary, FoldSearch]:
    """Runs or resumes one search and writes its results.

    Args:
        plan: The plan of the search.
        task: The search.
        expected: How long it is expected to take, in words; empty if that is unknown.
        journaled: Its runs of earlier sessions.
        quiet: Whether no progress is printed, as of a search that has nothing left to train.

    Returns:
        The search's summary, and its entry in the list of the folds' searches.
    """
    workspace, params, part = plan.workspace, plan.params, _part(plan)
    task = _with_guides(plan, task)
    total, again = max_runs(plan.params, plan.space), max_confirmation_runs(plan.params, plan.space)
    longest = max(map(len, [*plan.space.controls, "t0000"]))
    longest += len(f"-seed{params.base.seed + FIRST_SEED + 1}") if again else 0
    budget = None if params.search.budget.full_trainings is None else max_epochs(params, plan.space)
    objectives = objectives_from_params(task.params)
    variables = search_variables(plan, task)
    if part.folds and not quiet:
        print(f"{part.name}: search {task.folder.name[:8]}", flush=True)
    console = Console(quiet=True) if quiet else None
    with (
        notify_on_exit(params.tracking, variables, workspace.root),
        MlflowCallback(plan, task) as tracked,
        SearchProgress(
            total,
            params.train.epochs,
            budget=budget,
            confirmations=again,
            objectives=objectives,
            part=part.name,
            name_width=longest,
            expected=expected,
            journaled=journaled,
            console=console,
        ) as progress,
    ):
        outcome = run_search(task, [tracked, progress])
        if not part.number:
            print("writing the results", flush=True)
        folder = part.folder(workspace.results / "search")
        best, summary = write_results(task, outcome, folder)
        BestConfig.read(folder).write(task.folder)  # for `status`; results/ may come to be of another search
        write_pareto_figure(folder, summary)
        controls = [trial for trial in outcome.trials if trial.control]
        controls.sort(key=lambda trial: trial.id != params.retrain.control)
        tracked.finish(best, controls, summary, folder)
        variables |= {
            "best": best.id,
            "best_accuracy": f"{best.metric(VAL_ACCURACY):.4f}",
            "best_value": f"{best.metric(objectives.first):.4f}",
            "mlflow_run": tracked.run_id,
        }
    where = str(folder.relative_to(workspace.root))
    if part.number:
        print(describe_fold_summary(summary, best.values, part.name, where))
    else:
        print(describe_summary(summary, where, planned=again))
    listed = FoldSearch(fold=part.number, fingerprint=task.fingerprint, trial=best.id, best=best.values)
    return summary, listed


def _with_guides(plan: Plan, task: SearchTask) -> SearchTask:
    """Returns the task with the guides that its configurations need, trained first if they do not exist."""
    guides = train_guides(plan.workspace, guided_configs(task.params, plan.space), split=task.split, role="train")
    for line in guides.said:
        print(line, flush=True)
    weights = {**task.weights, **guides.weights}
    return replace(task, weights=weights, guide_seconds=(guides.seconds, guides.gpu_seconds))


def _part(plan: Plan) -> Part:
    """Returns the part of the procedure to which a plan belongs."""
    assert plan.part is not None
    return plan.part


if __name__ == "__main__":
    run_stage("search", main)

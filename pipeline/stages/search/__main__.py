"""search: space + split -> `results/search/` (see `pipeline.tune.selection.result_files`). Run by `dvc repro search`.

Its working state lies under `state/searches/`, by fingerprint: run again after any interruption, it goes on from there.
"""

from pipeline.artifacts.pareto_front import write_pareto_figure
from pipeline.data.prepared.prepared import open_prepared
from pipeline.data.splits.split import read_split
from pipeline.entry import run_stage
from pipeline.preflight.estimate import describe_estimate, remaining_work
from pipeline.preflight.plan import make_plan
from pipeline.preflight.power import describe_power, make_forecast, run_cost
from pipeline.preflight.search_budget import max_epochs
from pipeline.stages.search.mlflow_callback import MlflowCallback, search_variables
from pipeline.stages.search.search_progress import SearchProgress
from pipeline.state.search_summary import describe_start, describe_summary
from pipeline.tracking.hooks import notify_on_exit
from pipeline.tune.journal.records import JOURNAL, OBJECTIVE, read_history
from pipeline.tune.objectives.objectives import objectives_from_params
from pipeline.tune.ray.runner import run_search
from pipeline.tune.run_counts import max_runs
from pipeline.tune.selection.result_files import write_results
from pipeline.workspace import Workspace


def main(workspace: Workspace) -> None:
    """Plan, run or go on with the search, and write what it found."""
    plan = make_plan(workspace)
    task = plan.task()
    print(plan.describe())
    print(describe_start(task, workspace.searches))
    history = read_history(task.folder / JOURNAL)
    for line in describe_estimate(plan, history, recent=True):
        print(line, flush=True)
    left = remaining_work(plan, history)
    if left.trials + left.full_runs:
        print("starting Ray; the first epochs come when its workers have begun", flush=True)
    total, params = max_runs(plan.params, plan.space), plan.params
    budget = None if params.search.budget.full_trainings is None else max_epochs(params, plan.space)
    objectives = objectives_from_params(task.params)
    variables = search_variables(plan, task)
    with (
        notify_on_exit(params.tracking, variables, workspace.root),
        MlflowCallback(plan, task) as tracked,
        SearchProgress(total, params.train.epochs, budget=budget, objectives=objectives) as progress,
    ):
        outcome = run_search(task, [tracked, progress])
        print("writing the results", flush=True)
        folder = workspace.results / "search"
        best, summary = write_results(task, outcome, folder)
        write_pareto_figure(folder, summary)
        controls = [trial for trial in outcome.trials if trial.control]
        controls.sort(key=lambda trial: trial.id != params.retrain.control)
        tracked.finish(best, controls, summary, folder)
        variables |= {"best": best.id, "best_accuracy": f"{best.metric(OBJECTIVE):.4f}", "mlflow_run": tracked.run_id}
    print(describe_summary(summary))
    prepared = open_prepared(workspace.prepared)
    test = read_split(workspace.split, data_hash=prepared.data_hash).test
    forecast, cost = make_forecast(params, summary["forecast"], len(test)), run_cost(params, summary)
    print("\n".join(describe_power(params, forecast, masks=prepared.masks is not None, cost=cost)))


if __name__ == "__main__":
    run_stage("search", main)

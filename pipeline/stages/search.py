"""search: space + split -> `results/search/` (see `pipeline.tune.results`). Run by `dvc repro search`.

Its working state lies under `state/searches/`, by fingerprint: run again after any interruption, it goes on from there.
"""

from pipeline.entry import run_stage
from pipeline.ops.plan import make_plan
from pipeline.ops.progress import SearchProgress
from pipeline.ops.tracking import TrackedSearch
from pipeline.tune.results import write_results
from pipeline.tune.runner import run_search
from pipeline.workspace import Workspace


def main(workspace: Workspace) -> None:
    """Plan, run or go on with the search, and write what it found."""
    plan = make_plan(workspace)
    task = plan.task()
    print(plan.describe())
    total = plan.params.search.trials + len(plan.space.controls)
    with TrackedSearch(plan, task) as tracked, SearchProgress(total, plan.params.train.epochs) as progress:
        outcome = run_search(task, [tracked, progress])
        folder = workspace.results / "search"
        best, summary = write_results(task, outcome, folder)
        control = next(trial for trial in outcome.trials if trial.id == plan.params.retrain.control)
        tracked.finish(best, control, summary, folder)
    print(
        f"best of {plan.params.search.trials}: {best.id}, val/accuracy {best.metric('val/accuracy'):.4f} "
        f"({control.id} {control.metric('val/accuracy'):.4f}); {summary['epochs']['spent']} epochs trained, "
        f"{summary['epochs']['saved_by_stopping']} saved by stopping early -> results/search"
    )


if __name__ == "__main__":
    run_stage("search", main)

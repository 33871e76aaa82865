"""report: all results -> `results/report/index.html`, a page for people. Run by `dvc repro report`.

The page is also attached to the search's run in MLflow, or to the evaluation's run if the tracking store does not
have the search's.
"""

from pipeline.artifacts.agreement import check_agreement
from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.stage_results import search_run
from pipeline.config import load_params
from pipeline.entry import run_stage
from pipeline.figures.report import render_report
from pipeline.files.atomic import write_whole
from pipeline.stages.report.content import gather_report
from pipeline.tracking.single_run import attach, find_first
from pipeline.tracking.store import prepare_store, resolve_store
from pipeline.workspace import Workspace


def main(workspace: Workspace) -> None:
    """Gathers the results, writes the page and logs it."""
    params = load_params(workspace.params)
    evaluation = Evaluation.read(workspace.results / "evaluate")
    check_agreement(workspace, params, evaluation.fingerprint)
    page = render_report(gather_report(workspace, params))
    store = resolve_store(params.tracking.uri, workspace.anchor)
    prepare_store(store)
    path = workspace.results / "report" / "index.html"
    write_whole(path, page)
    runs = [search_run(workspace.state, evaluation.fingerprint), evaluation.mlflow_run]
    run = find_first(store, [each for each in runs if each])
    if run is None:
        print(
            f"{store.shown} has no run of this search or evaluation to attach the page to; `dvc repro -sf search` logs "
            "the search again"
        )
    else:
        attach(store, run, path, folder="report")
    print(f"report -> {path.relative_to(workspace.root)}")


if __name__ == "__main__":
    run_stage("report", main)

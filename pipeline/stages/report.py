"""report: all results -> `results/report/index.html`, the page a person reads. Run by `dvc repro report`."""

from pipeline.config import load_params
from pipeline.entry import run_stage
from pipeline.figures.report import render_report
from pipeline.ops.reporting import gather_report
from pipeline.workspace import Workspace


def main(workspace: Workspace) -> None:
    """Gather the results and write the page."""
    page = render_report(gather_report(workspace, load_params(workspace.params)))
    path = workspace.results / "report" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    print(f"report -> {path.relative_to(workspace.root)}")


if __name__ == "__main__":
    run_stage("report", main)

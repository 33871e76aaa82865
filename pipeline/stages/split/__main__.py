"""split: ids of the prepared images -> `data/split.json`: train, val, test. Run by `dvc repro split`.

`data/split_report.json` lists images by role and class, groups, and copies of one image in several roles.
"""

from pipeline.config import load_params
from pipeline.data.prepared.prepared import open_prepared
from pipeline.data.splits.split import write_split
from pipeline.entry import run_stage
from pipeline.inputs.data_split import REPORT, group_by_content, prepare_split
from pipeline.stages.split.split_report import check_no_duplicates, report_lines, split_report, write_report
from pipeline.workspace import Workspace


def main(workspace: Workspace) -> None:
    """Assigns the prepared images to roles, writes the split and its report, and prints what is unusual about it."""
    params = load_params(workspace.params)
    prepared = open_prepared(workspace.prepared)
    inputs = prepare_split(workspace, params, prepared)
    report = split_report(inputs, prepared, params, group_by_content(workspace, params))
    check_no_duplicates(report)
    write_split(inputs.split, workspace.split, data_hash=prepared.data_hash, seed=params.base.seed)
    write_report(report, workspace.split.with_name(REPORT))
    for line in report_lines(report):
        print(line)


if __name__ == "__main__":
    run_stage("split", main)

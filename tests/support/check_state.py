"""What tests of `sar-search check` begin and ask."""

from pipeline.commands.check import run_check
from pipeline.preflight.plan import make_plan
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import (
    JOURNAL,
    TrialRecord,
)
from pipeline.tune.task import SearchTask
from pipeline.workspace import Workspace


def begun(workspace: Workspace, *, by_other_code: bool = True) -> SearchTask:
    """A search with one epoch trained, begun by another version of this code."""
    task = make_plan(workspace).task()
    code = {"pipeline/tune/ray/trainable.py": "0" * 8} if by_other_code else task.header["code"]
    with Journal(task.folder / JOURNAL, {**task.header, "code": code}) as journal:
        journal.start(TrialRecord("t0000", 0, {}))
        journal.report("t0000", 1, {"val/accuracy": 0.5, "seconds": 1.0})
    return task


def told(workspace: Workspace, **answer: bool) -> str:
    return "\n".join(run_check(workspace, **answer))

"""Check whether DVC would run any part of the search or of retraining, or leaves all of it as it is."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.best_config import BestConfig, read_fold_searches
from pipeline.artifacts.search_result import SearchSummary
from pipeline.errors import UserError
from pipeline.tune.journal.records import ASKED_TO_FINISH
from pipeline.tune.task import SearchTask
from pipeline.workspace import part_folder

SEARCH = ("prepare", "split", "search")
"""Stages that must be up to date for the search to be left as it is."""

GO_ON = "`sar-search repro --single-item --force search` and then `make repro` go on with the rest"
"""Advice for a search that its user has ended early."""


@dataclass(frozen=True)
class FinishedSearch:
    """A search whose results are up to date.

    Attributes:
        reason: How the search ended, in words.
        retrained: Whether retraining is up to date too.
    """

    reason: str
    retrained: bool


def finished_search(task: SearchTask, results: Path) -> FinishedSearch | None:
    """Returns the search if a run would leave it and its results as they are.

    Args:
        task: The search that the parameters ask for.
        results: The folder results/.

    Returns:
        The finished search; None if a run would change something, or if DVC cannot tell.
    """
    try:
        if BestConfig.read(results / "search").fingerprint != task.fingerprint:
            return None
        folders = [part_folder(results / "search", number) for number in (0, *read_fold_searches(results))]
        summaries = [SearchSummary.read(folder) for folder in folders]
    except UserError:
        return None
    left_alone = stages_up_to_date(results.parent, (*SEARCH, "retrain"))
    if not left_alone.issuperset(SEARCH):
        return None
    # Of several searches, the first one that was ended early is reported.
    summary = next((each for each in summaries if each.stopped_by), summaries[0])
    how, stopped = "has ended", summary.stopped_by
    if stopped:
        asked = summary.trials_asked
        how = f"was ended by {stopped} with {sum(summary.trials.values())}{f' of {asked}' if asked else ''} trials"
        how += f"; {GO_ON}" if stopped == ASKED_TO_FINISH else ""
    return FinishedSearch(how, "retrain" in left_alone)


def stages_up_to_date(root: Path, stages: tuple[str, ...]) -> frozenset[str]:
    """Returns the stages that DVC would not run, provided that it does not run earlier ones; none if DVC cannot tell.

    Args:
        root: The checkout.
        stages: Stages that are asked about.
    """
    command = [sys.executable, "-m", "dvc", "status", "--json", *stages]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    try:
        changed = json.loads(done.stdout) if done.returncode == 0 else None
    except ValueError:
        changed = None
    return frozenset(stages) - set(changed) if isinstance(changed, dict) else frozenset()

"""Health of a search on disk, from its journal and the files beside it. Needs no parameters, Ray or torch."""

from pipeline.artifacts.search_result import Finding
from pipeline.config import Content
from pipeline.config.schema.search_section import SchedulerParams
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords
from pipeline.state.searches import SearchState
from pipeline.tune.journal.image_scores import read_scores
from pipeline.tune.journal.records import COMPLETE, METHOD, TrialRecord
from pipeline.tune.schedulers.factory import make_scheduler
from pipeline.tune.schedulers.rungs import resolve_grace_period
from pipeline.tune.selection.health import RUNG_TRIALS, examine_search
from pipeline.tune.space import SearchSpace


def examine_state(
    search: SearchState, *, best: TrialRecord | None = None, words: MetricWords = ACCURACY_WORDS
) -> list[Finding] | None:
    """Examines the health of a search that has ended or has enough completed trials.

    Args:
        search: Search on disk.
        best: The chosen trial; None: the best one by the first objective.
        words: Words for the first objective.

    Returns:
        The findings; None if too few trials have completed, or if the journal does not contain the space and scheduler.
    """
    completed = sum(trial.study == METHOD and trial.state == COMPLETE for trial in search.trials)
    ended = search.runner() is None and not search.open_trials
    if not completed or not (ended or completed >= RUNG_TRIALS):
        return None
    content: Content = search.history.header.get("content", {})
    try:
        scheduler, epochs = SchedulerParams(**content["scheduler"]), int(content["train"]["epochs"])
        parameters, controls = content["space"]["parameters"], content["space"]["controls"]
    except (KeyError, TypeError, ValueError):  # of an earlier version, whose scheduler may not exist any more
        return None
    space = SearchSpace(str(search.history.header.get("space_file", "the space")), parameters, controls)
    rungs = make_scheduler(scheduler, epochs, resolve_grace_period(scheduler, content, space)).rung_epochs
    scores = read_scores(search.folder)
    return examine_search(
        search.trials,
        space,
        rungs,
        best=best or search.best,
        objectives=search.objectives,
        scores=scores,
        words=words,
    )

"""Which checkpoints of a search's trials are kept."""

from collections.abc import Callable, Iterable, Sequence

from pipeline.cluster.storage import remove_best_effort
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import TrialRecord
from pipeline.tune.selection.candidates import ChoiceRule, rank_trials, select_candidates


class StoredCheckpoints:
    """Removes the checkpoints of trials that wait with little prospect, or have ended and are not among the best.

    Kept are those of controls, of runs at work, of what may be confirmed, and so many more: of the trials that wait
    first, those next to go on first, then of the best that have ended.

    Args:
        journal: Where it is noted that a trial which waits has lost its checkpoint.
        rule: By which ended trials are ranked.
        most: How many more are kept, `search.keep_checkpoints`.
    """

    def __init__(self, journal: Journal, rule: ChoiceRule, most: int) -> None:
        self._journal, self._rule, self._most = journal, rule, most
        self._ended: dict[str, TrialRecord] = {}

    def prune(
        self,
        ended: Iterable[TrialRecord],
        waiting: Sequence[TrialRecord],
        is_requested: Callable[[TrialRecord], bool],
    ) -> None:
        """Remove what need not be kept any more.

        Args:
            ended: What has ended now, controls not among them.
            waiting: All that wait with a checkpoint, those next to go on first.
            is_requested: Whether a trial is asked for now.
        """
        for record in waiting[self._most :]:
            self._journal.drop(record.id)
        remove_best_effort([record.checkpoint for record in waiting[self._most :] if record.checkpoint])
        there = self._ended | {record.id: record for record in ended if record.checkpoint}
        trials = [record for record in there.values() if record.study is not None]
        best = rank_trials(trials, self._rule)[: max(0, self._most - len(waiting))]
        for study in dict.fromkeys(record.study for record in trials):
            of_study = [record for record in trials if record.study == study and is_requested(record)]
            best += select_candidates(of_study, self._rule, self._journal.scores)
        self._ended = {record.id: record for record in best}
        remove_best_effort([r.checkpoint for r in there.values() if r.id not in self._ended and r.checkpoint])

"""Removal of checkpoints of a search's trials that are no longer needed."""

from collections.abc import Callable, Iterable, Sequence

from pipeline.cluster.storage import remove_best_effort
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import TrialRecord
from pipeline.tune.selection.candidates import ChoiceRule, rank_trials, select_candidates


class StoredCheckpoints:
    """Removes the checkpoints of trials that wait with little prospect, or have ended and are not among the best.

    The checkpoints of controls, of running trials and of candidates are kept, and a limited number of further
    ones: first those of waiting trials that are next to go on, then those of the best trials that have ended.

    Args:
        journal: Journal that records when a waiting trial loses its checkpoint.
        rule: Rule that ranks ended trials.
        most: Number of further checkpoints, `search.keep_checkpoints`.
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
        """Removes the checkpoints that are no longer needed.

        Args:
            ended: Trials that have just ended, without controls.
            waiting: All waiting trials with a checkpoint, those next to go on first.
            is_requested: Whether the current parameters ask for a trial.
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

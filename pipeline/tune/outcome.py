"""What a search has come to: trials, studies, what it has spent, why it ended. Imports Optuna, and no Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.tune.journal.image_scores import ImageScores
from pipeline.tune.journal.records import METHOD, TrialRecord
from pipeline.tune.study.study import StudyAdapter


@dataclass(frozen=True)
class Spent:
    """seconds: with a driver running, all sessions together. gpu_seconds: of trials, times their share of a GPU."""

    seconds: float
    gpu_seconds: float


@dataclass(frozen=True)
class SearchOutcome:
    """What a search has come to.

    trials: controls, the studies' trials, confirmations; those that were asked for. studies: by name. rung_epochs: the
    rungs' epochs. stopped: why it ended before it had tried all that was asked for, or None. scores: what each
    validation image counts for, by run.
    """

    trials: Sequence[TrialRecord]
    studies: Mapping[str, StudyAdapter]
    rung_epochs: Sequence[int]
    spent: Spent
    stopped: str | None = None
    scores: ImageScores = field(default_factory=ImageScores)

    @property
    def adapter(self) -> StudyAdapter:
        """The method's own study."""
        return self.studies[METHOD]

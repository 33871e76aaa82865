"""Outcome of a search: trials, studies, time spent, reason of its end. Imports Optuna, and no Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.tune.journal.image_scores import ImageScores
from pipeline.tune.journal.records import METHOD, TrialRecord
from pipeline.tune.study.study import StudyAdapter


@dataclass(frozen=True)
class Spent:
    """Time that a search has spent.

    Attributes:
        seconds: Seconds in which a driver was running, over all sessions.
        gpu_seconds: Seconds of trials times their share of a GPU.
    """

    seconds: float
    gpu_seconds: float


@dataclass(frozen=True)
class SearchOutcome:
    """Outcome of a search.

    Attributes:
        trials: The requested controls, trials of studies, and confirmations.
        studies: Studies by name.
        rung_epochs: Epochs of the rungs.
        spent: Time spent.
        stopped: Why the search ended before every requested trial was tried, in words; None if all were tried.
        scores: Scores of the validation images, by run.
    """

    trials: Sequence[TrialRecord]
    studies: Mapping[str, StudyAdapter]
    rung_epochs: Sequence[int]
    spent: Spent
    stopped: str | None = None
    scores: ImageScores = field(default_factory=ImageScores)

    @property
    def adapter(self) -> StudyAdapter:
        """Study of the method."""
        return self.studies[METHOD]

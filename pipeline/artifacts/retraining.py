"""What `retrain` leaves in results/retrain: the networks of both arms, and how many seeds there are, and why."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from pipeline.artifacts.stage_results import Artifact, Number, Record


class RetrainedRun(Record):
    """A network. folder: of its weights, below models/."""

    arm: str
    seed: int
    folder: str
    mlflow_run: str


class ChosenSeeds(Artifact):
    """seeds.json: the number of seeds that was asked for, what it comes to, and why."""

    FILE: ClassVar[str] = "seeds.json"
    MADE_BY: ClassVar[str] = "retrain"

    asked: int | str
    chosen: int
    why: str


class FoldRetraining(Record):
    """The networks that were trained outside of a fold. fingerprint, setting, against: of its search; its best
    configuration and its control, in words.
    """

    fold: int
    fingerprint: str
    setting: str
    against: str
    runs: Sequence[RetrainedRun]


class Retraining(Artifact):
    """retrain.json. method: what is compared with the control, in words. setting, against: as of a fold, of all images.
    to_register: folder of the network that is registered. seconds: of training; guide_seconds: of guides, 0 of none.
    usage: as of `pipeline.artifacts.search_result.SpentTime`.
    """

    FILE: ClassVar[str] = "retrain.json"
    MADE_BY: ClassVar[str] = "retrain"

    fingerprint: str
    control: str
    method: str = "the best configuration"
    setting: str = ""
    against: str = ""
    runs: Sequence[RetrainedRun]
    seconds: Number
    to_register: str
    seeds: ChosenSeeds | None = None
    usage: Mapping[str, Number] = Field({})
    guide_seconds: Number = 0
    folds: Sequence[FoldRetraining] = ()

    @property
    def fold_fingerprints(self) -> Mapping[int, str]:
        """Of the searches outside of the folds, by the fold's number."""
        return {each.fold: each.fingerprint for each in self.folds}

    def tested_runs(self) -> Iterator[RetrainedRun]:
        """The runs of both arms, of all folds where there are some."""
        yield from [run for fold in self.folds for run in fold.runs] if self.folds else self.runs

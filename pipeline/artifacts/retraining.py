"""Results of `retrain` in results/retrain: the networks of both arms, and the number of seeds with its reason."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from pipeline.artifacts.stage_results import Artifact, Number, Record


class RetrainedRun(Record):
    """A retrained network.

    Attributes:
        arm: Name of the arm.
        seed: Seed of the run.
        folder: Folder of its weights, relative to models/.
        mlflow_run: Id of its run in MLflow; "" if there is none.
    """

    arm: str
    seed: int
    folder: str
    mlflow_run: str


class ChosenSeeds(Artifact):
    """Content of seeds.json: how many seeds the parameters ask for and how many are trained.

    Attributes:
        asked: Value of `retrain.seeds`.
        chosen: Number of seeds.
        why: Reason in words.
    """

    FILE: ClassVar[str] = "seeds.json"
    MADE_BY: ClassVar[str] = "retrain"

    asked: int | str
    chosen: int
    why: str


class FoldRetraining(Record):
    """Retrained networks of one fold: trained on the images of all other folds, to be tested on those of this one.

    Attributes:
        fold: Number of the fold, from 1.
        fingerprint: Fingerprint of the search on the images of the other folds.
        setting: Best configuration of that search, in words.
        against: Control that it is compared with, in words.
        runs: Networks of both arms, one for each seed.
    """

    fold: int
    fingerprint: str
    setting: str
    against: str
    runs: Sequence[RetrainedRun]


class Retraining(Artifact):
    """Content of retrain.json.

    Attributes:
        fingerprint: Fingerprint of the search.
        control: Name of the control.
        method: Methods that are compared with the control, in words.
        setting: The best configuration of all images, in words.
        against: Its control, in words.
        runs: Networks of both arms, of all images.
        seconds: Seconds of training, of all runs.
        to_register: Folder of the network that is registered, relative to models/.
        seeds: Number of seeds and its reason; None in results of earlier versions.
        usage: Use of the machine by name, as in `pipeline.artifacts.search_result.SpentTime`.
        guide_seconds: Seconds of training guides; 0 without a guide.
        folds: Networks outside of each fold; empty without folds.
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
        """Fingerprints of the searches outside of the folds, by the number of the fold."""
        return {each.fold: each.fingerprint for each in self.folds}

    def tested_runs(self) -> Iterator[RetrainedRun]:
        """Yields the runs of both arms that are tested: those of all folds if there are folds, else those of all
        images.
        """
        yield from [run for fold in self.folds for run in fold.runs] if self.folds else self.runs

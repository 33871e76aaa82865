"""Evaluations that outlive `results/`: what each search's networks got right on which test images, for `compare`.

`results/evaluate/` holds the last search's alone, and DVC empties it. So each is kept under
`state/evaluations/<first 16 digits of the search's fingerprint>/`, the newest of a search in place of an older one:

    evaluation.json   what was evaluated, on what, and the seeds in the order of the tables' rows
    correct.npz       ids and labels of the test images; `best` and `control`, (seeds, images), true where one was
                      right; of an evaluation by another metric than accuracy, `best_scores` and `control_scores` too,
                      the pseudo-values of its images; with folds, the number of each image's
"""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, ConfigDict, Field, SkipValidation

from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.retraining import Retraining
from pipeline.artifacts.stage_results import BEST, Number, Record
from pipeline.errors import UserError, single_item_command
from pipeline.files.atomic import replace_folder
from pipeline.provenance.code_hash import content_hash
from pipeline.score.metrics.wording import MetricWords, words_of

FOLDER = "evaluations"


Table = Annotated[NDArray[Any], SkipValidation, Field(exclude=True)]
MaybeTable = Annotated[NDArray[Any] | None, SkipValidation, Field(exclude=True)]
"""An array, which stands in correct.npz and not in evaluation.json."""


class StoredEvaluation(Record):
    """One search's evaluation.

    method, setting, control, against: in words. test: hash of test images and their labels. look: which look at them
    it was. time: seconds since 1970. best, control_correct: (seeds, images). seeds, control_seeds: of their rows; None
    in an evaluation that an earlier version kept. folds: the number of each image's fold; None without folds. metric:
    in words (`pipeline.score.metrics.wording`), where it is not accuracy, with the hash of a user's function, and
    scores, control_scores: its pseudo-values, (seeds, images), None where it has none.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    fingerprint: str
    method: str
    setting: str
    control: str
    against: str
    data_hash: str
    test: str
    look: int = Field(validation_alias=AliasChoices("look", "test_reads"))
    time: Number
    seeds: list[int] | None = None
    control_seeds: list[int] | None = None
    metric: MetricWords | None = None
    metric_hash: str = ""
    best: Table
    control_correct: Table
    scores: MaybeTable = None
    control_scores: MaybeTable = None
    folds: MaybeTable = None

    @property
    def metric_name(self) -> str:
        """As `evaluate.metric` has it."""
        return words_of(self.metric).name

    @property
    def id(self) -> str:
        """As `sar-search status` calls the search."""
        return self.fingerprint[:8]


def correct_by_arm(predictions: Mapping[str, NDArray[Any]], control: str) -> dict[str, NDArray[np.bool_]]:
    """What each seed got right, (S, N) by arm, in the order of `seeds_by_arm`.

    predictions: as of predictions.npz, probabilities by ARM-seedN.
    """
    labels = predictions["labels"]
    return {
        arm: np.stack([predictions[f"{arm}-seed{seed}"].argmax(1) == labels for seed in seeds])
        for arm, seeds in seeds_by_arm(predictions, control).items()
    }


def probabilities_by_arm(predictions: Mapping[str, NDArray[Any]], control: str) -> dict[str, NDArray[np.float32]]:
    """Probabilities of each seed, (S, N, C) by arm, in the order of `seeds_by_arm`. predictions: as above."""
    return {
        arm: np.stack([predictions[f"{arm}-seed{seed}"] for seed in seeds])
        for arm, seeds in seeds_by_arm(predictions, control).items()
    }


def seeds_by_arm(names: Iterable[str], control: str) -> dict[str, list[int]]:
    """The seeds of both arms, rising, from the names of their runs, ARM-seedN; other names are passed over."""
    parts = [name.rpartition("-seed") for name in names]
    return {arm: sorted(int(seed) for of, _, seed in parts if of == arm) for arm in (BEST, control)}


def has_shared_seeds(names: Iterable[str], control: str) -> bool:
    """Whether seed s of one arm is seed s of the other, so that their tables are compared row by row."""
    seeds = seeds_by_arm(names, control)
    return seeds[BEST] == seeds[control]


def store_evaluation(
    state: Path,
    evaluation: Evaluation,
    retrained: Retraining,
    *,
    ids: NDArray[np.int64],
    labels: NDArray[np.int64],
    best: NDArray[np.bool_],
    control: NDArray[np.bool_],
    seeds: Mapping[str, list[int]],
    scores: Mapping[str, NDArray[np.float64]] | None = None,
    folds: NDArray[np.int64] | None = None,
) -> Path:
    """Keep an evaluation, whole or not at all, and return its folder.

    seeds: of the rows of best and control, by arm.
    scores: pseudo-values by `best` and `control`, of a metric that is not accuracy and has them.
    folds: the number of each image's fold; None without folds.
    """
    folder = state / FOLDER / evaluation.fingerprint[:16]
    tested = [evaluation.data_hash, ids.tolist(), labels.tolist()]
    tested += [] if folds is None else [folds.tolist()]  # other folds are other networks' images
    other = evaluation.other_metric
    by: dict[str, Any] = {} if other is None else {"metric": other, "metric_hash": evaluation.metric_hash}
    stored = StoredEvaluation(
        fingerprint=evaluation.fingerprint,
        method=evaluation.method,
        setting=retrained.setting,
        control=evaluation.control,
        against=retrained.against,
        data_hash=evaluation.data_hash,
        test=content_hash(tested),
        look=evaluation.look or 1,
        time=time.time(),
        seeds=seeds[BEST],
        control_seeds=seeds[evaluation.control],
        best=best,
        control_correct=control,
        **by,
    )
    tables: dict[str, Any] = {"best": best, "control": control} | ({} if folds is None else {"folds": folds})
    tables |= {f"{arm}_scores": table for arm, table in (scores or {}).items()}
    with replace_folder(folder) as whole:
        np.savez_compressed(whole / "correct.npz", ids=ids, labels=labels, **tables)
        (whole / "evaluation.json").write_text(json.dumps(stored.content(), indent=2) + "\n", encoding="utf-8")
    return folder


def read_evaluations(state: Path) -> list[StoredEvaluation]:
    """Every evaluation that is kept, the newest first.

    Raises:
        UserError: one of them cannot be read.
    """
    folders = [path for path in (state / FOLDER).glob("*") if path.is_dir() and path.suffix != ".partial"]
    return sorted((_read(folder) for folder in folders), key=lambda stored: -stored.time)


def _read(folder: Path) -> StoredEvaluation:
    try:
        content = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        # Opened here, so that it is closed where it turns out to be broken.
        with (folder / "correct.npz").open("rb") as file, np.load(file) as archive:
            others = {"control": "control_correct", "best_scores": "scores"}
            tables = {others.get(name, name): archive[name] for name in archive.files}
            return StoredEvaluation.model_validate({**content, **tables})
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{folder}: this kept evaluation cannot be read ({error}). Remove the folder; "
            f"`{single_item_command('evaluate')}` keeps that of the present results anew."
        ) from None

"""Stored evaluations: each search's correct test images by network, for `compare`.

`results/evaluate/` holds the evaluation of the last search alone, and DVC empties the folder. Each evaluation is
therefore stored under `state/evaluations/<first 16 digits of the search's fingerprint>/`. A newer evaluation of the
same search replaces the older one:

    evaluation.json   what was evaluated on which images, and the seeds in the order of the tables' rows
    correct.npz       ids and labels of the test images; `best` and `control`, (seeds, images), true where a network
                      was right. With another metric than accuracy, also `best_scores` and `control_scores`, the
                      pseudo-values of the images. With folds, also `folds`, the number of each image's fold
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
"""An array, which is stored in correct.npz and not in evaluation.json."""


class StoredEvaluation(Record):
    """Stored evaluation of one search.

    Attributes:
        fingerprint: Fingerprint of the search.
        method: Methods that are compared with the control, in words.
        setting: The best configuration in words.
        control: Name of the control.
        against: Description of the control in words.
        data_hash: Hash of the prepared set.
        test: Hash of the test images and their labels.
        look: Number of the look at these images.
        time: Time of the evaluation, in seconds since 1970.
        seeds: Seeds of the rows of `best`; None in an evaluation that an earlier version stored.
        control_seeds: Seeds of the rows of `control_correct`; None like `seeds`.
        metric: Metric in words; None for accuracy.
        metric_hash: Hash of the user's function that computes the metric; "" for other metrics.
        best: (seeds, images), true where a network of the best configuration was right.
        control_correct: The same of the control.
        scores: (seeds, images), pseudo-values of the metric; None for accuracy, and for a metric without such values.
        control_scores: The same of the control.
        folds: (images,), number of each image's fold; None without folds.
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
        """Name of the metric in `evaluate.metric`."""
        return words_of(self.metric).name

    @property
    def id(self) -> str:
        """Id of the search in `sar-search status`."""
        return self.fingerprint[:8]


def correct_by_arm(predictions: Mapping[str, NDArray[Any]], control: str) -> dict[str, NDArray[np.bool_]]:
    """Returns which images each seed got right, by arm.

    Args:
        predictions: Arrays of predictions.npz: `labels` (N,), and probabilities (N, C) by `ARM-seedN`.
        control: Name of the control's arm.

    Returns:
        (S, N) booleans by arm, with rows in the order of `seeds_by_arm`.
    """
    labels = predictions["labels"]
    return {
        arm: np.stack([predictions[f"{arm}-seed{seed}"].argmax(1) == labels for seed in seeds])
        for arm, seeds in seeds_by_arm(predictions, control).items()
    }


def probabilities_by_arm(predictions: Mapping[str, NDArray[Any]], control: str) -> dict[str, NDArray[np.float32]]:
    """Returns the probabilities of each seed, by arm.

    Args:
        predictions: Arrays of predictions.npz: probabilities (N, C) by `ARM-seedN`.
        control: Name of the control's arm.

    Returns:
        (S, N, C) probabilities by arm, with rows in the order of `seeds_by_arm`.
    """
    return {
        arm: np.stack([predictions[f"{arm}-seed{seed}"] for seed in seeds])
        for arm, seeds in seeds_by_arm(predictions, control).items()
    }


def seeds_by_arm(names: Iterable[str], control: str) -> dict[str, list[int]]:
    """Returns the seeds of both arms in ascending order.

    Args:
        names: Names of the runs, `ARM-seedN`. Other names are ignored.
        control: Name of the control's arm.
    """
    parts = [name.rpartition("-seed") for name in names]
    return {arm: sorted(int(seed) for of, _, seed in parts if of == arm) for arm in (BEST, control)}


def has_shared_seeds(names: Iterable[str], control: str) -> bool:
    """Returns whether both arms have the same seeds, so that their tables can be compared row by row.

    Args:
        names: Names of the runs, `ARM-seedN`. Other names are ignored.
        control: Name of the control's arm.
    """
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
    """Stores an evaluation atomically, and returns its folder.

    Args:
        state: Folder `state/`.
        evaluation: The evaluation.
        retrained: Retraining that it belongs to.
        ids: (N,), ids of the test images.
        labels: (N,), labels of the test images.
        best: (S, N), true where a network of the best configuration was right.
        control: The same of the control.
        seeds: Seeds of the rows of `best` and `control`, by arm.
        scores: Pseudo-values (S, N) by `best` and `control`; None for accuracy, and for a metric without such values.
        folds: (N,), number of each image's fold; None without folds.
    """
    folder = state / FOLDER / evaluation.fingerprint[:16]
    tested = [evaluation.data_hash, ids.tolist(), labels.tolist()]
    tested += [] if folds is None else [folds.tolist()]  # with other folds, other networks are tested on an image
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
    """Returns all stored evaluations, the newest first.

    Args:
        state: Folder `state/`.

    Raises:
        UserError: one of them cannot be read.
    """
    folders = [path for path in (state / FOLDER).glob("*") if path.is_dir() and path.suffix != ".partial"]
    return sorted((_read(folder) for folder in folders), key=lambda stored: -stored.time)


def _read(folder: Path) -> StoredEvaluation:
    try:
        content = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        # numpy does not close a file that turns out to be invalid unless the caller has opened it.
        with (folder / "correct.npz").open("rb") as file, np.load(file) as archive:
            others = {"control": "control_correct", "best_scores": "scores"}
            tables = {others.get(name, name): archive[name] for name in archive.files}
            return StoredEvaluation.model_validate({**content, **tables})
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{folder}: this stored evaluation cannot be read ({error}). Remove the folder; "
            f"`{single_item_command('evaluate')}` stores the evaluation of the current results anew."
        ) from None

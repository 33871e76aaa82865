"""What two registered versions got right on the same test images: as `evaluate` recorded it, else found out anew.

A version carries the hashes of the data and of the split that it was tested on, and the run that holds its predictions.
Where the champion was tested on the challenger's test images, the recorded predictions are compared and nothing is run.
Where it was not, it is run on the present test images, and the answers are kept under `state/promote/`, so that asking
again runs nothing.

A version that was trained on all images, its procedure tested in folds, is judged by what the networks of the folds
said of images that they had not seen: its predictions out of fold, of the first seed. Where images were kept apart from
the folds, it is judged on those. A champion without predictions out of fold for the challenger's images is compared on
those that it was tested on itself; without any of them it cannot be compared, since running it on images that it was
trained on would say nothing.

Either way the two have not been judged together before, which is a look (`pipeline.state.looks`); asking again is none,
and neither is running the challenger anew, which its evaluation has judged.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.registration import ArmsTag
from pipeline.assembly import TrainingData, load_data
from pipeline.config import Params
from pipeline.errors import UserError, single_item_command
from pipeline.files.atomic import replace_file
from pipeline.provenance.trace import commit
from pipeline.state.looks import record_look
from pipeline.tracking.evaluation_run import looks_logged
from pipeline.tracking.registry.loading import fetch_predictions, load_registered
from pipeline.tracking.registry.versions import HASH_TAG, PROCEDURE_TAG, WEIGHTS_TAG, Version
from pipeline.tracking.store import Store
from pipeline.workspace import Workspace

BATCH = 256
REGISTER = f"run `{single_item_command('register')}`, which writes them down"


@dataclass(frozen=True)
class CorrectOnTest:
    """A version on test images: ids (N,), which of them it got right (N,), and how it came to be known. Of a challenger
    that is judged out of fold, ids may be a part of its own.

    probabilities: (N, C), of the classes of the data, None where they were not kept. look: the number of the look at
    which it was judged together with the challenger.
    """

    ids: NDArray[np.int64]
    correct: NDArray[np.bool_]
    how: str
    look: int
    probabilities: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class TestPredictions:
    """What `evaluate` recorded of a version: ids (N,), labels (N,), probabilities (N, C).

    folds: in how many its procedure was tested, where they are of the folds' networks; 0: of the version itself.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    folds: int = 0

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which of the images it got right, (N,)."""
        return np.asarray(self.probabilities.argmax(1) == self.labels)


def version_tag(version: Version, name: str) -> str:
    """A tag that register gives every version.

    Raises:
        UserError: this one has it not.
    """
    if not (value := version.tags.get(name)):
        raise UserError(f"version {version.version} has no tag {name}\n  {REGISTER}")
    return value


def recorded_predictions(store: Store, version: Version) -> TestPredictions | None:
    """The predictions that `evaluate` made with a version's weights, or where it has seen all images, with those of its
    procedure's folds; None where they are not to be had any more.

    Raises:
        UserError: a version without the tags that lead to them, or a store that fails.
    """
    found = fetch_predictions(store, version_tag(version, "sar.evaluation_run"))
    run = version_tag(version, "sar.retrain_folder")
    if found is None or not {"ids", "labels", run} <= found.keys():
        return None
    if "folds" not in found:
        return TestPredictions(found["ids"], found["labels"], found[run])
    if "holdout" in found:
        return TestPredictions(found["holdout_ids"], found["holdout_labels"], found["holdout"])
    return TestPredictions(found["ids"], found["labels"], found[run], len(np.unique(found["folds"])))


def is_judged_out_of_fold(version: Version) -> bool:
    """Whether a version has seen every image, and is judged by its procedure's folds.

    Raises:
        UserError: its tag cannot be read.
    """
    if PROCEDURE_TAG not in version.tags:
        return False
    try:
        return not json.loads(version.tags[PROCEDURE_TAG])["holdout"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"version {version.version} has a tag {PROCEDURE_TAG} that cannot be read\n  {REGISTER}"
        ) from None


def is_same_test(one: Version, other: Version) -> bool:
    """Whether two versions were tested on the same images: the same data, and the same split of them."""
    names = ("sar.data_hash", "sar.split_hash")
    return all(one.tags.get(name) and one.tags.get(name) == other.tags.get(name) for name in names)


def predictions_on_same_test(
    workspace: Workspace,
    store: Store,
    params: Params,
    champion: Version,
    challenger: Version,
    *,
    needs_probabilities: bool = False,
) -> CorrectOnTest | None:
    """The champion on the challenger's test images; the look at both is written down before. None where the challenger
    is judged out of fold and nothing honest is recorded of the champion on any of these images.

    needs_probabilities: it is run again where no more than what was right is known.

    Raises:
        UserError: it has to be run on them, and the data here are others, or it does not take such images.
    """
    pair = (champion, challenger)
    if is_judged_out_of_fold(challenger) or is_judged_out_of_fold(champion):
        if (common := _recorded_on_both(store, champion, challenger)) is not None:
            how = "as recorded when it was evaluated"
            if common.folds:
                how = f"by its predictions out of fold, of {common.folds} folds"
            look = _look(workspace, store, params, *pair)
            return CorrectOnTest(common.ids, common.correct, how, look, common.probabilities)
        if is_judged_out_of_fold(challenger):
            return None
    if is_same_test(champion, challenger):
        found = recorded_predictions(store, champion)
        if found is not None:
            how, look = "as recorded when it was evaluated", _look(workspace, store, params, *pair)
            return CorrectOnTest(found.ids, found.correct, how, look, found.probabilities)
    key = "-".join(
        version_tag(version, tag)[:16]
        for version, tag in ((champion, HASH_TAG), (challenger, "sar.data_hash"), (challenger, "sar.split_hash"))
    )
    kept = workspace.state / "promote" / f"{key}.npz"
    how = "evaluated anew on the present test images"
    if not is_same_test(champion, challenger):
        how += ", of which its own training may have seen some, in its favour"
    if kept.exists():
        with np.load(kept) as archive:
            known = {name: archive[name] for name in archive.files}
        if "probabilities" in known or not needs_probabilities:
            look = _look(workspace, store, params, *pair)
            return CorrectOnTest(known["ids"], known["correct"], how, look, known.get("probabilities"))
    data, answers, look = _run(workspace, store, params, champion, challenger)
    ids = np.asarray(data.split.test)
    # By name: another version may know other classes, or know them in another order.
    correct = np.array(answers["name"]) == np.array(data.prepared.classes)[data.prepared.labels[ids]]
    shares = _shares(answers["probabilities"], data.prepared.classes)
    with replace_file(kept) as partial, partial.open("wb") as file:
        np.savez_compressed(file, ids=ids, correct=correct, probabilities=shares)
    return CorrectOnTest(ids, correct, how, look, shares)


def _shares(answers: Sequence[Mapping[str, float]], classes: Sequence[str]) -> NDArray[np.float32]:
    """Probabilities (N, C) of the classes of the data, by name; what goes to classes that these do not have is left
    out of the whole, and a class that the version does not know has none.
    """
    shares = np.array([[row.get(name, 0.0) for name in classes] for row in answers], np.float64)
    whole = shares.sum(axis=1, keepdims=True)
    shares = np.where(whole > 0, shares / np.where(whole > 0, whole, 1), 1 / len(classes))
    return np.asarray(shares, np.float32)


def _recorded_on_both(store: Store, champion: Version, challenger: Version) -> TestPredictions | None:
    """The champion's recorded predictions of the images that the challenger has some of too; None without any."""
    if champion.tags.get("sar.data_hash") != challenger.tags.get("sar.data_hash"):
        return None
    own, other = recorded_predictions(store, challenger), recorded_predictions(store, champion)
    if own is None or other is None:
        return None
    held = np.isin(other.ids, own.ids)
    # One that is judged on few images of its own must be compared on all of them.
    if not held.any() or (not own.folds and held.sum() < len(own.ids)):
        return None
    return TestPredictions(other.ids[held], other.labels[held], other.probabilities[held], other.folds)


def predict_again(workspace: Workspace, store: Store, params: Params, challenger: Version) -> TestPredictions:
    """What `recorded_predictions` would give of the challenger, by running it on the present test images.

    Raises:
        UserError: the images here are not those that it was tested on, or it cannot be run; or it has seen all of them.
    """
    if is_judged_out_of_fold(challenger):
        raise UserError(
            f"the predictions out of fold that version {challenger.version} is judged by are gone, and it cannot be "
            f"run in their place, since it has seen every image\n  run `{single_item_command('evaluate', 'register')}`"
        )
    data, answers, _ = _run(workspace, store, params, challenger, challenger)
    shares = [[row[each] for each in data.prepared.classes] for row in answers["probabilities"]]
    test = data.split.test
    return TestPredictions(np.asarray(test), np.asarray(data.prepared.labels[test]), np.array(shares, np.float32))


def _look(workspace: Workspace, store: Store, params: Params, *judged: Version) -> int:
    """The number of the look at these versions on the test images of the last one, which is written down."""
    data_hash = version_tag(judged[-1], "sar.data_hash")
    logged = looks_logged(store, params, data_hash)
    # A version that was registered before its weights' hash was put down is known by a name of its own.
    networks = {each.tags.get(WEIGHTS_TAG) or f"model {version_tag(each, HASH_TAG)}" for each in judged}
    # One alone was judged by its own evaluation.
    prior = logged.by_run.get(version_tag(judged[-1], "sar.evaluation_run")) if len(networks) == 1 else None
    return record_look(
        workspace.state,
        data_hash,
        networks,
        commit=commit(workspace.root),
        by="promote",
        counted=logged.count,
        prior=prior,
    )


def _run(
    workspace: Workspace, store: Store, params: Params, version: Version, challenger: Version
) -> tuple[TrainingData, dict[str, list[Any]], int]:
    """The data here, a version's answers to their test images ("name" and "probabilities"), and the look's number."""
    data = load_data(workspace.prepared, workspace.split, params.base.device)
    here = {"sar.data_hash": data.prepared.data_hash, "sar.split_hash": data.split.split_hash}
    for tag, present in here.items():
        if version_tag(challenger, tag) != present:
            raise UserError(
                f"version {challenger.version} was tested on other images than those here ({tag.removeprefix('sar.')} "
                f"{challenger.tags[tag][:8]}, here {present[:8]}), so version {version.version} cannot be tested on "
                "the same\n  go to the checkout that made it, or run `dvc repro` to make a new challenger"
            )
    model = load_registered(store, params.model_name, version.version)
    ids, prepared = data.split.test, data.prepared
    look = _look(workspace, store, params, version, challenger)
    answers: dict[str, list[Any]] = {"name": [], "probabilities": []}
    for start in range(0, len(ids), BATCH):
        try:
            found = model.predict(np.ascontiguousarray(prepared.images[ids[start : start + BATCH]]))
        except Exception as error:  # the program of another version, which may be anything
            raise UserError(
                f"version {version.version} cannot be run on the present test images: {store.reason(error)}"
            ) from error
        for column, values in answers.items():
            values += list(found[column])
    return data, answers, look


def latency_ms(store: Store, name: str, version: int, side: int, channels: int, *, times: int = 20) -> float:
    """Median milliseconds that a version takes for one image by itself on this machine, the first ones left out."""
    model, image = load_registered(store, name, version), np.zeros((1, side, side, channels), np.uint8)
    taken = []
    for _ in range(times + 3):
        began = time.perf_counter()
        model.predict(image)
        taken.append(time.perf_counter() - began)
    return 1000 * float(np.median(taken[3:]))


def read_arms_tag(version: Version) -> ArmsTag:
    """The comparison of a version's configuration with its control, as register wrote it down.

    Raises:
        UserError: it has none.
    """
    try:
        return ArmsTag.model_validate_json(version_tag(version, "sar.comparison"))
    except ValueError:
        raise UserError(
            f"version {version.version} has a tag sar.comparison that cannot be read\n  {REGISTER}"
        ) from None

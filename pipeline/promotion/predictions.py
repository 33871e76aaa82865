"""Correct test images of two registered versions, as `evaluate` recorded them or computed again.

A version carries the hashes of the data and of the split that it was tested on, and the run that holds its
predictions. If the champion was tested on the challenger's test images, the recorded predictions are compared and
no network runs. Otherwise the champion predicts the current test images. Its answers are stored under
`state/promote/`, so that a repeated comparison runs no network.

A version that was trained on all images, with its procedure tested in folds, is judged by its predictions out of
fold: each image is predicted by the fold's network of the first seed, which has not seen it. If some images belong
to no fold (`evaluate.holdout`), the version is judged on these. A champion without predictions out of fold for the
challenger's images is compared on the images that it was tested on itself. Without any of them it cannot be
compared, because predictions of images that it was trained on would be meaningless.

In both cases the two versions have not been judged together before, so the comparison is a look
(`pipeline.state.looks`). Repeating it is no look. Running the challenger again is no look either, because its
evaluation has judged it.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.registration import ArmsTag
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

if TYPE_CHECKING:
    from pipeline.assembly import TrainingData

BATCH = 256
REGISTER = f"run `{single_item_command('register')}`, which sets the tags"


@dataclass(frozen=True)
class CorrectOnTest:
    """The test images that a version classifies correctly.

    Attributes:
        ids: (N,), ids of the test images. For a challenger that is judged out of fold, they may be a part of its
            images.
        correct: (N,), true where the version is right.
        how: Origin of the predictions in words.
        look: Number of the look at which it was judged together with the challenger.
        probabilities: (N, C), of the classes of the data; None if they were not stored.
    """

    ids: NDArray[np.int64]
    correct: NDArray[np.bool_]
    how: str
    look: int
    probabilities: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class TestPredictions:
    """Predictions that `evaluate` recorded for a version.

    Attributes:
        ids: (N,), ids of the test images.
        labels: (N,), their labels.
        probabilities: (N, C), of the classes of the data.
        folds: Number of folds whose networks made the predictions; 0 if the version itself made them.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    folds: int = 0

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,), true where the prediction is right."""
        return np.asarray(self.probabilities.argmax(1) == self.labels)


def version_tag(version: Version, name: str) -> str:
    """Returns a tag that `register` sets on every version.

    Raises:
        UserError: the version lacks the tag.
    """
    if not (value := version.tags.get(name)):
        raise UserError(f"version {version.version} has no tag {name}\n  {REGISTER}")
    return value


def recorded_predictions(store: Store, version: Version) -> TestPredictions | None:
    """Returns the predictions that `evaluate` recorded for a version.

    For a version that has seen all images, these are the predictions of its procedure's folds or of its holdout.

    Args:
        store: Tracking store.
        version: The version.

    Returns:
        The predictions; None if they no longer exist.

    Raises:
        UserError: the version lacks the tags that lead to them, or the store fails.
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
    """Returns whether a version has seen every image and is therefore judged by the predictions of its procedure's
    folds.

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
    """Returns whether two versions were tested on the same images: the same data with the same split."""
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
    """Returns the champion's correct images among the challenger's test images, and records the look at both before.

    Args:
        workspace: Workspace with the data and the stored answers.
        store: Tracking store.
        params: Parameters of params.yaml.
        champion: The champion.
        challenger: The challenger.
        needs_probabilities: Whether the champion runs again if only its correct images are stored.

    Returns:
        The champion's correct images; None if the challenger is judged out of fold and no prediction of the
        champion is recorded for any of these images that it has not seen.

    Raises:
        UserError: the champion has to run on the images, but the data here are others, or it does not accept the
            images.
    """
    found = None
    if is_judged_out_of_fold(challenger) or is_judged_out_of_fold(champion):
        found = _recorded_on_both(store, champion, challenger)
        if found is None and is_judged_out_of_fold(challenger):
            return None
    if found is None and is_same_test(champion, challenger):
        found = recorded_predictions(store, champion)
    if found is not None:
        how, look = "as recorded when it was evaluated", _look(workspace, store, params, champion, challenger)
        if found.folds:
            how = f"by its predictions out of fold, of {found.folds} folds"
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
            look = _look(workspace, store, params, champion, challenger)
            return CorrectOnTest(known["ids"], known["correct"], how, look, known.get("probabilities"))
    data, answers, look = _run(workspace, store, params, champion, challenger)
    ids = np.asarray(data.split.test)
    # Classes are compared by name, because another version may have other classes, or another order of them.
    correct = np.array(answers["name"]) == np.array(data.prepared.classes)[data.prepared.labels[ids]]
    shares = _shares(answers["probabilities"], data.prepared.classes)
    with replace_file(kept) as partial, partial.open("wb") as file:
        np.savez_compressed(file, ids=ids, correct=correct, probabilities=shares)
    return CorrectOnTest(ids, correct, how, look, shares)


def _shares(answers: Sequence[Mapping[str, float]], classes: Sequence[str]) -> NDArray[np.float32]:
    """Returns probabilities (N, C) of the classes of the data, from answers by class name.

    Probabilities of other classes are removed, and the rest is scaled to a sum of 1. A class that the version lacks
    has probability 0. An image without any remaining probability gets 1 / C for each class.
    """
    shares = np.array([[row.get(name, 0.0) for name in classes] for row in answers], np.float64)
    whole = shares.sum(axis=1, keepdims=True)
    shares = np.where(whole > 0, shares / np.where(whole > 0, whole, 1), 1 / len(classes))
    return np.asarray(shares, np.float32)


def _recorded_on_both(store: Store, champion: Version, challenger: Version) -> TestPredictions | None:
    """Returns the champion's recorded predictions of the images that the challenger has predictions of too.

    Args:
        store: Tracking store.
        champion: The champion.
        challenger: The challenger.

    Returns:
        The predictions; None if there are none, or if they lack test images of a challenger not judged out of fold.
    """
    if champion.tags.get("sar.data_hash") != challenger.tags.get("sar.data_hash"):
        return None
    own, other = recorded_predictions(store, challenger), recorded_predictions(store, champion)
    if own is None or other is None:
        return None
    held = np.isin(other.ids, own.ids)
    # A challenger that is not judged out of fold must be compared on all of its test images.
    if not held.any() or (not own.folds and held.sum() < len(own.ids)):
        return None
    return TestPredictions(other.ids[held], other.labels[held], other.probabilities[held], other.folds)


def predict_again(workspace: Workspace, store: Store, params: Params, challenger: Version) -> TestPredictions:
    """Runs the challenger on the current test images, in place of `recorded_predictions`.

    Args:
        workspace: Workspace with the data.
        store: Tracking store.
        params: Parameters of params.yaml.
        challenger: The challenger.

    Raises:
        UserError: the images here are not those that it was tested on, it cannot run, or it has seen all of them.
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
    """Records a look at these versions on the test images of the last one, and returns its number.

    Args:
        workspace: Workspace with the record of looks.
        store: Tracking store, which may have earlier looks.
        params: Parameters of params.yaml.
        judged: The versions that are judged together.
    """
    data_hash = version_tag(judged[-1], "sar.data_hash")
    logged = looks_logged(store, params, data_hash)
    # A version that was registered without the hash of its weights is identified by the hash of its model instead.
    networks = {each.tags.get(WEIGHTS_TAG) or f"model {version_tag(each, HASH_TAG)}" for each in judged}
    # A single version has been judged by its own evaluation, which is the prior look.
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
) -> tuple["TrainingData", dict[str, list[Any]], int]:
    """Runs a version on the challenger's test images.

    Args:
        workspace: Workspace with the data.
        store: Tracking store.
        params: Parameters of params.yaml.
        version: The version that runs.
        challenger: The version whose test images are used.

    Returns:
        The data of this workspace, the version's answers by column ("name" and "probabilities"), and the look's
        number.
    """
    from pipeline.assembly import load_data  # imports torch, which most judgements do without

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
        except Exception as error:  # a registered version contains its own code, which may raise anything
            raise UserError(
                f"models:/{params.model_name}/{version.version} cannot be run on the present test images: "
                f"{store.reason(error)}\n  compare its tag sar.input with the images' size and channels, and the "
                "installed packages with its requirements.txt"
            ) from error
        for column, values in answers.items():
            values += list(found[column])
    return data, answers, look


def latency_ms(store: Store, name: str, version: int, side: int, channels: int, *, times: int = 20) -> float:
    """Returns the median milliseconds in which a version predicts one image alone on this machine, after three
    warm-up runs.

    Args:
        store: Tracking store.
        name: Name of the model.
        version: Number of the version.
        side: Side of the image in pixels.
        channels: Channels of the image.
        times: Number of timed predictions.
    """
    model, image = load_registered(store, name, version), np.zeros((1, side, side, channels), np.uint8)
    taken = []
    for _ in range(times + 3):
        began = time.perf_counter()
        model.predict(image)
        taken.append(time.perf_counter() - began)
    return 1000 * float(np.median(taken[3:]))


def read_arms_tag(version: Version) -> ArmsTag:
    """Returns the comparison of a version's configuration with its control, which `register` has recorded.

    Raises:
        UserError: the version lacks it, or it cannot be read.
    """
    try:
        return ArmsTag.model_validate_json(version_tag(version, "sar.comparison"))
    except ValueError:
        raise UserError(
            f"version {version.version} has a tag sar.comparison that cannot be read\n  {REGISTER}"
        ) from None

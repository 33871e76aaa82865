"""Registered models: one version for every distinct model, identified by its content, and the alias `challenger`.

`pipeline.tracking.registry.champion` moves the alias `champion`.
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from pipeline.errors import UserError, single_item_command
from pipeline.tracking.registry.package import hash_model, hash_packed, pack, require_portable
from pipeline.tracking.single_run import has_run
from pipeline.tracking.store import Store, as_global_store, as_user_error, client, experiment_id, find_existing

CHALLENGER = "challenger"
HASH_TAG = "sar.model_hash"
WEIGHTS_TAG = "sar.weights_hash"
"""Tag with the SHA-256 of the file of weights, which identifies a network in looks at test images."""

OWN_ACCURACY_TAG = "sar.own_accuracy"
"""Tag with the test accuracy of the registered network itself; `sar.test_accuracy` is the mean over seeds."""

PROCEDURE_TAG = "sar.procedure"
"""Tag of a network that was trained on all images: the folds in which its procedure was tested, as JSON."""

LOGGED = "models:/m-"
"""Beginning of a version's source if its files are those of a logged model."""

GONE, DAMAGED = "gone", "damaged"
"""Faults of a version's files."""

CARD_LIMIT = 5000
"""The most characters of a description in every database of MLflow; the whole card is in the model's folder."""


@dataclass(frozen=True)
class Registered:
    """A version that `register_model` has created or found.

    Attributes:
        name: name of the registered model.
        version: number of the version.
        uri: address for mlflow.pyfunc.load_model.
        model_hash: hash of the model's content.
        new: whether the version was created now, not found.
        lost_run: id of the run that trained the model, if the store has lost it; otherwise None.
    """

    name: str
    version: int
    uri: str
    model_hash: str
    new: bool
    lost_run: str | None = None


@dataclass(frozen=True)
class Version:
    """A version as the registry lists it.

    Attributes:
        version: number of the version.
        aliases: its aliases.
        tags: its tags.
        created: time of its creation, UTC.
        run_id: run that trained it; None: none.
        description: the model card.
    """

    version: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    created: datetime
    run_id: str | None
    description: str


def register_model(
    store: Store,
    *,
    name: str,
    checkpoint: Path,
    code: Path,
    model_card: str,
    tags: Mapping[str, str],
    run_id: str | None,
    input_example: "np.ndarray[Any, Any]",
) -> Registered:
    """Registers a checkpoint with the code of its network, and moves the alias `challenger` to it.

    A new model is loaded and tested before it is uploaded. If a model with the same weights, sidecar and code
    is registered already, no second version is created. The version's tags and model card are updated, and
    its files are uploaded again if they are gone or damaged.

    Args:
        store: the tracking store.
        name: name of the registered model.
        checkpoint: folder with weights.safetensors and checkpoint.json.
        code: the package of networks.
        model_card: the model card, in Markdown.
        tags: tags of the version.
        run_id: run that trained the model; None, or a run that the store has lost: the model belongs to no run.
        input_example: images, (B, H, W, C) uint8.

    Raises:
        UserError: a name that MLflow refuses, a checkpoint that does not make a model, or a store that fails.
    """
    require_portable(code)
    model_hash = hash_model(checkpoint, code)
    registry = client(store)
    with as_user_error(store, f"registering the model {name!r}"):
        _create_name(registry, name)
        found = registry.search_model_versions(f"name = '{name}' and tags.`{HASH_TAG}` = '{model_hash}'")
        ready = {int(each.version): each for each in found if each.status == "READY"}
        content = {"checkpoint": checkpoint, "code": code, "model_card": model_card, "input_example": input_example}
        lost = None
        if ready:
            number = max(ready)
            for key, value in tags.items():
                registry.set_model_version_tag(name, str(number), key, value)
            if find_fault(store, ready[number], fetch=True):
                _fill(registry, registry.get_logged_model(str(ready[number].source).removeprefix("models:/")), content)
            registry.update_model_version(name, str(number), description=_shorten(model_card))
        else:
            if run_id and not has_run(registry, run_id):
                run_id, lost = None, run_id
            model_id = _upload(store, name, run_id, content)
            with as_global_store(store):
                created = registry.create_model_version(
                    name,
                    f"models:/{model_id}",
                    run_id=run_id,
                    tags={**tags, HASH_TAG: model_hash},
                    description=_shorten(model_card),
                    model_id=model_id,
                )
            number = int(created.version)
        registry.set_registered_model_alias(name, CHALLENGER, str(number))
    return Registered(name, number, f"models:/{name}/{number}", model_hash, new=not ready, lost_run=lost)


def versions(store: Store, name: str) -> list[Version]:
    """Returns every version of a model, the oldest first.

    Args:
        store: the tracking store.
        name: name of the registered model.

    Raises:
        UserError: no such model, or a store that fails.
    """
    registry = client(store)
    aliases = {alias: int(number) for alias, number in read_model(store, registry, name).aliases.items()}
    with as_user_error(store, f"listing the versions of {name!r}"):
        page = registry.search_model_versions(f"name = '{name}'")
        found = list(page)
        while page.token:
            page = registry.search_model_versions(f"name = '{name}'", page_token=page.token)
            found += page
    listed = [
        Version(
            version=int(each.version),
            aliases=tuple(sorted(alias for alias, number in aliases.items() if number == int(each.version))),
            tags=dict(each.tags),
            created=datetime.fromtimestamp(each.creation_timestamp / 1000, UTC),
            run_id=each.run_id or None,
            description=each.description or "",
        )
        for each in found
    ]
    return sorted(listed, key=lambda each: each.version)


def _create_name(registry: MlflowClient, name: str) -> None:
    """Creates a registered model if it does not exist yet.

    Raises:
        UserError: the name has quotes.
    """
    # MLflow accepts quotes in a name, but its searches for a model by name cannot contain them.
    if re.search("['\"`]", name):
        raise UserError(f"a model cannot be called {name!r}: its name may hold no quotes\n  change register.name")
    try:
        registry.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


class NoModel(UserError):
    """A registry without the registered model, or without a challenger, before the first run has ended."""


def read_model(store: Store, registry: MlflowClient, name: str) -> RegisteredModel:
    """Returns a registered model with its tags and aliases.

    Args:
        store: the tracking store.
        registry: its client.
        name: name of the registered model.

    Raises:
        NoModel: there is no such model.
        UserError: the store fails.
    """
    with as_user_error(store, f"reading the model {name!r}"):
        found = find_existing(lambda: registry.get_registered_model(name))
    if found is None:
        raise NoModel(
            f"{store.shown} has no model {name!r}\n  `make repro` registers one, also again if this store has lost it"
        )
    return found


def _upload(store: Store, name: str, run_id: str | None, content: Mapping[str, Any]) -> str:
    """Packs a model and uploads it as a logged model of the run, or else of an experiment; returns its id.

    Args:
        store: the tracking store.
        name: name of the registered model, and of the experiment if there is no run.
        run_id: run that trained the model; None: none.
        content: keyword arguments of `pack`.
    """
    registry = client(store)
    experiment = str(registry.get_run(run_id).info.experiment_id) if run_id else experiment_id(store, name)
    logged = registry.create_logged_model(experiment, re.sub(r"[^\w-]", "-", name), run_id)
    model_id = str(logged.model_id)
    try:
        _fill(registry, logged, content)
    except BaseException:
        registry.finalize_logged_model(model_id, "FAILED")
        raise
    registry.finalize_logged_model(model_id, "READY")
    if run_id:
        registry.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    return model_id


def _fill(registry: MlflowClient, logged: LoggedModel, content: Mapping[str, Any]) -> None:
    """Packs a model and uploads its files to a logged model.

    Args:
        registry: client of the store.
        logged: the logged model.
        content: keyword arguments of `pack`.
    """
    model_id, run_id = str(logged.model_id), logged.source_run_id
    identity = Model(artifact_path=logged.artifact_location, run_id=run_id, model_uuid=model_id, model_id=model_id)
    with tempfile.TemporaryDirectory() as temporary:
        pack(Path(temporary) / "model", identity, **content)
        registry.log_model_artifacts(model_id, str(Path(temporary) / "model"))


def find_fault(store: Store, version: ModelVersion, *, fetch: bool) -> str:
    """Returns the fault of a version's files in the store: GONE, DAMAGED (other files than those registered), or "".

    Args:
        store: the tracking store.
        version: the version.
        fetch: whether a server's files are downloaded and hashed; otherwise they are only listed. Files on
            this machine are always hashed.
    """
    registry, source = client(store), str(version.source)
    if not source.startswith(LOGGED):
        return ""  # this pipeline did not make it
    model_id = source.removeprefix("models:/")
    if "MLmodel" not in {Path(each.path).name for each in registry.list_logged_model_artifacts(model_id)}:
        return GONE
    wanted, place = version.tags.get(HASH_TAG), urlsplit(registry.get_logged_model(model_id).artifact_location)
    if wanted is None:
        return ""
    try:
        if place.scheme == "file":
            return "" if hash_packed(Path(url2pathname(place.path))) == wanted else DAMAGED
        if not fetch:
            return ""
        with tempfile.TemporaryDirectory() as temporary, as_global_store(store):
            folder = download_artifacts(artifact_uri=source, dst_path=temporary, tracking_uri=store.uri)
            return "" if hash_packed(Path(folder)) == wanted else DAMAGED
    except (UserError, FileNotFoundError, TypeError):  # TypeError: a checkpoint.json of another form
        return DAMAGED


def require_whole(store: Store, name: str, version: int, *, doing: str) -> None:
    """Checks that a version can be loaded, before an alias is moved to it.

    Args:
        store: the tracking store.
        name: name of the registered model.
        version: number of the version.
        doing: the intended action, in words, for the message.

    Raises:
        UserError: its files are gone or damaged, or the store fails.
    """
    with as_user_error(store, doing):
        fault = find_fault(store, client(store).get_model_version(name, str(version)), fetch=True)
    if fault:
        raise UserError(
            f"the files of version {version} of {name} are {fault} where {store.shown} keeps them\n"
            f"  in the checkout that made it, `{single_item_command('register')}` brings them back from models/ "
            "(nothing is trained)"
        )


def _shorten(card: str) -> str:
    """Returns a model card cut to CARD_LIMIT."""
    end = "\n\n(The whole card is in the model's folder.)"
    return card if len(card) <= CARD_LIMIT else card[: CARD_LIMIT - len(end)] + end

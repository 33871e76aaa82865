"""Registered models: a version for every distinct model, known by its content, and the alias `challenger`.

The alias `champion` is moved by `pipeline.tracking.registry.champion`.
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
from pipeline.tracking.store import Store, as_global_store, as_user_error, client, experiment_id

CHALLENGER = "challenger"
HASH_TAG = "sar.model_hash"
WEIGHTS_TAG = "sar.weights_hash"
"""The SHA-256 of the file of weights, by which looks at test images know a network."""

PROCEDURE_TAG = "sar.procedure"
"""Of a network that was trained on all images: the folds in which its procedure was tested, as JSON."""

LOGGED = "models:/m-"
"""How the source begins of a version whose files are those of a logged model."""

GONE, DAMAGED = "gone", "damaged"
"""What may be wrong with a version's files."""

CARD_LIMIT = 5000
"""Characters of a description that every database behind MLflow holds; the whole card lies in the model's folder."""


@dataclass(frozen=True)
class Registered:
    """A version of a registered model. uri: what mlflow.pyfunc.load_model takes; new: made now, not found again.

    lost_run: the run that it should belong to and does not, since the store has it no more.
    """

    name: str
    version: int
    uri: str
    model_hash: str
    new: bool
    lost_run: str | None = None


@dataclass(frozen=True)
class Version:
    """A version as the registry lists it. created: UTC; description: the model card."""

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
    """Register a checkpoint with the code of its network, and point the alias `challenger` at it.

    checkpoint: folder with weights.safetensors and checkpoint.json; code: the package of networks; input_example:
    (B, H, W, C) uint8; run_id: the run that trained it. Where the store has that run no more, as after the loss of a
    database, the model belongs to no run. A model whose weights, settings and code are registered already gets no
    second version: its tags and its card are brought up to date, and its files where they are gone or damaged. A new
    one is loaded and tried before it is uploaded.

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
    """Every version of a model, the oldest first.

    Raises:
        UserError: no such model.
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
    # MLflow takes quotes, but its searches, which look for a model by its name, then cannot be written.
    if re.search("['\"`]", name):
        raise UserError(f"a model cannot be called {name!r}: its name may hold no quotes\n  change register.name")
    try:
        registry.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def read_model(store: Store, registry: MlflowClient, name: str) -> RegisteredModel:
    """A registered model with its tags and aliases.

    Raises:
        UserError: there is none, or the store fails.
    """
    try:
        return registry.get_registered_model(name)
    except (MlflowException, OSError) as error:
        if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
            raise UserError(f"reading the model {name!r} failed at {store.shown}\n  {store.reason(error)}") from None
        raise UserError(
            f"{store.shown} has no model {name!r}\n  `make repro` registers one, again too where this store has lost it"
        ) from None


def _upload(store: Store, name: str, run_id: str | None, content: Mapping[str, Any]) -> str:
    """Pack what `pack` takes, upload it as a logged model of the run or else of an experiment, and return its id."""
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
    """Upload the files of a logged model."""
    model_id, run_id = str(logged.model_id), logged.source_run_id
    identity = Model(artifact_path=logged.artifact_location, run_id=run_id, model_uuid=model_id, model_id=model_id)
    with tempfile.TemporaryDirectory() as temporary:
        pack(Path(temporary) / "model", identity, **content)
        registry.log_model_artifacts(model_id, str(Path(temporary) / "model"))


def find_fault(store: Store, version: ModelVersion, *, fetch: bool) -> str:
    """What is wrong with a version's files where its store has them: GONE, DAMAGED (not those registered), or "".

    fetch: fetch those of a server to look into them; else they are only listed. Files on this machine are looked into.
    """
    registry, source = client(store), str(version.source)
    if not source.startswith(LOGGED):
        return ""  # not of this pipeline's making
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
    except (UserError, FileNotFoundError, TypeError):  # a checkpoint.json of another form too
        return DAMAGED


def require_whole(store: Store, name: str, version: int, *, doing: str) -> None:
    """Refuse a version that nobody could load, before an alias leads people to it. doing: what for, in words.

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
    end = "\n\n(The whole card is in the model's folder.)"
    return card if len(card) <= CARD_LIMIT else card[: CARD_LIMIT - len(end)] + end

"""Registered models: a version for every distinct model, the aliases `challenger` and `champion`, and their trail.

A version is known by its content. MLflow keeps no history of aliases, so every move of `champion` is written into tags:
on the version what happened to it last, on the registered model one tag a move.
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from pipeline.errors import UserError
from pipeline.track.package import hash_model, pack, require_portable
from pipeline.track.store import Store, client, current, experiment_id, reported, user_name

CHALLENGER = "challenger"
CHAMPION = "champion"
HASH_TAG = "sar.model_hash"

CARD_LIMIT = 5000
"""Characters of a description that every database behind MLflow holds; the whole card lies in the model's folder."""


@dataclass(frozen=True)
class Registered:
    """A version of a registered model. uri: what mlflow.pyfunc.load_model takes; new: made now, not found again."""

    name: str
    version: int
    uri: str
    model_hash: str
    new: bool


@dataclass(frozen=True)
class Promotion:
    """What a promotion did. previous: the champion before it, if there was one; the same as `version`: no move."""

    previous: int | None
    version: int

    @property
    def changed(self) -> bool:
        """Whether the champion is another one now."""
        return self.previous != self.version


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
    (B, H, W, C) uint8. A model whose weights, settings and code are registered already gets no second version: its
    tags and its card are brought up to date. A new one is loaded and tried before it is uploaded.

    Raises:
        UserError: a name that MLflow refuses, a checkpoint that does not make a model, or a store that fails.
    """
    require_portable(code)
    model_hash = hash_model(checkpoint, code)
    registry = client(store)
    with reported(store, f"registering the model {name!r}"):
        _create_name(registry, name)
        found = registry.search_model_versions(f"name = '{name}' and tags.`{HASH_TAG}` = '{model_hash}'")
        ready = [int(each.version) for each in found if each.status == "READY"]
        if ready:
            number = max(ready)
            for key, value in tags.items():
                registry.set_model_version_tag(name, str(number), key, value)
            registry.update_model_version(name, str(number), description=_shortened(model_card))
        else:
            content = {"checkpoint": checkpoint, "code": code, "model_card": model_card, "input_example": input_example}
            model_id = _upload(store, name, run_id, content)
            with current(store):
                created = registry.create_model_version(
                    name,
                    f"models:/{model_id}",
                    run_id=run_id,
                    tags={**tags, HASH_TAG: model_hash},
                    description=_shortened(model_card),
                    model_id=model_id,
                )
            number = int(created.version)
        registry.set_registered_model_alias(name, CHALLENGER, str(number))
    return Registered(name, number, f"models:/{name}/{number}", model_hash, new=not ready)


def promote(store: Store, name: str, *, reason: str | None, version: int | None = None) -> Promotion:
    """Make the challenger, or else the given version, champion, and write down who did it, when and why.

    Raises:
        UserError: no such model or version, or no challenger.
    """
    registry = client(store)
    aliases = _aliases(store, registry, name)
    previous = aliases.get(CHAMPION)
    chosen = aliases.get(CHALLENGER) if version is None else version
    if chosen is None:
        raise UserError(f"{name!r} has no {CHALLENGER} to promote\n  run the pipeline to its end (register) first")
    if chosen == previous:
        return Promotion(previous, chosen)
    now, who = datetime.now(UTC), user_name()
    note = {"by": who, "at": now.isoformat(timespec="seconds"), "reason": reason or "", "previous": str(previous or "")}
    with reported(store, f"promoting version {chosen} of {name!r}"):
        # The alias last: a champion without its trail would be worse than the trail of a move that is made again.
        for key, value in note.items():
            registry.set_model_version_tag(name, str(chosen), f"sar.promoted.{key}", value)
        move = f"{previous or 'none'} -> {chosen} by {who}: {reason or 'no reason given'}"
        registry.set_registered_model_tag(name, f"sar.champion.{now:%Y%m%dT%H%M%S.%fZ}", move)
        registry.set_registered_model_alias(name, CHAMPION, str(chosen))
    return Promotion(previous, chosen)


def versions(store: Store, name: str) -> list[Version]:
    """Every version of a model, the oldest first.

    Raises:
        UserError: no such model.
    """
    registry = client(store)
    aliases = _aliases(store, registry, name)
    with reported(store, f"listing the versions of {name!r}"):
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


def _aliases(store: Store, registry: MlflowClient, name: str) -> dict[str, int]:
    try:
        with_aliases = registry.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise UserError(f"reading the model {name!r} failed at {store.shown}\n  {store.reason(error)}") from None
        raise UserError(
            f"{store.shown} has no model {name!r}\n  run the pipeline to its end (register) first"
        ) from None
    return {str(alias): int(number) for alias, number in with_aliases.aliases.items()}


def _upload(store: Store, name: str, run_id: str | None, content: Mapping[str, Any]) -> str:
    """Pack what `pack` takes, upload it as a logged model of the run or else of an experiment, and return its id."""
    registry = client(store)
    experiment = str(registry.get_run(run_id).info.experiment_id) if run_id else experiment_id(store, name)
    logged = registry.create_logged_model(experiment, re.sub(r"[^\w-]", "-", name), run_id)
    model_id = str(logged.model_id)
    identity = Model(artifact_path=logged.artifact_location, run_id=run_id, model_uuid=model_id, model_id=model_id)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            pack(Path(temporary) / "model", identity, **content)
            registry.log_model_artifacts(model_id, str(Path(temporary) / "model"))
    except BaseException:
        registry.finalize_logged_model(model_id, "FAILED")
        raise
    registry.finalize_logged_model(model_id, "READY")
    if run_id:
        registry.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    return model_id


def _shortened(card: str) -> str:
    end = "\n\n(The whole card is in the model's folder.)"
    return card if len(card) <= CARD_LIMIT else card[: CARD_LIMIT - len(end)] + end

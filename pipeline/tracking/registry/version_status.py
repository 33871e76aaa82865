"""How a registered version stands in its store: stores are moved, emptied and shared, and DVC sees nothing of it."""

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.tracking.moved_store import is_empty
from pipeline.tracking.registry.versions import CHALLENGER, HASH_TAG, find_fault
from pipeline.tracking.store import Store, as_user_error, client, short_timeouts


@dataclass(frozen=True)
class VersionStatus:
    """What a store has of a version. exists: the version, of that content; fault: what its files are, "" where whole.

    challenger: the version that has the alias, None where none has; made_by: what its tags say of where it comes from.
    """

    exists: bool
    fault: str
    challenger: int | None
    made_by: str = ""


NOTHING = VersionStatus(False, "", None)


def version_status(store: Store, name: str, version: int, model_hash: str) -> VersionStatus:
    """How the version of a model stands. Makes nothing, no database either.

    Raises:
        UserError: the store does not answer.
    """
    if store.database and is_empty(store.database):
        return NOTHING
    registry = client(store)
    with short_timeouts(10.0), as_user_error(store, f"looking for version {version} of {name!r}"):
        try:
            aliases = registry.get_registered_model(name).aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return NOTHING
        found = _version(registry, name, str(version))
        there = found is not None and found.tags.get(HASH_TAG) == model_hash
        fault = find_fault(store, found, fetch=False) if found is not None and there else ""
        if (number := aliases.get(CHALLENGER)) is None:
            return VersionStatus(there, fault, None)
        other = _version(registry, name, str(number))
        return VersionStatus(there, fault, int(number), _made_by(other) if other else "")


def _version(registry: MlflowClient, name: str, number: str) -> ModelVersion | None:
    try:
        return registry.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _made_by(version: ModelVersion) -> str:
    tags = {"commit": "sar.commit", "experiment": "sar.dvc_experiment", "search": "sar.fingerprint"}
    words = [f"{what} {version.tags[tag][:12]}" for what, tag in tags.items() if version.tags.get(tag)]
    return ", ".join(words)

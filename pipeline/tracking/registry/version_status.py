"""Status of a registered version in its store. Stores are moved, emptied and shared, and DVC does not notice it."""

from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion

from pipeline.tracking.moved_store import is_empty
from pipeline.tracking.registry.champion import CHAMPION
from pipeline.tracking.registry.versions import CHALLENGER, HASH_TAG, find_fault
from pipeline.tracking.store import Store, as_user_error, client, find_existing, short_timeouts


@dataclass(frozen=True)
class VersionStatus:
    """Status of a version in a store.

    Attributes:
        exists: whether the version exists, with the expected content.
        fault: fault of its files, GONE or DAMAGED; "" if there is none.
        challenger: the version that has the alias; None: no version has.
        made_by: origin of the challenger according to its tags, in words.
        champion: the version that is in use; None: no version is.
    """

    exists: bool
    fault: str
    challenger: int | None
    made_by: str = ""
    champion: int | None = None


NOTHING = VersionStatus(False, "", None)


def version_status(store: Store, name: str, version: int, model_hash: str) -> VersionStatus:
    """Returns the status of a model's version. Nothing is created, not even a database.

    Args:
        store: the tracking store.
        name: name of the registered model.
        version: number of the version.
        model_hash: hash of the expected content, from `hash_model`.

    Raises:
        UserError: the store does not answer.
    """
    if store.database and is_empty(store.database):
        return NOTHING
    registry = client(store)
    with short_timeouts(10.0), as_user_error(store, f"looking for version {version} of {name!r}"):
        model = find_existing(lambda: registry.get_registered_model(name))
        if model is None:
            return NOTHING
        found = find_existing(lambda: registry.get_model_version(name, str(version)))
        there = found is not None and found.tags.get(HASH_TAG) == model_hash
        fault = find_fault(store, found, fetch=False) if found is not None and there else ""
        used = model.aliases.get(CHAMPION)
        champion = None if used is None else int(used)
        if (number := model.aliases.get(CHALLENGER)) is None:
            return VersionStatus(there, fault, None, champion=champion)
        other = find_existing(lambda: registry.get_model_version(name, str(number)))
        return VersionStatus(there, fault, int(number), _made_by(other) if other else "", champion)


def _made_by(version: ModelVersion) -> str:
    """Returns commit, DVC experiment and search of a version, as far as its tags have them, in words."""
    tags = {"commit": "sar.commit", "experiment": "sar.dvc_experiment", "search": "sar.fingerprint"}
    words = [f"{what} {version.tags[tag][:12]}" for what, tag in tags.items() if version.tags.get(tag)]
    return ", ".join(words)

"""Download of weights from the registry: version of a specification, and its checkpoint, without running its code."""

import re
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError
from pipeline.tracking.store import Store, as_global_store, as_user_error, client
from pipeline.train.sidecar import SIDECAR

SPEC = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def find_version(store: Store, spec: str) -> tuple[str, int]:
    """Returns the model's name and the version that `models:/name@alias` or `models:/name/3` means now.

    Args:
        store: the tracking store.
        spec: the specification.

    Raises:
        ValueError: a specification of another form, or one that names no model, version or alias of the store.
        UserError: the store fails.
    """
    if not (match := SPEC.fullmatch(spec)):
        raise ValueError("needed: models:/name@alias or models:/name/version, such as models:/sar-photos@champion")
    registry = client(store)
    try:
        if match["alias"]:
            found = registry.get_model_version_by_alias(match["name"], match["alias"])
        else:
            found = registry.get_model_version(match["name"], match["version"])
    except MlflowException as error:
        if error.error_code not in MISSING:
            raise UserError(f"{spec}: asking {store.shown} failed\n  {store.reason(error)}") from None
        raise ValueError(
            f"{store.shown} has no such model ({store.reason(error)}); `make ui` shows its models, versions and aliases"
        ) from None
    return match["name"], int(found.version)


def fetch_checkpoint(store: Store, name: str, version: int, folder: Path) -> Path:
    """Downloads a version into a folder, and returns the folder of its checkpoint.

    Args:
        store: the tracking store.
        name: name of the registered model.
        version: number of the version.
        folder: destination.

    Raises:
        ValueError: a model that was not registered by this pipeline.
        UserError: the store fails.
    """
    address = f"models:/{name}/{version}"
    with as_user_error(store, f"fetching {address}"), as_global_store(store):
        fetched = mlflow.artifacts.download_artifacts(address, dst_path=str(folder))
    checkpoint = Path(fetched) / "artifacts" / "checkpoint"
    if not (checkpoint / SIDECAR).is_file():
        raise ValueError(f"version {version} of {name} was not registered by this pipeline: it has no checkpoint")
    return checkpoint

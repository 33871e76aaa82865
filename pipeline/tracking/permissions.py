"""Permissions of a user on a server, checked before any work, so that hours of training do not end in a refusal."""

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from requests import HTTPError

from pipeline.errors import UserError
from pipeline.tracking.store import KIND, Store, as_user_error, client, find_existing, require_artifacts, short_timeouts

FILLED_BY = {"sar.filled_by": "sar-search"}
CHECK_FOLDER = "sar-search-check"
CANNOT_LIST = "Failed to list artifacts"  # how a server that passes artifacts on begins its store's error


def require_access(store: Store, *, experiment: str, model: str, timeout_s: float = 10.0) -> None:
    """Checks that the user may write runs and files of an experiment, and versions of a model; creates none of them.

    MLflow has no query for permissions that works with every kind of authentication. A tag is therefore
    written that exists already, or that may be set anyway. For a database file nothing is checked: a user who
    may write the file may write all of it. A file is written beside an experiment's runs and removed again. If there
    is no experiment yet, the artifacts of a server that passes them on are listed instead.

    Args:
        store: the tracking store.
        experiment: name of the experiment.
        model: name of the registered model.
        timeout_s: seconds to wait for each answer.

    Raises:
        UserError: this user may not, or the server cannot store files; the message says what is missing, and whom to
            ask.
    """
    if store.database:
        return
    registry = client(store)
    with short_timeouts(timeout_s):
        with as_user_error(store, f"writing to the experiment {experiment!r}"):
            found = registry.get_experiment_by_name(experiment)
            if found is not None and found.lifecycle_stage == "active":
                for key, value in KIND.items():
                    registry.set_experiment_tag(found.experiment_id, key, value)
        if found is not None:
            require_artifacts(store, experiment, str(found.artifact_location))
        _require_artifact_store(store, experiment, None if found is None else str(found.artifact_location))
        with as_user_error(store, f"writing to the registered model {model!r}"):
            # The register stage creates a model that does not exist.
            if find_existing(lambda: registry.get_registered_model(model)) is not None:
                for key, value in FILLED_BY.items():
                    registry.set_registered_model_tag(model, key, value)


def _require_artifact_store(store: Store, experiment: str, location: str | None) -> None:
    """Checks that files of an experiment can be stored.

    Args:
        store: the tracking store, a server.
        experiment: name of the experiment.
        location: address of its artifacts; None if there is no experiment yet.
    """
    if location is None or urlsplit(location).scheme == "mlflow-artifacts":
        try:
            get_artifact_repository("mlflow-artifacts:/", store.uri).list_artifacts()
        except HTTPError as error:
            # A server that does not pass artifacts on, or shows nobody all of them, answers in other words.
            said = error.response.text if error.response is not None else ""
            if CANNOT_LIST in said:
                reason = said.partition(CANNOT_LIST)[2].partition('"')[0]
                raise UserError(
                    f"the tracking server {store.shown} cannot store files: it fails to list its artifacts{reason}\n"
                    "  ask whoever runs it to look at its --artifacts-destination (docs/teams.md)"
                ) from None
    if location is not None:
        with TemporaryDirectory() as folder, as_user_error(store, f"storing a file of the experiment {experiment!r}"):
            file = Path(folder) / f"{os.getpid()}.txt"
            file.write_text("written by the check of sar-search; may be removed\n")
            stored = get_artifact_repository(location, store.uri)
            stored.log_artifact(str(file), CHECK_FOLDER)  # type: ignore[no-untyped-call]
            with suppress(Exception):  # not every user may remove what they write
                stored.delete_artifacts(CHECK_FOLDER)  # type: ignore[no-untyped-call]

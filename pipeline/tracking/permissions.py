"""Permissions of a user on a server, checked before any work, so that hours of training do not end in a refusal."""

from pipeline.tracking.store import KIND, Store, as_user_error, client, find_existing, require_artifacts, short_timeouts

FILLED_BY = {"sar.filled_by": "sar-search"}


def require_access(store: Store, *, experiment: str, model: str, timeout_s: float = 10.0) -> None:
    """Checks that the user may write runs of an experiment, and versions of a model; creates neither.

    MLflow has no query for permissions that works with every kind of authentication. A tag is therefore
    written that exists already, or that may be set anyway. For a database file nothing is checked: a user who
    may write the file may write all of it.

    Args:
        store: the tracking store.
        experiment: name of the experiment.
        model: name of the registered model.
        timeout_s: seconds to wait for each answer.

    Raises:
        UserError: this user may not; the message says what is missing, and whom to ask.
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
        with as_user_error(store, f"writing to the registered model {model!r}"):
            # The register stage creates a model that does not exist.
            if find_existing(lambda: registry.get_registered_model(model)) is not None:
                for key, value in FILLED_BY.items():
                    registry.set_registered_model_tag(model, key, value)

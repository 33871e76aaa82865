"""What a user may do on a server, found out before any work: hours of training must not end at a refusal."""

from mlflow.exceptions import MlflowException

from pipeline.tracking.store import KIND, Store, as_user_error, client, require_artifacts, short_timeouts

FILLED_BY = {"sar.filled_by": "sar-search"}


def require_access(store: Store, *, experiment: str, model: str, timeout_s: float = 10.0) -> None:
    """Make sure that the runs of an experiment, and the versions of a model, may be written; creates neither.

    MLflow has no question for this that every kind of authentication answers, so a tag is written that is there
    already, or may be. Of a file nothing is asked: whoever may write it may write all of it.

    Raises:
        UserError: this user may not; says what, and whom to ask.
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
            try:
                registry.get_registered_model(model)
                for key, value in FILLED_BY.items():
                    registry.set_registered_model_tag(model, key, value)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # register makes it
                    raise

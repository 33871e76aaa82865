"""Runs that are written whole at once: retraining and evaluation; and files put beside a run that is there."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.tracking.dataset_inputs import DataUsed, dataset_inputs
from pipeline.tracking.pending import PARENT_TAG, RunUpdate, RunWriter, now_ms
from pipeline.tracking.store import Store, as_user_error, client, experiment_id, user_name

KEY_TAG = "sar.key"


def log_run(
    store: Store,
    *,
    experiment: str,
    key: str,
    name: str,
    params: Mapping[str, object],
    metrics: Mapping[str, float],
    curves: Sequence[tuple[int, Mapping[str, float]]] = (),
    tags: Mapping[str, str] | None = None,
    parent_run_id: str | None = None,
    artifacts: Mapping[str, Path] | None = None,
    datasets: Sequence[DataUsed] = (),
    seconds: float = 0.0,
) -> str:
    """Write a whole run at once and return its id; a finished run with the same key is left alone and returned.

    curves: (epoch, metrics) pairs; metrics: final values, logged at the last epoch. artifacts: files and folders by
    the folder inside the run's artifacts ("" for its top) that they, or what they hold, go to. seconds: what it took;
    the run is said to have begun so long ago.

    Raises:
        UserError: the store fails; a run that was begun is completed by the next call with its key.
    """
    update = RunUpdate({KEY_TAG: key}, name)
    update.add_params(params)
    labels = {PARENT_TAG: parent_run_id} if parent_run_id else {}
    update.add_tags({"mlflow.user": user_name(), **labels, **(tags or {})})
    time_ms = now_ms()
    for epoch, values in curves:
        update.add_metrics({metric: float(value) for metric, value in values.items()}, epoch, time_ms)
    update.add_metrics({metric: float(value) for metric, value in metrics.items()}, None, time_ms)
    update.artifacts += [(source, place or None) for place, source in (artifacts or {}).items()]
    update.datasets += dataset_inputs(datasets)
    update.started_ms = time_ms - round(1000 * seconds)
    update.end_run("FINISHED", time_ms)
    with as_user_error(store, f"logging the run {name!r}"):
        writer = RunWriter(client(store), experiment_id(store, experiment))
        found = writer.find(update.identity)
        for run in found:
            if run.info.status == "FINISHED":
                return str(run.info.run_id)
        update.run_id = str(found[0].info.run_id) if found else None
        writer.flush(update)
    assert update.run_id is not None
    return update.run_id


def has_run(registry: MlflowClient, run_id: str) -> bool:
    """Whether there is a run, and not in MLflow's waste bin, where nothing can be added to it."""
    try:
        return bool(registry.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def find_first(store: Store, runs: Sequence[str]) -> str | None:
    """The first of these runs that the store has; a store that was moved or emptied has none.

    Raises:
        UserError: the store fails.
    """
    registry = client(store)
    with as_user_error(store, "looking for the runs of these results"):
        return next((run for run in runs if has_run(registry, run)), None)


def restore_run(store: Store, run_id: str, folder: Path, *, file: str) -> None:
    """Put the files of a folder among a run's artifacts again where one of them is missing there.

    Raises:
        UserError: the store fails.
    """
    registry = client(store)
    with as_user_error(store, f"looking for {file} of the run {run_id}"):
        if file not in {each.path for each in registry.list_artifacts(run_id)}:
            registry.log_artifacts(run_id, str(folder))


def attach(store: Store, run_id: str, file: Path, *, folder: str) -> None:
    """Put a file into a folder of a run's artifacts, in place of one that was there.

    Raises:
        UserError: the store fails, or the run is gone.
    """
    with as_user_error(store, f"logging {file.name} to the run {run_id}"):
        client(store).log_artifact(run_id, str(file), folder)

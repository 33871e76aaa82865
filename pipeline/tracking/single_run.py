"""Runs that are written completely at once (retraining, evaluation), and files that are added to an existing run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient

from pipeline.tracking.dataset_inputs import DataUsed, dataset_inputs
from pipeline.tracking.pending import PARENT_TAG, RunUpdate, RunWriter, now_ms
from pipeline.tracking.store import Store, as_user_error, client, experiment_id, find_existing, user_name

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
    """Writes a complete run and returns its id. A finished run with the same key is not changed, and its id
    is returned.

    Args:
        store: the tracking store.
        experiment: name of the experiment.
        key: key of the run, stored as a tag.
        name: name of the run.
        params: parameters.
        metrics: final values, logged at the last epoch.
        curves: pairs of an epoch and its metrics.
        tags: further tags; None: none.
        parent_run_id: run under which this one is nested; None: it is not nested.
        artifacts: files and folders, by their destination folder in the run's artifacts ("": the top). A
            folder's content is copied, not the folder itself. None: no artifacts.
        datasets: data that the run has read.
        seconds: duration, subtracted from the present time to obtain the run's start.

    Raises:
        UserError: the store fails; the next call with the same key completes a run that was begun.
    """
    update = RunUpdate({KEY_TAG: key}, name)
    update.add_params(params)
    labels = {PARENT_TAG: parent_run_id} if parent_run_id else {}
    update.add_tags({"mlflow.user": user_name(store), **labels, **(tags or {})})
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
    """Returns whether a run exists and is not deleted in MLflow; nothing can be added to a deleted run."""
    run = find_existing(lambda: registry.get_run(run_id))
    return run is not None and bool(run.info.lifecycle_stage == "active")


def find_first(store: Store, runs: Sequence[str]) -> str | None:
    """Returns the first of these runs that the store has, or None; a store that was moved or emptied has none.

    Args:
        store: the tracking store.
        runs: ids of runs.

    Raises:
        UserError: the store fails.
    """
    registry = client(store)
    with as_user_error(store, "looking for the runs of these results"):
        return next((run for run in runs if has_run(registry, run)), None)


def restore_run(store: Store, run_id: str, folder: Path, *, file: str) -> None:
    """Uploads the files of a folder to a run's artifacts again, if one of these files is missing there.

    Args:
        store: the tracking store.
        run_id: the run.
        folder: folder with the files.
        file: name of the file whose absence means that the artifacts are missing.

    Raises:
        UserError: the store fails.
    """
    registry = client(store)
    with as_user_error(store, f"looking for {file} of the run {run_id}"):
        if file not in {each.path for each in registry.list_artifacts(run_id)}:
            registry.log_artifacts(run_id, str(folder))


def attach(store: Store, run_id: str, file: Path, *, folder: str) -> None:
    """Uploads a file to a folder of a run's artifacts, replacing an existing one.

    Args:
        store: the tracking store.
        run_id: the run.
        file: the file.
        folder: destination folder in the run's artifacts.

    Raises:
        UserError: the store fails, or the run is deleted.
    """
    with as_user_error(store, f"logging {file.name} to the run {run_id}"):
        client(store).log_artifact(run_id, str(file), folder)

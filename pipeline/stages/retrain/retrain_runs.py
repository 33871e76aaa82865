"""Retraining: the best configuration and its control on train + val, several seeds each, fixed length, last weights.

Runs go side by side over this machine or the cluster, each in one worker or, as `retrain.workers_per_run` says, in
several that share every batch. Each leaves a checkpoint now and then (`pipeline.cluster.checkpoint_store`), from which
it goes on after whatever loss. Finished runs are kept under `state/retrain/` by what decides them, so that an
interrupted stage loses none. The seeds are not the search's, and the one whose model gets registered is fixed
beforehand: the first.
"""

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts.stage_results import search_run
from pipeline.cluster.checkpoint_store import CheckpointStore
from pipeline.cluster.connect import Capacity
from pipeline.cluster.runtime import run_jobs
from pipeline.cluster.storage import join
from pipeline.config import Params, Values
from pipeline.console.format import config_name
from pipeline.console.progress import RunProgress
from pipeline.files.atomic import replace_folder
from pipeline.models.model_config import Weights
from pipeline.preflight.run_resources import check_batch_shards, retrain_resources
from pipeline.provenance.code_hash import code_hash, content_hash
from pipeline.provenance.trace import versions
from pipeline.provenance.weights_record import used_specs
from pipeline.regularizers.plugin import plugin_hashes
from pipeline.stages.retrain.worker import HISTORY, RetrainJob, retrain_one, seconds_in, usage_in
from pipeline.train.sidecar import SIDECAR, read_sidecar
from pipeline.tune.ray.placement import open_runtime
from pipeline.tune.task import Resources, RunSpec
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.tracking.dataset_inputs import DataUsed
    from pipeline.tracking.store import Store

OWN_FILES = (HISTORY,)
"""What lies beside a run's checkpoint and is no part of the model."""


def retrain_jobs(
    params: Params,
    arms: Mapping[str, Values],
    *,
    seeds: int,
    prepared: Path,
    split: Path,
    hashes: Sequence[str],
    state: Path,
    weights: Mapping[str, Weights] | None = None,
    fold: int = 0,
) -> list[RetrainJob]:
    """The runs of every arm and seed. seeds: how many of each arm, those that follow `base.seed`. hashes: of data and
    split, which decide the results with the parameters. fold: the number of the fold that they leave out; 0: none.

    Raises:
        UserError: a batch has fewer images than a run has workers.
        ValueError: a plugin whose file cannot be found.
    """
    dump, workers = params.model_dump(by_alias=True), params.retrain.workers_per_run
    jobs = []
    for seed in (params.base.seed + 1 + index for index in range(seeds)):
        for arm, values in arms.items():
            config = params.with_values(values, where=arm)
            check_batch_shards(
                workers, batch_size=config.train.batch_size, accumulate=config.train.accumulate, where=arm
            )
            deciding = {section: dump[section] for section in ("model", "train", "regularizer")}
            known = weights or {}
            begins = {spec: known[spec].sha256 for spec in used_specs(config, known) if spec in known}
            code = code_hash(_plugins(config))
            shared = [workers] if workers > 1 else []  # several workers draw other values inside the network
            key = content_hash([deciding, dict(values), seed, list(hashes), code, versions(), begins, *shared])
            folder = state / "retrain" / key[:16]
            threads = params.retrain.cpus_per_run
            job = RetrainJob(arm, seed, dump, values, prepared, split, threads, folder, weights or {}, fold=fold)
            jobs.append(job)
    return jobs


def is_finished(job: RetrainJob) -> bool:
    """Whether the run has been finished before: with fewer seeds, or by a stage that was interrupted."""
    return (job.folder / SIDECAR).exists()


def run_retraining(params: Params, jobs: Sequence[RetrainJob]) -> Iterator[RetrainJob]:
    """Train what is not there yet, side by side, and yield each job once its checkpoint is there.

    Raises:
        UserError: a run diverged or ran out of memory, workers were lost too often, or there is no room for the runs.
    """
    missing = [job for job in jobs if not is_finished(job)]
    yield from (job for job in jobs if job not in missing)
    if not missing:
        return
    resources = retrain_resources(params)
    missing[0].folder.parent.mkdir(parents=True, exist_ok=True)
    with open_runtime(_run_spec(params, missing, resources)) as runtime:
        ready = []
        for job in missing:
            checkpoints = CheckpointStore(join(runtime.checkpoints, job.folder.name))
            ready.append(dataclasses.replace(job, bundle=runtime.bundle, checkpoints=checkpoints))
        capacity = None if runtime.capacity is None else Capacity(resources.cpus, resources.gpus)
        with RunProgress(len(ready) * params.train.epochs, lambda: sum(_trained_epochs(params, job) for job in ready)):
            for index in _run_all(params, ready, resources, capacity):
                _download_checkpoint(ready[index])
                yield missing[index]


def learning_curves(folder: Path) -> list[dict[str, float]]:
    """The curves that a run's checkpoint holds, a mapping by epoch with `epoch` in it."""
    curves: list[dict[str, float]] = read_sidecar(folder)["curves"]
    return curves


def _trained_epochs(params: Params, job: RetrainJob) -> int:
    """Epochs that a run has behind it, of which there is a checkpoint."""
    if is_finished(job):
        return params.train.epochs
    assert job.checkpoints is not None
    return job.checkpoints.done()


def _run_all(
    params: Params, jobs: Sequence[RetrainJob], resources: Resources, capacity: Capacity | None
) -> Iterator[int]:
    most, failures = params.retrain.max_concurrent_runs, params.search.max_failures
    if params.retrain.workers_per_run == 1:
        done = run_jobs(
            retrain_one, jobs, cpus=resources.cpus, gpus=resources.gpus, max_concurrent=most, failures=failures
        )
        yield from (index for index, _ in done)
        return
    from pipeline.cluster.workers import side_by_side, train_together  # Ray Train takes seconds to import

    def fits() -> int:
        there = resources.max_concurrent if capacity is None else capacity.free_slots()
        return min(most or len(jobs), there // params.retrain.workers_per_run)

    def run(job: RetrainJob) -> None:
        assert job.checkpoints is not None
        train_together(
            retrain_one,
            job,
            checkpoints=job.checkpoints,
            name=f"retraining {job.name}",
            workers=params.retrain.workers_per_run,
            cpus=resources.cpus,
            gpus=resources.gpus,
            failures=failures,
        )

    yield from side_by_side(run, jobs, fits)


def _run_spec(params: Params, jobs: Sequence[RetrainJob], resources: Resources) -> RunSpec:
    first = jobs[0]
    plugins: dict[str, str] = {}
    weights: dict[str, Weights] = {}
    for job in jobs:
        weights |= job.weights
        plugins |= _plugins(params.with_values(job.values, where=job.name))
    return RunSpec(
        params=params,
        resources=resources,
        folder=first.folder.parent,
        prepared=first.prepared,
        split=first.split,
        header={"code": plugins},
        weights=weights,
        other_splits=tuple(sorted({job.split for job in jobs} - {first.split})),
    )


def _plugins(config: Params) -> dict[str, str]:
    plugin = config.regularizer.used_plugin
    return plugin_hashes([plugin] if plugin else [])


def _download_checkpoint(job: RetrainJob) -> None:
    """Move a finished run's last checkpoint to where finished runs are kept."""
    assert job.checkpoints is not None
    with replace_folder(job.folder) as whole, job.checkpoints.newest() as (_, folder):
        assert folder is not None
        shutil.copytree(folder, whole, dirs_exist_ok=True)
    job.checkpoints.clear()


def log_retraining(
    store: "Store",
    params: Params,
    jobs: Sequence[RetrainJob],
    fingerprint: str,
    workspace: Workspace,
    tags: Mapping[str, str],
    datasets: Sequence["DataUsed"] = (),
) -> dict[str, str]:
    """A run for each retraining, under its search; what was logged before is found again. Returns run ids by name."""
    from pipeline.tracking.single_run import (
        log_run,  # MLflow takes seconds to import, which the workers are to be spared
    )

    parent = search_run(workspace.state, fingerprint)
    runs = {}
    for job in jobs:
        used = {epoch: usage for epoch, _, usage in usage_in(job.folder)}
        curves = [
            (int(row["epoch"]), {k: v for k, v in row.items() if k != "epoch"} | used.get(int(row["epoch"]), {}))
            for row in learning_curves(job.folder)
        ]
        runs[job.name] = log_run(
            store,
            experiment=params.experiment,
            key=f"retrain/{job.folder.name}/{job.name}/{fingerprint[:16]}",
            name=f"retrain {job.name} {config_name(dict(job.values), short=True)}",
            params={**job.values, "seed": job.seed, "trained_on": "train+val"},
            metrics={},
            curves=curves,
            tags={
                **tags,
                "sar.kind": "retrain",
                "sar.arm": job.arm,
                "sar.fingerprint": fingerprint,
                "sar.search_run": parent or "",
            },
            parent_run_id=parent,
            datasets=datasets,
            seconds=seconds_in(job.folder),
        )
    return runs

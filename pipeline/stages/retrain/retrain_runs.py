"""Retraining runs: the best configuration and its control on train + val, with several seeds and fixed length.

Runs go in parallel on this machine or on the cluster, each in one worker or, with `retrain.workers_per_run`, in
several workers that share every batch. A worker may train several seeds of an arm together (`stack_size`). Each run
writes checkpoints (`pipeline.cluster.checkpoint_store`), from which it resumes after the loss of a worker or node.
Finished runs are stored under `state/retrain/`, by a hash of everything that determines them, so that an interrupted
stage does not repeat them. The seeds differ from the search's. The model of the first seed is registered, which is
fixed before any result is known. The last weights are the result.
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
from pipeline.stages.retrain.stack_size import StackQuestion, arm_of, choose_stack, group_runs
from pipeline.stages.retrain.worker import HISTORY, RetrainJob, retrain_one, retrain_together, seconds_in, usage_in
from pipeline.train.sidecar import SIDECAR, read_sidecar
from pipeline.train.stacked.stack_speed import StackChoice
from pipeline.tune.ray.placement import open_runtime
from pipeline.tune.task import Resources, RunSpec
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.tracking.dataset_inputs import DataUsed
    from pipeline.tracking.store import Store

OWN_FILES = (HISTORY,)
"""Files in a run's checkpoint folder that are not part of the model."""


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
    """Returns the runs of every arm and seed.

    Args:
        params: All parameters.
        arms: The configuration of each arm, by dotted path.
        seeds: Number of seeds of each arm; they follow `base.seed`.
        prepared: Folder of the prepared set.
        split: File of the split.
        hashes: Hashes of the data and of the split, which with the parameters determine the results.
        state: Folder below which finished runs are stored.
        weights: Pretrained weights of the search, by specification; None without any.
        fold: Number of the fold that the runs leave out; 0 for all images.

    Raises:
        UserError: A batch has fewer images than a run has workers.
        ValueError: The file of a plug-in cannot be found.
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
    """Returns whether the run is finished, by an earlier stage with fewer seeds or by one that was interrupted."""
    return (job.folder / SIDECAR).exists()


def finished_folders(jobs: Sequence[RetrainJob]) -> set[str]:
    """Returns the folders below models/ of the finished runs. Their names alone are the same in every fold.

    Args:
        jobs: The runs.
    """
    return {job.model_folder for job in jobs if is_finished(job)}


def run_retraining(params: Params, jobs: Sequence[RetrainJob], *, expected: str = "") -> Iterator[RetrainJob]:
    """Trains the unfinished runs in parallel, and yields each job once its checkpoint is stored.

    Args:
        params: All parameters.
        jobs: The runs.
        expected: How long the unfinished runs are expected to take, in words; empty if that is unknown.

    Raises:
        UserError: A run diverged or ran out of memory, workers were lost too often, or no run fits the resources.
    """
    missing = [job for job in jobs if not is_finished(job)]
    yield from (job for job in jobs if job not in missing)
    if not missing:
        return
    resources = retrain_resources(params)
    missing[0].folder.parent.mkdir(parents=True, exist_ok=True)
    ready: list[RetrainJob] = []
    # The line stands from the start, since Ray takes a while to start its workers.
    with (
        RunProgress(
            len(missing) * params.train.epochs,
            lambda: sum(_trained_epochs(params, job) for job in tuple(ready)),
            expected=expected,
        ),
        open_runtime(_run_spec(params, missing, resources)) as runtime,
    ):
        for job in missing:
            checkpoints = CheckpointStore(join(runtime.checkpoints, job.folder.name))
            ready.append(dataclasses.replace(job, bundle=runtime.bundle, checkpoints=checkpoints))
        capacity = None if runtime.capacity is None else Capacity(resources.cpus, resources.gpus)
        for index in _run_all(params, ready, resources, capacity):
            _download_checkpoint(ready[index])
            yield missing[index]


def learning_curves(folder: Path) -> list[dict[str, float]]:
    """Returns the metrics of every epoch of a run, from its checkpoint; each row also has `epoch`."""
    curves: list[dict[str, float]] = read_sidecar(folder)["curves"]
    return curves


def _trained_epochs(params: Params, job: RetrainJob) -> int:
    """Returns the last epoch of a run for which there is a checkpoint."""
    if is_finished(job):
        return params.train.epochs
    assert job.checkpoints is not None
    return job.checkpoints.done()


def _run_all(
    params: Params, jobs: Sequence[RetrainJob], resources: Resources, capacity: Capacity | None
) -> Iterator[int]:
    """Trains the jobs in parallel, and yields the index of each as it ends.

    Args:
        params: All parameters.
        jobs: The runs, with their places for checkpoints.
        resources: Resources of each worker.
        capacity: Free slots of the cluster; None on one machine, whose capacity does not change.
    """
    most, failures = params.retrain.max_concurrent_runs, params.search.max_failures
    if params.retrain.workers_per_run == 1:
        groups = group_runs(jobs, _choose_stacks(params, jobs, resources))
        done = run_jobs(
            retrain_together,
            [[jobs[index] for index in group] for group in groups],
            cpus=resources.cpus,
            gpus=resources.gpus,
            max_concurrent=most,
            failures=failures,
        )
        for number, why in done:
            if why is not None:
                print(f"{jobs[groups[number][0]].arm}: its seeds were trained one after the other: {why}", flush=True)
            yield from groups[number]
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


def _choose_stacks(
    params: Params, jobs: Sequence[RetrainJob], resources: Resources
) -> dict[tuple[str, int], StackChoice]:
    """Returns how many runs of each arm and fold one worker trains together, and prints what decided it.

    Args:
        params: All parameters.
        jobs: The runs.
        resources: Resources of each worker.
    """
    by_arm: dict[tuple[str, int], list[RetrainJob]] = {}
    for job in jobs:
        by_arm.setdefault(arm_of(job), []).append(job)
    asked, slots = params.retrain.seeds_per_worker, max(1, resources.max_concurrent)
    measured = asked is None and resources.gpus > 0 and params.base.device != "cpu"
    choices = {arm: StackChoice(1) for arm in by_arm}
    questions: dict[tuple[str, int], StackQuestion] = {}
    for arm, runs in by_arm.items():
        # Runs that have a GPU each are faster than a stack on one of the GPUs.
        most = -(-len(jobs) // slots) if asked is None else asked
        if (asked is not None or measured) and min(most, len(runs)) > 1:
            questions[arm] = StackQuestion(runs[0], min(most, len(runs)), measured)
    answers = run_jobs(
        choose_stack,
        list(questions.values()),
        cpus=resources.cpus,
        gpus=resources.gpus,
        max_concurrent=1,  # what is timed must be alone
        failures=params.search.max_failures,
    )
    for number, choice in answers:
        arm = list(questions)[number]
        choices[arm] = choice
        print(_describe_choice(arm, choice), flush=True)
    return choices


def _describe_choice(arm: tuple[str, int], choice: StackChoice) -> str:
    """Returns a line about the runs of an arm that are trained together.

    Args:
        arm: The arm's name and the fold.
        choice: The choice.
    """
    name = arm[0] + (f", fold {arm[1]}" if arm[1] else "")
    if choice.why is not None:
        return f"{name}: each seed is trained by itself: {choice.why}"
    faster = "" if choice.gain is None else f", {choice.gain:.1f} times as fast as one after the other"
    return f"{name}: {choice.size} seeds are trained together{faster}"


def _run_spec(params: Params, jobs: Sequence[RetrainJob], resources: Resources) -> RunSpec:
    """Returns the specification with which `open_runtime` places retraining runs on this machine or a cluster.

    Args:
        params: All parameters.
        jobs: The runs, at least one. Folder, prepared set and split are those of the first one; weights, plug-ins
            and further splits are those of all.
        resources: Resources of each worker.
    """
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
    """Moves a finished run's last checkpoint to the folder for finished runs."""
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
    """Logs each retraining run to MLflow as a child of its search's run; a run that was logged before is left as it is.

    Args:
        store: The tracking store.
        params: All parameters.
        jobs: The finished runs.
        fingerprint: Fingerprint of the search.
        workspace: The checkout.
        tags: Tags of every run.
        datasets: Data sets on which the runs were trained.

    Returns:
        Ids of the runs in MLflow, by the job's name.
    """
    from pipeline.tracking.single_run import (
        log_run,  # imported here because MLflow takes seconds to import, and workers do not need it
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

"""Retraining: the best setting and its control on train + val, several seeds each, fixed length, last weights.

Finished runs are kept under `state/retrain/` by what decides them, so that an interrupted stage loses none. The seeds
are not the search's, and the one whose model gets registered is fixed beforehand: the first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cluster.resources import default_gpus, machine_cpus, machine_gpus
from pipeline.cluster.runtime import local_ray, run_jobs
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.models.settings import Weights
from pipeline.ops.identity import code_hash, content_hash, setting_name, versions
from pipeline.ops.results import search_run
from pipeline.regularizers.plugin import plugin_hashes
from pipeline.train.checkpoint import read_sidecar, save_checkpoint
from pipeline.train.loop import Diverged, fit
from pipeline.train.memory import is_out_of_memory, out_of_memory_advice
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.track.datasets import DataUsed
    from pipeline.track.store import Store

SECONDS = "seconds"
"""File beside a run's checkpoint with the time it took to train."""


@dataclass(frozen=True)
class RetrainJob:
    """One run. arm: "best" or the control's name. values: its setting by dotted path. folder: for its checkpoint.

    weights: the pretrained weights of the search, by specification.
    """

    arm: str
    seed: int
    params: Mapping[str, Any]
    values: Mapping[str, Any]
    prepared: Path
    split: Path
    threads: int
    folder: Path
    weights: Mapping[str, Weights] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.arm}-seed{self.seed}"


def retrain_jobs(
    params: Params,
    arms: Mapping[str, Mapping[str, Any]],
    *,
    prepared: Path,
    split: Path,
    hashes: Sequence[str],
    state: Path,
    weights: Mapping[str, Weights] | None = None,
) -> list[RetrainJob]:
    """The runs of every arm and seed. hashes: of data and split, which decide the results with the parameters.

    Raises:
        ValueError: a plugin whose file cannot be found.
    """
    seeds = [params.base.seed + 1 + index for index in range(params.retrain.seeds)]
    dump = params.model_dump(by_alias=True)
    jobs = []
    for seed in seeds:
        for arm, values in arms.items():
            deciding = {section: dump[section] for section in ("model", "train", "regularizer")}
            plugin = params.with_values(values, where=arm).regularizer.used_plugin
            code = code_hash(plugin_hashes([plugin] if plugin else []))
            begins = {spec: each.sha256 for spec, each in (weights or {}).items()}
            key = content_hash([deciding, dict(values), seed, list(hashes), code, versions(), begins])
            folder = state / "retrain" / key[:16]
            threads = params.retrain.cpus_per_run
            jobs.append(RetrainJob(arm, seed, dump, values, prepared, split, threads, folder, weights or {}))
    return jobs


def run_retraining(params: Params, jobs: Sequence[RetrainJob]) -> Iterator[RetrainJob]:
    """Train what is not there yet, side by side on this machine, and yield each job once its checkpoint is there.

    Raises:
        UserError: a run diverged, or a worker died.
    """
    missing = [job for job in jobs if not (job.folder / "checkpoint.json").exists()]
    yield from (job for job in jobs if job not in missing)
    if not missing:
        return
    cpus, gpus = machine_cpus(), machine_gpus(params.base.device)
    each = default_gpus(params.retrain.gpus_per_run, gpus)
    with local_ray(cpus, gpus):
        for index, _ in run_jobs(
            retrain_one,
            missing,
            cpus=params.retrain.cpus_per_run,
            gpus=each,
            at_a_time=params.retrain.max_concurrent_runs,
        ):
            yield missing[index]


def retrain_one(job: RetrainJob) -> None:
    """Train one arm with one seed and leave its checkpoint, whose sidecar holds the curves by epoch.

    Raises:
        UserError: the training loss is no longer finite, or memory does not suffice.
    """
    import torch

    from pipeline.assembly import build_run, load_data

    torch.set_num_threads(job.threads)
    params = Params.model_validate(job.params).with_values(job.values, where=job.name)
    data = load_data(job.prepared, job.split, params.base.device)
    role = "train+val"
    run = build_run(params, data, seed=job.seed, scaled_by=role, weights=job.weights)
    curves, seconds, kept = [], 0.0, run.model
    try:
        for epoch in fit(
            run.model,
            data.batches(role, scaled_by=role),
            params.train.config(),
            regularizers=run.regularizers,
            seed=job.seed,
        ):
            # The time it took stays out of the sidecar: the same model is the same files, wherever it was trained.
            own = {name: value for name, value in epoch.metrics.items() if name != "seconds"}
            curves.append({"epoch": epoch.number, **own})
            seconds += epoch.metrics["seconds"]
            kept = epoch.model
    except Diverged as error:
        raise UserError(
            f"retraining {job.name}: {error}. The setting that the search found is at the edge of what trains; lower "
            "train.lr, or set train.clip_grad, and run again."
        ) from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        gpus = params.retrain.gpus_per_run or 0.0
        advice = out_of_memory_advice(
            params.train.config(), device=data.device, gpus=gpus, share="retrain.gpus_per_run"
        )
        raise UserError(f"retraining {job.name}: out of memory. {advice}") from None
    sidecar = {**run.sidecar, "arm": job.arm, "values": dict(job.values), "trained_on": role, "curves": curves}
    save_checkpoint(job.folder, kept, sidecar)
    (job.folder / SECONDS).write_text(f"{seconds:.2f}\n")


def seconds_of(folder: Path) -> float:
    """How long a run trained, in seconds; 0 if it was cut off between its checkpoint and this note."""
    path = folder / SECONDS
    return float(path.read_text()) if path.exists() else 0.0


def curves_of(folder: Path) -> list[dict[str, float]]:
    """The curves that a run's checkpoint holds, a mapping by epoch with `epoch` in it."""
    curves: list[dict[str, float]] = read_sidecar(folder)["curves"]
    return curves


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
    from pipeline.track.once import log_run  # MLflow takes seconds to import, which the workers are to be spared

    parent = search_run(workspace.state, fingerprint)
    runs = {}
    for job in jobs:
        curves = [(int(row["epoch"]), {k: v for k, v in row.items() if k != "epoch"}) for row in curves_of(job.folder)]
        runs[job.name] = log_run(
            store,
            experiment=params.experiment,
            key=f"retrain/{job.folder.name}/{job.name}/{fingerprint[:16]}",
            name=f"retrain {job.name} {setting_name(dict(job.values), short=True)}",
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
        )
    return runs

"""retrain: best configuration and control -> `models/<arm>-seed<n>/`, `results/retrain/`. Run by `dvc repro retrain`.

How many seeds there are is written to `results/retrain/seeds.json` before the first of them is trained.
"""

import json
import shutil
from typing import Any

from pipeline.artifacts.agreement import check_agreement
from pipeline.artifacts.stage_results import BEST, describe_method, read_best, read_json
from pipeline.config import Params, load_params
from pipeline.console.format import config_name
from pipeline.data.prepared.prepared import open_prepared
from pipeline.data.splits.split import read_split
from pipeline.entry import run_stage
from pipeline.preflight.power import check_seeds, describe_source, make_forecast, plan_seeds, run_cost
from pipeline.provenance.trace import trace
from pipeline.provenance.weights_record import from_record
from pipeline.stages.retrain.retrain_runs import (
    OWN_FILES,
    is_finished,
    learning_curves,
    log_retraining,
    retrain_jobs,
    run_retraining,
)
from pipeline.stages.retrain.worker import seconds_in
from pipeline.tracking.dataset_inputs import DataUsed
from pipeline.tracking.store import resolve_store
from pipeline.workspace import Workspace

SEEDS = "seeds.json"


def main(workspace: Workspace) -> None:
    """Train both arms with every seed and keep their weights."""
    params = load_params(workspace.params)
    check_agreement(workspace, params)
    found = read_best(workspace.results / "search")
    prepared = open_prepared(workspace.prepared)
    split = read_split(workspace.split, data_hash=prepared.data_hash)
    arms = {BEST: found.best, params.retrain.control: found.control(params.retrain.control)}
    configs = [params.with_values(values, where=arm) for arm, values in arms.items()]
    seeds = choose_number(workspace, params, test_images=len(split.test))
    jobs = retrain_jobs(
        params,
        arms,
        seeds=seeds["chosen"],
        prepared=workspace.prepared,
        split=workspace.split,
        hashes=[prepared.data_hash, split.split_hash],
        state=workspace.state,
        weights=from_record(workspace, found.weights, configs),
    )
    folder = workspace.results / "retrain"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SEEDS).write_text(json.dumps(seeds, indent=2) + "\n")  # before anything trains, or is tested
    kept = sum(is_finished(job) for job in jobs)
    done = f", {kept} of them done before" if kept else ""
    print(f"retraining on {len(split.train) + len(split.val):,} images: {len(jobs)} runs{done}", flush=True)
    if kept < len(jobs):
        print("starting Ray; a run's line comes when it has ended", flush=True)
    for count, job in enumerate(run_retraining(params, jobs), start=1):
        last = learning_curves(job.folder)[-1]
        print(f"[{count}/{len(jobs)}] {job.name:<20} train/accuracy {last['train/accuracy']:.4f}", flush=True)
    for job in jobs:
        shutil.copytree(
            job.folder, workspace.models / job.name, ignore=shutil.ignore_patterns(*OWN_FILES), dirs_exist_ok=True
        )
    store = resolve_store(params.tracking.uri, workspace.anchor)
    counts = {"train": len(split.train), "val": len(split.val)}
    name, source = str(prepared.manifest["dataset"]), str(workspace.prepared)
    used = [DataUsed(name, prepared.data_hash, source, "training", counts)]
    tags = trace(workspace.root, prepared.data_hash)
    runs = log_retraining(store, params, jobs, found.fingerprint, workspace, tags, used)
    content = {
        "fingerprint": found.fingerprint,
        "control": params.retrain.control,
        "method": describe_method(*(config.regularizer.configs() for config in configs)),
        "setting": config_name(dict(found.best)),
        "against": found.against,
        "runs": [{"arm": job.arm, "seed": job.seed, "folder": job.name, "mlflow_run": runs[job.name]} for job in jobs],
        "seconds": round(sum(seconds_in(job.folder) for job in jobs), 1),
        "to_register": jobs[0].name,
        "seeds": seeds,
    }
    (folder / "retrain.json").write_text(json.dumps(content, indent=2) + "\n")
    print(f"weights -> models/; {jobs[0].name} is the one to be registered")


def choose_number(workspace: Workspace, params: Params, *, test_images: int) -> dict[str, Any]:
    """Seeds of either arm: what was asked for, what it comes to, and why; `auto` by what the search has left.

    Raises:
        UserError: the search has left no summary.
    """
    asked = params.retrain.seeds
    if isinstance(asked, int):
        return {"asked": asked, "chosen": asked, "why": "retrain.seeds says so"}
    check_seeds(params)
    summary = read_json(workspace.results / "search" / "summary.json", made_by="search")
    forecast = make_forecast(params, summary.get("forecast"), test_images)
    plan, why = plan_seeds(params, forecast, run_cost(params, summary))
    why += f", {describe_source(forecast)}"
    print(f"retrain.seeds: {asked}: {why}")
    return {"asked": asked, "chosen": plan.seeds, "why": why}


if __name__ == "__main__":
    run_stage("retrain", main)

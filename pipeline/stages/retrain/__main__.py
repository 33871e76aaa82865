"""retrain: best configuration and control -> `models/<arm>-seed<n>/`, `results/retrain/`. Run by `dvc repro retrain`.

With folds, the networks of both arms of each fold are in `models/folds/<number>/`. On all images, only the network to
be registered is then trained.

The number of seeds is written to `results/retrain/seeds.json` before the first network is trained.
"""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.artifacts.agreement import check_agreement
from pipeline.artifacts.best_config import BestConfig
from pipeline.artifacts.retraining import ChosenSeeds, FoldRetraining, RetrainedRun, Retraining
from pipeline.artifacts.search_result import SearchSummary
from pipeline.artifacts.stage_results import BEST, describe_method
from pipeline.compute.usage_summary import summarise_usage
from pipeline.config import Params, load_params
from pipeline.console.format import config_name, format_duration
from pipeline.data.prepared.prepared import open_prepared
from pipeline.entry import run_stage
from pipeline.errors import UserError
from pipeline.inputs.guides import train_guides
from pipeline.inputs.procedure import Part, read_parts
from pipeline.preflight.power import check_seeds, describe_source, make_forecast, plan_seeds, run_cost
from pipeline.provenance.trace import trace
from pipeline.provenance.weights_record import from_record
from pipeline.score.forecast import UNFORETOLD
from pipeline.score.metrics.wording import accuracy_words, words_of
from pipeline.stages.retrain.retrain_runs import (
    OWN_FILES,
    finished_folders,
    learning_curves,
    log_retraining,
    retrain_jobs,
    run_retraining,
)
from pipeline.stages.retrain.worker import ROLE, RetrainJob, seconds_in, usage_in
from pipeline.tracking.dataset_inputs import DataUsed
from pipeline.tracking.store import resolve_store
from pipeline.workspace import Workspace


def main(workspace: Workspace) -> None:
    """Trains both arms with every seed and stores their weights.

    With folds, it trains both arms outside of each fold, and the best configuration once on all images.
    """
    params = load_params(workspace.params)
    check_agreement(workspace, params)
    prepared = open_prepared(workspace.prepared)
    parts = read_parts(workspace, params, data_hash=prepared.data_hash)
    whole, folds = parts[0], parts[1:]
    seeds = choose_number(workspace, params, test_images=sum(len(part.split.test) for part in folds or [whole]))
    of_parts = [_part_jobs(workspace, part, prepared.data_hash, seeds.chosen) for part in parts]
    jobs = [job for each in of_parts for job in each.jobs]
    folder = workspace.results / "retrain"
    seeds.write(folder)  # before any network is trained or tested
    kept = finished_folders(jobs)
    done = "" if not kept else f", {len(kept)} of them trained before" if len(kept) < len(jobs) else ", trained before"
    images = len(whole.split.train) + len(whole.split.val)
    beside = f" and outside each of {len(folds)} folds" if folds else ""
    print(f"retraining on {images:,} images{beside}: {len(jobs)} runs{done}", flush=True)
    expected = describe_duration(workspace, params, len(jobs) - len(kept))
    if len(kept) < len(jobs):
        takes = f" ({expected} expected)" if expected else ""
        print(
            f"starting Ray{takes}; a run's line comes when it has ended, and no image is left to validate on",
            flush=True,
        )
    of, width = len(jobs), max(len(job.model_folder) for job in jobs)
    for count, job in enumerate(run_retraining(params, jobs, expected=expected), start=1):
        workspace.note_progress("retrain", f"{count} of {of} networks")
        last = learning_curves(job.folder)[-1]
        print(
            f"[{count:>{len(str(of))}} of {of}] {job.model_folder:<{width}}  train/accuracy "
            f"{last['train/accuracy']:.4f}{'  trained before' * (job.model_folder in kept)}",
            flush=True,
        )
    for job in jobs:
        shutil.copytree(
            job.folder,
            workspace.models / job.model_folder,
            ignore=shutil.ignore_patterns(*OWN_FILES),
            dirs_exist_ok=True,
        )
    store = resolve_store(params.tracking.uri, workspace.anchor)
    name, source = str(prepared.manifest["dataset"]), str(workspace.prepared)
    tags = trace(workspace.root, prepared.data_hash)
    logged = []
    for part, each in zip(parts, of_parts, strict=True):
        counts = {"train": len(part.split.train), "val": len(part.split.val)}
        used = [DataUsed(name, prepared.data_hash, source, "training", counts)]
        logged.append(log_retraining(store, params, each.jobs, each.found.fingerprint, workspace, tags, used))
    own, guided = of_parts[0], sum(each.guide_seconds for each in of_parts)
    usage = summarise_usage((seconds, used) for job in jobs for _, seconds, used in usage_in(job.folder))
    further: dict[str, Any] = {"usage": usage} if usage else {}
    if guided:
        further["guide_seconds"] = round(guided, 1)
    if folds:
        further["folds"] = [
            each.describe_fold(part.number, runs)
            for part, each, runs in zip(folds, of_parts[1:], logged[1:], strict=True)
        ]
    retrained = Retraining(
        fingerprint=own.found.fingerprint,
        control=params.retrain.control,
        method=describe_method(*(config.regularizer.configs() for config in own.configs)),
        setting=config_name(own.found.best),
        against=own.found.against,
        runs=own.list_runs(logged[0]),
        seconds=round(sum(seconds_in(job.folder) for job in jobs), 1),
        to_register=jobs[0].name,
        seeds=seeds,
        **further,
    )
    retrained.write(folder)
    print(f"weights -> {workspace.models.relative_to(workspace.root)}/; {jobs[0].name} is the one to be registered")


@dataclass(frozen=True)
class PartRuns:
    """The retraining runs of one part of the procedure.

    Attributes:
        found: Result of the part's search.
        configs: Parameters of the best configuration and of the control.
        jobs: The runs.
        guide_seconds: Seconds spent on training guides.
    """

    found: BestConfig
    configs: list[Params]
    jobs: list[RetrainJob]
    guide_seconds: float = 0.0

    def list_runs(self, logged: Mapping[str, str]) -> list[RetrainedRun]:
        """Returns the runs as retrain.json lists them.

        Args:
            logged: Ids of the runs in MLflow, by the job's name.
        """
        return [
            RetrainedRun(arm=job.arm, seed=job.seed, folder=job.model_folder, mlflow_run=logged[job.name])
            for job in self.jobs
        ]

    def describe_fold(self, number: int, logged: Mapping[str, str]) -> FoldRetraining:
        """Returns a fold's entry of retrain.json.

        Args:
            number: Number of the fold, from 1.
            logged: Ids of the runs in MLflow, by the job's name.
        """
        return FoldRetraining(
            fold=number,
            fingerprint=self.found.fingerprint,
            setting=config_name(self.found.best),
            against=self.found.against,
            runs=self.list_runs(logged),
        )


def _part_jobs(workspace: Workspace, part: Part, data_hash: str, seeds: int) -> PartRuns:
    """Returns the runs of one part, and trains the guides that they need.

    With folds, the part on all images has one run only: the best configuration with the seed that is registered.

    Args:
        workspace: The checkout.
        part: Part of the procedure.
        data_hash: Hash of the prepared set.
        seeds: Number of seeds of each arm.
    """
    params = part.params
    found = BestConfig.read(part.folder(workspace.results / "search"))
    arms = {BEST: found.best, params.retrain.control: found.control(params.retrain.control)}
    configs = [params.with_values(values, where=arm) for arm, values in arms.items()]
    alone = part.folds and not part.number
    guides = train_guides(workspace, configs[:1] if alone else configs, split=part.path, role=ROLE)
    for line in guides.said:
        print(line, flush=True)
    jobs = retrain_jobs(
        params,
        {BEST: found.best} if alone else arms,
        seeds=1 if alone else seeds,
        prepared=workspace.prepared,
        split=part.path,
        hashes=[data_hash, part.split.split_hash],
        state=workspace.state,
        weights={**from_record(workspace, found.weights, configs), **guides.weights},
        fold=part.number,
    )
    return PartRuns(found, configs, jobs, guides.seconds)


def describe_duration(workspace: Workspace, params: Params, runs: int) -> str:
    """Returns how long the retraining runs are expected to take by the search's pace, in words.

    Args:
        workspace: The checkout.
        params: All parameters.
        runs: Number of runs that are left.

    Returns:
        The duration; empty if the search has left no pace, or if a run has several workers.
    """
    try:
        cost = run_cost(params, SearchSummary.read(workspace.results / "search"))
    except UserError:
        return ""
    if cost is None or not runs or params.retrain.workers_per_run > 1:
        return ""
    return f"about {format_duration(cost.seconds * math.ceil(runs / cost.together))}"


def choose_number(workspace: Workspace, params: Params, *, test_images: int) -> ChosenSeeds:
    """Chooses the number of seeds of either arm: as `retrain.seeds` says, or for `auto` from the search's forecast.

    Args:
        workspace: The checkout.
        params: All parameters.
        test_images: Number of test images, over all folds.

    Returns:
        The value of the parameter, the number chosen, and the reason in words.

    Raises:
        UserError: The search has not left a summary.
    """
    asked = params.retrain.seeds
    if isinstance(asked, int):
        return ChosenSeeds(asked=asked, chosen=asked, why="retrain.seeds says so")
    check_seeds(params)
    summary = SearchSummary.read(workspace.results / "search")
    forecast = make_forecast(params, summary.forecast, test_images)
    words = accuracy_words(params)
    if params.evaluate.metric != words.name:
        words = words_of(summary.choice.metric)  # the same metric (check_seeds), with the current margin
    plan, why = plan_seeds(params, forecast, words, run_cost(params, summary))
    if plan.reason != UNFORETOLD:
        why += f", {describe_source(forecast)}"
    print(f"retrain.seeds: {asked}: {why}")
    return ChosenSeeds(asked=asked, chosen=plan.seeds, why=why)


if __name__ == "__main__":
    run_stage("retrain", main)

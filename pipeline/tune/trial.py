"""One trial: a configuration in; a report an epoch, and a checkpoint now and then, out. Runs on Ray's workers."""

import gc
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from ray import tune

from pipeline.assembly import TrainingData, build_run, load_data, train_run
from pipeline.cluster.joining import here_among_several
from pipeline.cluster.storage import at_hand
from pipeline.config import Params
from pipeline.models.settings import Weights
from pipeline.train.checkpoint import load_state, load_weights, read_sidecar, write_checkpoint
from pipeline.train.loop import Diverged
from pipeline.train.memory import is_out_of_memory, out_of_memory_advice
from pipeline.train.settings import MOST_PIECES
from pipeline.tune.entering import TrialTask
from pipeline.tune.ledger import OBJECTIVE
from pipeline.tune.placing import find_data


def run_trial(config: Mapping[str, Any], task: TrialTask) -> None:
    """Train one setting and report to Ray Tune.

    config: trial (id in the ledger), study (its name, None outside of one), values (by dotted path), seed (None for
    base.seed), checkpoint (path to go on from, or None). Each report has `epoch` (from 1), `objective`, `metrics` (all
    by name) and `failed`: None, or why the trial cannot go on.
    """
    torch.set_num_threads(task.threads)
    params = Params.model_validate(task.params).with_values(config["values"], where=f"trial {config['trial']}")
    found = find_data(task.prepared, task.split, task.weights, task.parcel)
    data = load_data(found.prepared, found.split, params.base.device)
    if data.device.type == "cuda" and 0 < task.gpus < 1:
        # Ray counts shares of a GPU but does not enforce them.
        torch.cuda.set_per_process_memory_fraction(task.gpus)
    newest = config["checkpoint"]
    try:
        try:
            _train(params, data, config, newest, found.weights)
            return
        except Exception as error:
            if (
                not (is_out_of_memory(error) and params.search.retry_out_of_memory)
                or 2 * params.train.accumulate > MOST_PIECES
            ):
                raise
        # Outside of the handler, whose traceback holds on to the tensors that did not fit.
        gc.collect()
        if data.device.type == "cuda":
            torch.cuda.empty_cache()
        params = params.with_values({"train.accumulate": 2 * params.train.accumulate}, where="a second attempt")
        _train(params, data, config, newest, found.weights)
    except Diverged as error:
        _report_failure(f"diverged: {error}", error.epoch)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        advice = out_of_memory_advice(params.train.config(), device=data.device, gpus=task.gpus)
        _report_failure(f"out of memory: {advice}", 0)


def _train(
    params: Params,
    data: TrainingData,
    config: Mapping[str, Any],
    checkpoint: str | None,
    weights: Mapping[str, Weights],
) -> None:
    """Train from the newest checkpoint on, if there is one."""
    seed = params.base.seed if config["seed"] is None else config["seed"]
    run = build_run(params, data, seed=seed, weights=weights)
    resume = None
    # Ray hands back the newest checkpoint when it restarts a trial whose worker died; ours comes from the ledger.
    newest = tune.get_checkpoint()
    kept = at_hand(checkpoint) if checkpoint else nullcontext(None)
    with newest.as_directory() if newest else kept as folder:
        if folder is not None:
            load_weights(Path(folder), run.model)
            resume = load_state(Path(folder))
            if resume["epoch"] >= params.train.epochs:
                # It died between its last checkpoint and the report of it.
                _report(resume["epoch"], read_sidecar(Path(folder))["metrics"])
                return
    epochs = train_run(run, params, data, seed=seed, resume=resume)
    for epoch in epochs:
        if epoch.number % params.search.checkpoint_every and epoch.number < params.train.epochs:
            _report(epoch.number, epoch.metrics)
            continue
        with tempfile.TemporaryDirectory() as folder:
            sidecar = {**run.sidecar, "metrics": dict(epoch.metrics), "values": dict(config["values"])}
            write_checkpoint(Path(folder), epoch.model, sidecar, state=epoch.state())
            _report(epoch.number, epoch.metrics, tune.Checkpoint.from_directory(folder))


def _report(epoch: int, metrics: Mapping[str, float], checkpoint: Any = None) -> None:
    report = {"epoch": epoch, "objective": metrics[OBJECTIVE], "metrics": dict(metrics), "failed": None}
    report["node"] = here_among_several()
    tune.report(report, checkpoint=checkpoint)


def _report_failure(reason: str, epoch: int) -> None:
    tune.report({"epoch": epoch, "objective": float("nan"), "metrics": {}, "failed": reason})

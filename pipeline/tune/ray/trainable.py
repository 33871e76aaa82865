"""Trainable: trains one configuration, reports every epoch, and writes checkpoints. Runs on Ray's workers."""

import gc
import math
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from ray import tune
from torch import Tensor, nn

from pipeline.assembly import TrainingData, WriteCheckpoint, build_run, load_data, load_resume_state, train_resumable
from pipeline.cluster.connect import driver_among_nodes
from pipeline.cluster.storage import local_copy
from pipeline.config import Params, Values
from pipeline.models.model_config import Weights
from pipeline.train.checkpoint import write_checkpoint
from pipeline.train.loop import Diverged, Epoch
from pipeline.train.memory import is_out_of_memory, out_of_memory_advice
from pipeline.train.sidecar import Sidecar, TrainState, read_sidecar
from pipeline.train.train_config import MAX_MICRO_BATCHES
from pipeline.tune.journal.image_scores import pack_scores
from pipeline.tune.journal.records import VAL_ACCURACY
from pipeline.tune.objectives.objectives import Objectives, maximise, objectives_from_params
from pipeline.tune.objectives.trial_metrics import measure_speed, score_attention, score_classes, score_images
from pipeline.tune.ray.placement import locate_data
from pipeline.tune.ray.trial_spec import TrialSpec

NOTHING: Mapping[str, float] = MappingProxyType({})
"""Usage of an epoch in which it was not measured."""


def run_trial(config: Values, task: TrialSpec) -> None:
    """Trains one configuration and reports to Ray Tune.

    The configuration has these keys:

        trial       id in the journal
        study       name of its study, None outside of one
        values      parameter values by dotted path
        seed        None for base.seed
        checkpoint  path of the checkpoint to resume from, or None
        measured    metrics that earlier attempts measured before their first epoch

    Each report has `epoch` (from 1), `objective`, `metrics` (all by name), `usage` (of the machine, by name)
    and `failed`: None, or why the trial cannot go on. Before the first epoch, one report may have `measured`,
    by metric, and `infeasible`: None, or the constraint that the trial breaks, in which case it is not trained.

    Args:
        config: The configuration.
        task: Specification that all trials of the search share.
    """
    params, data, weights = open_trial(config, task)
    newest = config["checkpoint"]
    try:
        try:
            _train(params, data, config, newest, weights, task)
            return
        except Exception as error:
            if (
                not (is_out_of_memory(error) and params.search.retry_out_of_memory)
                or 2 * params.train.accumulate > MAX_MICRO_BATCHES
            ):
                raise
        # This runs after the handler, because its traceback references the tensors that did not fit.
        free_memory(data.device)
        params = params.with_values({"train.accumulate": 2 * params.train.accumulate}, where="a second attempt")
        _train(params, data, config, newest, weights, task)
    except Diverged as error:
        _report_failure(f"diverged: {error}", error.epoch)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        advice = out_of_memory_advice(params.train.config(), device=data.device, gpus=task.gpus)
        _report_failure(f"out of memory: {advice}", 0)


def open_trial(config: Values, task: TrialSpec) -> tuple[Params, TrainingData, Mapping[str, Weights]]:
    """Returns the parameters of a configuration, the data on the device, and the pretrained weights on this node.

    Args:
        config: The configuration (see `run_trial`).
        task: Specification that all trials of the search share.
    """
    torch.set_num_threads(task.threads)
    params = Params.model_validate(task.params).with_values(config["values"], where=f"trial {config['trial']}")
    found = locate_data(task.prepared, task.split, task.weights, task.bundle)
    data = load_data(found.prepared, found.split, params.base.device)
    if data.device.type == "cuda" and 0 < task.gpus < 1:
        # Ray counts shares of a GPU but does not enforce them.
        torch.cuda.set_per_process_memory_fraction(task.gpus)
    return params, data, found.weights


def free_memory(device: torch.device) -> None:
    """Frees the memory of tensors that nothing references any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _train(
    params: Params,
    data: TrainingData,
    config: Values,
    checkpoint: str | None,
    weights: Mapping[str, Weights],
    task: TrialSpec,
) -> None:
    """Trains a configuration, from its newest checkpoint if there is one.

    Args:
        params: Parameters of this trial.
        data: Prepared set, split and device.
        config: The configuration (see `run_trial`).
        checkpoint: Path of the journal's checkpoint; None without one.
        weights: Resolved pretrained weights, by specification.
        task: Specification that all trials of the search share.
    """
    seed = params.base.seed if config["seed"] is None else config["seed"]
    run = build_run(params, data, seed=seed, weights=weights)
    resume, objectives = None, objectives_from_params(params)
    # When Ray restarts a trial whose worker died, it has the newest checkpoint. Otherwise the journal has it.
    newest = tune.get_checkpoint()
    kept = local_copy(checkpoint) if checkpoint else nullcontext(None)
    with newest.as_directory() if newest else kept as folder:
        if folder is not None:
            resume = load_resume_state(run, Path(folder))
            if resume["epoch"] >= params.train.epochs:
                # The worker died between writing the last checkpoint and reporting it.
                written = read_sidecar(Path(folder))
                _report(resume["epoch"], written["metrics"], objectives.first, written.get("scores"))
                return
    if resume is None and _is_infeasible(run.model, data, objectives, config):
        return

    rungs = set(task.rung_epochs)

    def on_epoch(epoch: Epoch, due: bool, wait: Callable[[], None]) -> WriteCheckpoint | None:
        scored = epoch.number in rungs or epoch.number == params.train.epochs
        metrics, scores = score_epoch(epoch, data, objectives, params, scored=scored)
        report = partial(_report, epoch.number, metrics, objectives.first, scores, usage=epoch.usage)
        if not due:
            wait()  # reports must arrive in the order of their epochs
            report()
            return None
        sidecar: Sidecar = {**run.sidecar, "metrics": metrics, "scores": scores, "values": dict(config["values"])}
        return partial(_save_checkpoint, report, sidecar)

    # At a rung, the scheduler's decision must arrive before the next epoch is trained.
    decisive = rungs if config["study"] is not None else set()
    stored = decisive if task.pauses else set()
    train_resumable(run, params, data, on_epoch, seed=seed, resume=resume, decisive=decisive, stored=stored)


def score_epoch(
    epoch: Epoch, data: TrainingData, objectives: Objectives, params: Params, *, scored: bool
) -> tuple[dict[str, float], str | None]:
    """Returns the metrics of an epoch, and the packed scores of the validation images; None if not available.

    Args:
        epoch: The epoch that has ended.
        data: Prepared set, split and device.
        objectives: Objectives and constraints.
        params: Parameters of this trial.
        scored: Whether attention and single images are scored, as at rungs and at the end.
    """
    metrics, scores = dict(epoch.metrics), None
    if objectives.class_metrics and epoch.probabilities is not None:
        metrics |= score_classes(epoch.probabilities(), data, objectives, params)
    if scored:
        metrics |= score_attention(epoch.model, data, objectives)
        scores = _pack_scores(epoch, data, objectives, params)
    return metrics, scores


def _pack_scores(epoch: Epoch, data: TrainingData, objectives: Objectives, params: Params) -> str | None:
    """Returns the packed scores of the validation images in the first objective; None if not available.

    Args:
        epoch: The epoch that has ended.
        data: Prepared set, split and device.
        objectives: Objectives and constraints.
        params: Parameters of this trial.
    """
    if objectives.first == VAL_ACCURACY:
        return None if epoch.correct is None else pack_scores(epoch.correct())
    if epoch.probabilities is None:
        return None
    found = score_images(epoch.probabilities(), data, objectives, params)
    return None if found is None else pack_scores(found)


def _save_checkpoint(
    report: Callable[..., None],
    sidecar: Sidecar,
    weights: nn.Module | Mapping[str, Tensor],
    state: TrainState | None,
) -> None:
    """Writes a checkpoint and reports its epoch.

    Args:
        report: `_report` of this epoch, which takes the checkpoint.
        sidecar: The checkpoint's sidecar.
        weights: The network, or its state dict.
        state: Training state; None to store the weights alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), weights, sidecar, state=state)
        report(checkpoint=tune.Checkpoint.from_directory(folder))


def _is_infeasible(model: nn.Module, data: TrainingData, objectives: Objectives, config: Values) -> bool:
    """Measures and reports the requested metrics of speed, and returns whether they break a constraint.

    This is done once for each trial. Controls and confirmations are trained whatever their speed is.

    Args:
        model: The network.
        data: Prepared set, split and device.
        objectives: Objectives and constraints.
        config: The configuration (see `run_trial`).
    """
    if not objectives.speed_metrics or set(objectives.speed_metrics) <= set(config["measured"]):
        return False
    measured = measure_speed(model, data, objectives)
    broken = objectives.explain_infeasible(measured) if config["study"] is not None else []
    report = {"epoch": 0, "objective": math.nan, "metrics": {}, "failed": None, "measured": measured}
    tune.report({**report, "infeasible": "; ".join(broken) or None})
    return bool(broken)


def _report(
    epoch: int,
    metrics: Mapping[str, float],
    objective: str,
    scores: str | None = None,
    checkpoint: Any = None,
    usage: Mapping[str, float] = NOTHING,
) -> None:
    """Reports an epoch to Ray Tune.

    Args:
        epoch: Number of the epoch, counted from 1.
        metrics: The epoch's metrics by name.
        objective: Name of the first objective, whose value is turned so that more is better.
        scores: Packed scores of the validation images; None if not available.
        checkpoint: Ray's checkpoint; None without one.
        usage: Usage of the machine by name.
    """
    report = {
        "epoch": epoch,
        "objective": maximise(objective, metrics[objective]),
        "metrics": dict(metrics),
        "usage": dict(usage),
        "failed": None,
        "scores": scores,
        "node": driver_among_nodes(),
    }
    tune.report(report, checkpoint=checkpoint)


def _report_failure(reason: str, epoch: int) -> None:
    tune.report({"epoch": epoch, "objective": float("nan"), "metrics": {}, "failed": reason})

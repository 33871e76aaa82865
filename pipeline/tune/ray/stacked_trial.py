"""Trainable of a stack: trains confirmations of one configuration together, each with its own reports and checkpoints.

A Ray checkpoint of a stack has a sub-folder for each run, named by the run's id. The sub-folder is the checkpoint that
the run would write alone, so either kind of run resumes the other.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from torch import Tensor, nn

from pipeline.assembly import TrainingData, TrainingRun, build_run, choose_stack_size, load_resume_state, train_stack
from pipeline.cluster.connect import driver_among_nodes
from pipeline.cluster.storage import local_copy
from pipeline.config import Params, Values
from pipeline.models.model_config import Weights
from pipeline.models.stacked_network import CannotStack
from pipeline.train.checkpoint import write_checkpoint
from pipeline.train.checkpoint_writer import CheckpointWriter
from pipeline.train.loop import Diverged, Epoch
from pipeline.train.sidecar import Sidecar, TrainState, read_sidecar
from pipeline.train.stacked.stack_speed import StackChoice, try_stack
from pipeline.tune.objectives.objectives import Objectives, objectives_from_params
from pipeline.tune.objectives.trial_metrics import measure_speed
from pipeline.tune.ray.trainable import free_memory, open_trial, score_epoch
from pipeline.tune.ray.trial_spec import APART, STACK, TrialSpec

Report = dict[str, Any]


@dataclass
class _Member:
    """A run of the stack.

    Attributes:
        trial: Its id in the journal.
        seed: Its seed.
        run: Its network, with the checkpoint's weights if there is one, and its regularisers.
        resume: Training state to resume from; None to begin.
        written: Sidecar of that checkpoint; None without one.
        measured: Metrics that earlier attempts measured before their first epoch.
    """

    trial: str
    seed: int
    run: TrainingRun
    resume: TrainState | None
    written: Sidecar | None
    measured: Mapping[str, float]

    @property
    def done(self) -> int:
        """Epochs that have been trained."""
        return 0 if self.resume is None else int(self.resume["epoch"])


def run_stack(config: Values, task: TrialSpec) -> None:
    """Trains confirmations of one configuration together and reports to Ray Tune, or gives them back.

    The configuration has the keys of `run_trial`, which are those of the first run, and these:

        stack       of each run `trial`, `seed`, `checkpoint` and `measured`, as in `run_trial`
        measure     whether to train them together only if a measurement says that this is faster

    Each report has under `stack` the reports of all runs, with `trial`, the run's id. A run that has diverged is
    reported once with `failed`, and the others go on.

    A report with `apart` says that the runs are to be trained in smaller stacks or alone, from their checkpoints. They
    cannot be stacked then, memory does not suffice, or a stack would not be faster.

    Args:
        config: The configuration.
        task: Specification that all trials of the search share.
    """
    params, data, weights = open_trial(config, task)
    members = len(config[STACK])
    slower: StackChoice | None = None

    def train() -> None:
        nonlocal slower
        if config["measure"] and tune.get_checkpoint() is None:
            choice = choose_stack_size(params, data, most=members, measured=True, weights=weights)
            if choice.size < members:
                slower = choice
                return
        _train(params, data, config, weights, task)

    size, why = 1, try_stack(train, members)
    if slower is not None:
        size, why = slower.size, slower.why or "more would not be faster on this device"
    if why is not None:
        free_memory(data.device)
        said = {"epoch": 0, "objective": math.nan, "metrics": {}, "failed": "apart", APART: {"size": size, "why": why}}
        tune.report(said)


def _train(params: Params, data: TrainingData, config: Values, weights: Mapping[str, Weights], task: TrialSpec) -> None:
    """Trains the runs to their last epoch.

    Args:
        params: Parameters of this configuration.
        data: Prepared set, split and device.
        config: The configuration (see `run_stack`).
        weights: Resolved pretrained weights, by specification.
        task: Specification that all trials of the search share.

    Raises:
        CannotStack: The runs cannot be trained together.
    """
    objectives, epochs = objectives_from_params(params), params.train.epochs
    members = list(_open_members(params, data, config, weights))
    done = {member.done for member in members}
    if not done:
        return  # the worker died after the last run had ended
    if len(done) > 1:
        raise CannotStack(f"their checkpoints are of different epochs ({', '.join(map(str, sorted(done)))})")
    if done == {epochs}:
        # The worker died between writing the last checkpoint and reporting it.
        _report([_report_written(member) for member in members])
        return
    if done == {0}:
        _measure(members, data, objectives)
    scored = {*task.rung_epochs, epochs}
    states = [member.resume for member in members if member.resume is not None]
    together = train_stack(
        [member.run for member in members],
        params,
        data,
        seeds=[member.seed for member in members],
        resume=states or None,
    )
    with CheckpointWriter() as writer:
        for ended in together:
            reports: list[Report] = []
            saved: dict[str, tuple[Epoch, Sidecar]] = {}
            for index, epoch in ended.items():
                member = members[index]
                if isinstance(epoch, Diverged):
                    reports.append(_report_of(member, epoch.epoch, {}, failed=f"diverged: {epoch}"))
                    continue
                metrics, scores = score_epoch(epoch, data, objectives, params, scored=epoch.number in scored)
                reports.append(_report_of(member, epoch.number, metrics, scores=scores, usage=epoch.usage))
                own: Sidecar = {
                    **member.run.sidecar, "metrics": metrics, "scores": scores, "values": dict(config["values"])
                }  # fmt: skip
                saved[member.trial] = epoch, own
            _save(reports, saved, params, writer)


def _open_members(
    params: Params, data: TrainingData, config: Values, weights: Mapping[str, Weights]
) -> Iterator[_Member]:
    """Yields the runs that are to be trained, each with its newest checkpoint.

    Args:
        params: Parameters of this configuration.
        data: Prepared set, split and device.
        config: The configuration (see `run_stack`).
        weights: Resolved pretrained weights, by specification.
    """
    # When Ray restarts a worker that died, it has the newest checkpoint. Otherwise the journal has those of the runs.
    newest = tune.get_checkpoint()
    with newest.as_directory() if newest else nullcontext(None) as together:
        for each in config[STACK]:
            if together is not None and not (Path(together) / each["trial"]).is_dir():
                continue  # it has ended before
            seed = params.base.seed if each["seed"] is None else each["seed"]
            run = build_run(params, data, seed=seed, weights=weights)
            kept = local_copy(each["checkpoint"]) if each["checkpoint"] else nullcontext(None)
            with nullcontext(Path(together) / each["trial"]) if together is not None else kept as folder:
                resume = None if folder is None else load_resume_state(run, folder)
                written = None if folder is None else read_sidecar(folder)
            yield _Member(each["trial"], seed, run, resume, written, each["measured"])


def _measure(members: Sequence[_Member], data: TrainingData, objectives: Objectives) -> None:
    """Measures and reports the requested metrics of speed of runs that have none yet.

    Args:
        members: The runs.
        data: Prepared set, split and device.
        objectives: Objectives and constraints.
    """
    reports = []
    for member in members:
        if objectives.speed_metrics and not set(objectives.speed_metrics) <= set(member.measured):
            speed = measure_speed(member.run.model, data, objectives)
            reports.append(_report_of(member, 0, {}) | {"measured": speed})
    if reports:
        _report(reports)


def _save(
    reports: list[Report], saved: Mapping[str, tuple[Epoch, Sidecar]], params: Params, writer: CheckpointWriter
) -> None:
    """Reports an epoch, with a checkpoint of all runs if one is due.

    Args:
        reports: The reports of all runs.
        saved: Of each run that goes on or is complete, its epoch and the sidecar of its checkpoint.
        params: Parameters of this configuration.
        writer: Writes the checkpoints.
    """
    epochs = [epoch for epoch, _ in saved.values()]
    number = epochs[0].number if epochs else 0
    last = number == params.train.epochs
    if not epochs or not (last or number % params.search.checkpoint_every == 0):
        writer.wait()  # reports must arrive in the order of their epochs
        _report(reports)
        return
    sidecars = {trial: sidecar for trial, (_, sidecar) in saved.items()}
    writer.save(
        partial(_save_checkpoint, reports, sidecars),
        nn.ModuleList(epoch.model for epoch in epochs),
        {"runs": [epoch.state() for epoch in epochs]},
        epoch_seconds=sum(epoch.metrics["seconds"] for epoch in epochs),
        blocking=last,
    )


def _save_checkpoint(
    reports: list[Report],
    sidecars: Mapping[str, Sidecar],
    weights: nn.Module | Mapping[str, Tensor],
    state: Mapping[str, Any] | None,
) -> None:
    """Writes the runs' checkpoints and reports their epoch.

    Args:
        reports: The reports of all runs.
        sidecars: The sidecars of the runs with a checkpoint.
        weights: Their networks in a list, or its state dict.
        state: Their training states, under `runs`.
    """
    assert state is not None
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    with tempfile.TemporaryDirectory() as folder:
        for index, (trial, sidecar) in enumerate(sidecars.items()):
            own, prefix = Path(folder) / trial, f"{index}."
            own.mkdir()
            of_run = {name.removeprefix(prefix): held for name, held in tensors.items() if name.startswith(prefix)}
            write_checkpoint(own, of_run, sidecar, state=state["runs"][index])
        _report(reports, tune.Checkpoint.from_directory(folder))


def _report_written(member: _Member) -> Report:
    assert member.written is not None
    return _report_of(member, member.done, member.written["metrics"], scores=member.written.get("scores"))


def _report_of(
    member: _Member,
    epoch: int,
    metrics: Mapping[str, float],
    *,
    scores: str | None = None,
    usage: Mapping[str, float] | None = None,
    failed: str | None = None,
) -> Report:
    """Returns the report of a run.

    Args:
        member: The run.
        epoch: Number of the epoch, counted from 1; 0 before the first one.
        metrics: The epoch's metrics by name.
        scores: Packed scores of the validation images; None if not available.
        usage: Usage of the machine by name; None if it was not measured.
        failed: Why the run cannot go on; None if it can.
    """
    return {
        "trial": member.trial,
        "epoch": epoch,
        "metrics": dict(metrics),
        "usage": dict(usage or {}),
        "failed": failed,
        "scores": scores,
        "node": driver_among_nodes(),
    }


def _report(reports: Sequence[Report], checkpoint: Any = None) -> None:
    """Reports an epoch of all runs to Ray Tune.

    Args:
        reports: The reports of all runs.
        checkpoint: Ray's checkpoint; None without one.
    """
    epoch = max(report["epoch"] for report in reports)
    said = {"epoch": epoch, "objective": math.nan, "metrics": {}, "failed": None, STACK: list(reports)}
    tune.report(said, checkpoint=checkpoint)

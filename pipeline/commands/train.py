"""`sar-search train`: trains one configuration by hand, without Ray.

It writes nothing but a guide that the configuration needs and, with `--save`, a checkpoint. The same command
resumes from the checkpoint. `model.pretrained` and guided transfer's `source` can name it, as a backbone of
the user's own.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError

from pipeline.assembly import TrainingData, TrainingRun, build_run, load_data, load_resume_state, train_run
from pipeline.compute.usage_summary import describe_usage, summarise_usage
from pipeline.config import Params, Values, load_params
from pipeline.config.yaml import parse_yaml
from pipeline.console.format import format_count
from pipeline.errors import UserError, format_value, quote_name
from pipeline.inputs.guides import train_guides
from pipeline.inputs.resolved_weights import resolve_weights
from pipeline.models.model_config import Weights
from pipeline.provenance.code_hash import content_hash
from pipeline.train.checkpoint import save_checkpoint
from pipeline.train.loop import Diverged
from pipeline.train.memory import is_out_of_memory, out_of_memory_advice
from pipeline.train.sidecar import SIDECAR, TrainState, read_sidecar
from pipeline.workspace import Workspace

MAX_LISTED = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
"""Metrics that every epoch's line shows."""

OWN_VALUE = "METHOD/value: what that method of regularisation lowers; with weight 0 it is only measured"
"""Line that explains the further metrics."""


def parse_assignments(overrides: Sequence[str]) -> Values:
    """Parses `KEY=VALUE` texts into parameters by dotted path. Values are read as YAML, as in params.yaml.

    Args:
        overrides: the texts.

    Raises:
        UserError: a text has no `=`, or a value is not YAML.
    """
    parsed = {}
    for text in overrides:
        path, sign, value = text.partition("=")
        if not sign:
            raise UserError(f"--set {format_value(text)}: needed: KEY=VALUE, such as train.lr=0.001")
        parsed[path.strip()] = parse_yaml(value, f"--set {quote_name(path.strip())}")
    return parsed


def train_once(workspace: Workspace, overrides: Values, save: Path | None = None) -> Iterator[str]:
    """Trains a configuration on train, scores it on val, and yields a line an epoch.

    A line before them says what is trained on what. Another line, at the end, has the usage of the machine.

    Args:
        workspace: the checkout.
        overrides: values that replace those of params.yaml, by dotted path.
        save: folder for a checkpoint after every epoch, or None. A checkpoint of the same training in it is
            resumed.

    Raises:
        UserError: a wrong parameter, missing data, a network that cannot be built, unavailable weights, an
            unusable folder, a diverged loss, or too little memory.
    """
    params = load_params(workspace.params).with_values(overrides, where="--set")
    if save is not None:
        _check_folder(workspace, save)
    torch.set_num_threads(params.search.cpus_per_trial)
    data = load_data(workspace.prepared, workspace.split, params.base.device)
    weights = resolve_weights(workspace, [("params.yaml and --set", params)])
    guides = train_guides(workspace, [params], split=workspace.split, role="train")
    yield from guides.said
    run = build_run(params, data, seed=params.base.seed, weights={**weights, **guides.weights})
    training = _training_hash(params, data, weights)
    resume = None if save is None else _resume(save, run, training)
    if resume is not None:
        yield f"{save}: has epoch {resume['epoch']} of {params.train.epochs}"
    yield _describe_training(params, data, run)
    epochs = train_run(run, params, data, seed=params.base.seed, resume=resume)
    used, explained = [], False
    try:
        for epoch in epochs:
            if save is not None:
                _save(save, epoch.model, {**run.sidecar, "training": training}, epoch.state())
            own = [name for name in epoch.metrics if name.startswith("val/") and name.endswith("/value")]
            if own and not explained:
                explained = True
                yield OWN_VALUE
            figures = "  ".join(f"{name} {epoch.metrics[name]:.4f}" for name in (*MAX_LISTED, *own))
            yield f"epoch {epoch.number}/{params.train.epochs}  {figures}  {epoch.metrics['seconds']:.1f} s"
            used.append((epoch.metrics["seconds"], epoch.usage))
    except ValueError as error:
        raise UserError(str(error)) from None
    except Diverged as error:
        raise UserError(f"{error}. Lower train.lr, or set train.clip_grad.") from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        advice = out_of_memory_advice(params.train.config(), device=data.device, gpus=0.0)
        raise UserError(f"out of memory. {advice}") from None
    if said := describe_usage(summarise_usage(used)):
        yield f"used: {said}"
    if save is not None:
        named = "model.pretrained and regularizer.guided_transfer.source can name it"
        yield f"{save}: the checkpoint of the last epoch; {named}"


def _describe_training(params: Params, data: TrainingData, run: TrainingRun) -> str:
    """Returns a line about data, network and threads of a training.

    Args:
        params: the parameters.
        data: the training data.
        run: the network and its regularisers.
    """
    weights = sum(each.numel() for each in run.model.parameters())
    split, threads = data.split, format_count(torch.get_num_threads(), "thread")
    return (
        f"training: {params.model.name} ({weights:,} parameters) on {len(split.train):,} images of {params.set_name}, "
        f"scored on {len(split.val):,} others (val); the {len(split.test):,} test images are not used; "
        f"{format_count(params.train.epochs, 'epoch')} on {data.device}, {threads}"
    )


def _check_folder(workspace: Workspace, save: Path) -> None:
    """Raises a UserError for a folder that the pipeline cleans, or that is in use for something else."""
    if (folder := workspace.written_folder(save)) is not None:
        raise UserError(f"--save: {save}: lies in {folder.name}/, which the pipeline writes and cleans; name another.")
    if save.is_file() or (save.is_dir() and any(save.iterdir()) and not (save / SIDECAR).is_file()):
        raise UserError(f"--save: {save}: contains something other than a checkpoint; name a new folder.")


def _training_hash(params: Params, data: TrainingData, weights: Mapping[str, Weights]) -> str:
    """Returns a hash of everything that decides a training: parameters, data, split, seed and weights.

    Args:
        params: the parameters.
        data: the training data.
        weights: weights that it begins from, or that guide it, by their specification.
    """
    sections = params.model_dump(mode="json", include={"model", "train", "regularizer"})
    begun = {spec: each.sha256 for spec, each in weights.items()}
    of = [data.prepared.data_hash, data.split.split_hash, params.base.seed, begun]
    return content_hash([sections, *of])


def _resume(save: Path, run: TrainingRun, training: str) -> TrainState | None:
    """Loads a checkpoint into the network, if there is one.

    Args:
        save: the checkpoint's folder.
        run: the network and its regularisers.
        training: hash that the checkpoint must have.

    Returns:
        The training state, or None without a checkpoint.

    Raises:
        UserError: the checkpoint is of another training.
    """
    if not (save / SIDECAR).is_file():
        return None
    if read_sidecar(save).get("training") != training:
        raise UserError(
            f"--save: {save}: has the checkpoint of another training (other parameters, data or weights); name a new "
            "folder, or remove that one."
        )
    return load_resume_state(run, save)


def _save(save: Path, model: torch.nn.Module, sidecar: Mapping[str, object], state: TrainState) -> None:
    """Writes a checkpoint.

    Args:
        save: the checkpoint's folder.
        model: the network.
        sidecar: content of its JSON file.
        state: the training state.

    Raises:
        UserError: it cannot be written.
    """
    try:
        save.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(save, model, sidecar, state=state)
    except (
        OSError,
        SafetensorError,
        RuntimeError,
    ) as error:  # a full disk raises any of these, depending on the library that writes
        raise UserError(f"--save: {save}: cannot be written ({error}).") from None

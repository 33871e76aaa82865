"""Training one configuration by hand, without Ray and without leaving anything behind but a guide that it needs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from pipeline.assembly import build_run, load_data, train_run
from pipeline.config import load_params
from pipeline.config.yaml import parse_yaml
from pipeline.errors import UserError, format_value, quote_name
from pipeline.inputs.guides import train_guides
from pipeline.inputs.resolved_weights import resolve_weights
from pipeline.train.loop import Diverged
from pipeline.train.memory import is_out_of_memory, out_of_memory_advice
from pipeline.workspace import Workspace

MAX_LISTED = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")


def parse_assignments(overrides: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` texts as parameters by dotted path; values are read as YAML, as in params.yaml.

    Raises:
        UserError: a text without `=`, or a value that is not YAML.
    """
    parsed = {}
    for text in overrides:
        path, sign, value = text.partition("=")
        if not sign:
            raise UserError(f"--set {format_value(text)}: needed: KEY=VALUE, such as train.lr=0.001")
        parsed[path.strip()] = parse_yaml(value, f"--set {quote_name(path.strip())}")
    return parsed


def train_once(workspace: Workspace, overrides: Mapping[str, Any]) -> Iterator[str]:
    """Train the configuration on train, score it on val, and yield a line an epoch.

    Raises:
        UserError: a wrong parameter, data not prepared, a network that cannot be built, weights that cannot be had, a
            diverged loss, or too little memory.
    """
    params = load_params(workspace.params).with_values(overrides, where="--set")
    torch.set_num_threads(params.search.cpus_per_trial)
    data = load_data(workspace.prepared, workspace.split, params.base.device)
    weights = resolve_weights(workspace, [("params.yaml and --set", params)])
    guides = train_guides(workspace, [params], split=workspace.split, role="train")
    yield from guides.said
    run = build_run(params, data, seed=params.base.seed, weights={**weights, **guides.weights})
    epochs = train_run(run, params, data, seed=params.base.seed)
    try:
        for epoch in epochs:
            own = [name for name in epoch.metrics if name.startswith("val/") and name.endswith("/value")]
            figures = "  ".join(f"{name} {epoch.metrics[name]:.4f}" for name in (*MAX_LISTED, *own))
            yield f"epoch {epoch.number}/{params.train.epochs}  {figures}  {epoch.metrics['seconds']:.1f} s"
    except ValueError as error:
        raise UserError(str(error)) from None
    except Diverged as error:
        raise UserError(f"{error}. Lower train.lr, or set train.clip_grad.") from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        advice = out_of_memory_advice(params.train.config(), device=data.device, gpus=0.0)
        raise UserError(f"out of memory. {advice}") from None

"""Checkpoints: a folder with weights, training state and a JSON sidecar, written atomically.

weights.safetensors  the network's tensors; nothing in it can run code
state.pt             optimizer and epoch, only if training can resume from here (read with weights_only)
checkpoint.json      the weights' network, classes, sizes, standardisation and origin
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.files.atomic import replace_folder
from pipeline.train.sidecar import FORMAT, SIDECAR, STATE, WEIGHTS, TrainState


def save_checkpoint(
    folder: Path, model: nn.Module, sidecar: Mapping[str, object], *, state: TrainState | None = None
) -> None:
    """Writes a checkpoint into a folder, replacing its content only once the new checkpoint is complete.

    Args:
        folder: the checkpoint's folder.
        model: the network.
        sidecar: content of the JSON sidecar, without the format.
        state: training state to resume from; None: training cannot resume from here.
    """
    with replace_folder(folder) as whole:
        write_checkpoint(whole, model, sidecar, state=state)


def write_checkpoint(
    folder: Path,
    weights: nn.Module | Mapping[str, Tensor],
    sidecar: Mapping[str, object],
    *,
    state: TrainState | None = None,
) -> None:
    """Writes a checkpoint's files into an empty folder that the caller commits as a whole (as Ray does).

    Args:
        folder: an empty folder.
        weights: the network, or its tensors by name.
        sidecar: content of the JSON sidecar, without the format.
        state: training state to resume from; None: training cannot resume from here.
    """
    found = weights.state_dict() if isinstance(weights, nn.Module) else weights
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in found.items()}
    save_file(tensors, folder / WEIGHTS)
    if state is not None:
        torch.save(dict(state), folder / STATE)
    (folder / SIDECAR).write_text(json.dumps({"format": FORMAT, **sidecar}, indent=2) + "\n")


def copy_tensors(tree: Any) -> Any:
    """Returns a nest of mappings, lists and tuples with each tensor replaced by a copy on the CPU.

    It is for writing a checkpoint while training continues and changes the tensors themselves.
    """
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, Mapping):
        return {key: copy_tensors(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(copy_tensors(value) for value in tree)
    return tree


def load_weights(folder: Path, model: nn.Module) -> None:
    """Loads a checkpoint's weights into a network of the same shape.

    Args:
        folder: the checkpoint's folder.
        model: the network, changed in place.

    Raises:
        UserError: the file is broken, or its tensors are not the network's (the message lists the difference).
    """
    try:
        result = model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{folder}: the weights cannot be loaded: {error}") from None
    if result.missing_keys or result.unexpected_keys:
        raise UserError(
            f"{folder}: the weights are of another network: missing {result.missing_keys or 'none'}, "
            f"unexpected {result.unexpected_keys or 'none'}."
        )


def load_state(folder: Path) -> TrainState:
    """Returns the training state of a checkpoint.

    Args:
        folder: the checkpoint's folder.

    Raises:
        UserError: the checkpoint has no training state, or a broken one.
    """
    try:
        state: TrainState = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # for a broken file, torch may raise anything
        raise UserError(f"{folder}: the training state cannot be loaded: {type(error).__name__}: {error}") from None
    return state

"""The files of a checkpoint, and what it says of itself; importable without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from pipeline.errors import UserError

FORMAT = 1
WEIGHTS = "weights.safetensors"
STATE = "state.pt"
SIDECAR = "checkpoint.json"
"""Written last: a folder that has it is complete."""

TrainState = Mapping[str, Any]
"""What training goes on from beside the weights, as `torch.save` takes it."""


class Sidecar(TypedDict, total=False):
    """What a checkpoint says of itself: the network, the images that it takes, and what it was trained on.

    model: as of `pipeline.models.model_config.ModelConfig`. values: its configuration, by dotted path. metrics, scores:
    of a trial, scores by validation image. arm, trained_on, curves: of retraining, the role of its images, and a row an
    epoch. training: a hash, of `sar-search train`.
    """

    format: int
    model: dict[str, Any]
    num_classes: int
    image_size: list[int]
    channels: int
    classes: list[str]
    mean: list[float]
    std: list[float]
    data_hash: str
    split_hash: str
    seed: int
    bit_depth: int
    pretrained: Mapping[str, str]
    guide: Mapping[str, str]
    values: Mapping[str, Any]
    metrics: Mapping[str, float]
    scores: str | None
    arm: str
    trained_on: str
    curves: list[dict[str, float]]
    training: str


def read_sidecar(folder: Path) -> Sidecar:
    """What a checkpoint says of itself.

    Raises:
        UserError: no checkpoint there, or one of another format.
    """
    try:
        sidecar: Sidecar = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        if sidecar["format"] != FORMAT:
            raise UserError(f"{folder}: a checkpoint of another version (format {sidecar['format']}).")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: not a complete checkpoint ({error}).") from None
    return sidecar

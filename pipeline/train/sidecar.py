"""Files of a checkpoint, and its JSON sidecar; importable without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from pipeline.errors import UserError

FORMAT = 1
WEIGHTS = "weights.safetensors"
STATE = "state.pt"
SIDECAR = "checkpoint.json"
"""This file is written last: a folder that has it is complete."""

TrainState = Mapping[str, Any]
"""State beside the weights from which training resumes, in a form that `torch.save` accepts."""


class Sidecar(TypedDict, total=False):
    """Content of a checkpoint's sidecar: the network, the images that it takes, and the data and parameters
    of its training.

    Attributes:
        format: version of the sidecar's format.
        model: fields of `pipeline.models.model_config.ModelConfig`.
        num_classes: number of outputs of the classifier.
        image_size: [H, W] in pixels.
        channels: channels of the images.
        classes: names by label.
        mean: mean of each channel, for standardisation.
        std: standard deviation of each channel, for standardisation.
        data_hash: hash of the prepared set.
        split_hash: hash of the split.
        seed: seed of the training.
        bit_depth: bit depth of the prepared set's grey images, if they have more than 8 bits.
        pretrained: specification, meaning and SHA-256 of the pretrained weights, if there are any.
        guide: specification and SHA-256 of the guide network, if there is one.
        values: configuration by dotted path.
        metrics: metrics of a trial.
        scores: a trial's scores by validation image, packed; None: there are none.
        arm: arm of a retraining.
        trained_on: role of a retraining's images.
        curves: metrics of a retraining, one row an epoch.
        training: hash that `sar-search train` writes.
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
    """Returns the content of a checkpoint's sidecar.

    Args:
        folder: the checkpoint's folder.

    Raises:
        UserError: no checkpoint there, or one of another format.
    """
    try:
        sidecar: Sidecar = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        if sidecar["format"] != FORMAT:
            raise UserError(
                f"{folder}: holds a checkpoint of another version (format {sidecar['format']}). Use that version, or "
                "make the checkpoint again."
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: not a complete checkpoint ({error}).") from None
    return sidecar

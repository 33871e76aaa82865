"""From parameters to what training takes: data on the device, a fresh network, the regularisers.

A trial, a retraining run, an evaluation and `sar-search train` all begin here, so that they cannot differ.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.config import Params
from pipeline.data.batches import ImageBatches, Standardisation, standardisation
from pipeline.data.splits import Ids, Split, read_split
from pipeline.data.store import Prepared, open_prepared
from pipeline.errors import UserError
from pipeline.models.build import ModelConfig, build_model
from pipeline.regularizers.base import Regularizer
from pipeline.regularizers.methods import build_regularizers
from pipeline.train.checkpoint import load_weights, read_sidecar
from pipeline.train.loop import choose_device, seed_everything


@dataclass(frozen=True)
class TrainingData:
    """An opened set, its split, and the device that batches are made on."""

    prepared: Prepared
    split: Split
    device: torch.device

    def ids(self, role: str) -> Ids:
        """Ids of "train", "val", "test", or "train+val" (ascending)."""
        return np.sort(np.concatenate([getattr(self.split, part) for part in role.split("+")]))

    def scale(self, role: str) -> Standardisation:
        """The standardisation of a role's images."""
        return standardisation(self.prepared.images[self.ids(role)])

    def batches(self, role: str, *, scaled_by: str = "train") -> ImageBatches:
        """A role's images on the device, standardised as the images of the role `scaled_by` are."""
        return ImageBatches(self.prepared, self.ids(role), self.scale(scaled_by), self.device)


@lru_cache(maxsize=2)
def load_data(prepared: Path, split: Path, device: str) -> TrainingData:
    """Open data and split, once a process. device: as `base.device`.

    Raises:
        UserError: either is missing or broken, or there is no such device.
    """
    opened = open_prepared(prepared)
    try:
        return TrainingData(opened, read_split(split, data_hash=opened.data_hash), choose_device(device))
    except ValueError as error:
        raise UserError(str(error)) from None


@dataclass(frozen=True)
class Run:
    """A fresh network on its device with the regularisers of a setting, and what its checkpoints say of it."""

    model: nn.Module
    regularizers: Mapping[str, Regularizer]
    sidecar: Mapping[str, Any]


def build_run(params: Params, data: TrainingData, *, seed: int, scaled_by: str = "train") -> Run:
    """Build the network of `params` with weights drawn from `seed`.

    Raises:
        UserError: the network cannot be built.
    """
    prepared, config = data.prepared, params.model.config()
    scale = data.scale(scaled_by)
    seed_everything(seed)
    try:
        model = build_model(
            config, num_classes=len(prepared.classes), image_size=prepared.image_size, channels=prepared.channels
        )
    except ValueError as error:
        raise UserError(f"model.{error}") from None
    sidecar = {
        "model": asdict(config),
        "num_classes": len(prepared.classes),
        "image_size": list(prepared.image_size),
        "channels": prepared.channels,
        "classes": list(prepared.classes),
        "mean": list(scale.mean),
        "std": list(scale.std),
        "data_hash": prepared.data_hash,
        "split_hash": data.split.split_hash,
        "seed": seed,
    }
    return Run(model.to(data.device), build_regularizers(params.regularizer.configs()), sidecar)


def load_trained(folder: Path, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a checkpoint, on a device and in evaluation mode, and the checkpoint's sidecar.

    Raises:
        UserError: no checkpoint there, or a broken one.
    """
    sidecar = read_sidecar(folder)
    height, width = sidecar["image_size"]
    model = build_model(
        ModelConfig(**sidecar["model"]),
        num_classes=sidecar["num_classes"],
        image_size=(height, width),
        channels=sidecar["channels"],
    )
    load_weights(folder, model)
    return model.to(device).eval(), sidecar

"""Guides of locality guidance: networks that are trained once on the images of a role and stored in `state/guides/`.

A guide is trained on the training images of its search or, for retraining, on the images that retraining
trains on. It never sees test images. Its name is a hash of everything that decides it (data, split, role,
depth, epochs, seed). So the same guide serves trials on all nodes, which receive it like pretrained weights,
and every seed. A guide is written completely or not at all. An interrupted training starts again.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.assembly import TrainingData, guide_config, guide_spec, load_data, make_guide
from pipeline.config import Params
from pipeline.console.progress import CountProgress
from pipeline.errors import UserError
from pipeline.files.file_stats import hash_file
from pipeline.models.model_config import Weights
from pipeline.train.checkpoint import save_checkpoint
from pipeline.train.loop import Diverged, fit, seed_everything
from pipeline.train.sidecar import SIDECAR, WEIGHTS, read_sidecar
from pipeline.train.train_config import TrainConfig
from pipeline.tune.space import SearchSpace
from pipeline.workspace import Workspace

BATCH = 128
"""Batch size of a guide's training."""


@dataclass(frozen=True)
class Guides:
    """The guides of some configurations.

    Attributes:
        weights: every guide by its specification.
        seconds: total time of their training, whenever that was.
        gpu_seconds: the part of that time on a GPU.
        said: a line on each guide.
    """

    weights: Mapping[str, Weights] = field(default_factory=dict)
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    said: tuple[str, ...] = ()


def guided_configs(params: Params, space: SearchSpace) -> Iterator[Params]:
    """Yields configurations that together use every guide that a search can ask for.

    Args:
        params: the parameters.
        space: the search space.
    """
    flips = space.values_at_ends("train.flip") if "train.flip" in space.dimensions else [None]
    for where, config in space.representative_configs(params):
        if config.regularizer.uses_guide:
            for flip in flips:
                yield config if flip is None else config.with_values({"train.flip": flip}, where=where)


def describe_guide(params: Params, space: SearchSpace) -> dict[str, str]:
    """Returns the plan's line on the guide; empty if the search uses none.

    Args:
        params: the parameters.
        space: the search space.
    """
    config = next(guided_configs(params, space), None)
    if config is None:
        return {}
    made = guide_config(config)
    again = "again on those of train and val before retraining"
    return {
        "guide": f"a ResNet-{made.depth}, {made.epochs} epochs on the training images before the first trial, {again}; "
        "its time is part of the search's spent time, but its epochs do not count in search.budget"
    }


def train_guides(workspace: Workspace, configs: Iterable[Params], *, split: Path, role: str) -> Guides:
    """Trains the guides of configurations, unless they are stored already.

    Args:
        workspace: the checkout in whose state they are stored.
        configs: the configurations. Configurations without a guide are skipped.
        split: file of the split.
        role: role of the training images, as in `TrainingData.ids`.

    Raises:
        UserError: a guide's training diverged, or the guide cannot be stored.
    """
    weights: dict[str, Weights] = {}
    notes: list[Mapping[str, Any]] = []
    for config in configs:
        if not config.regularizer.uses_guide:
            continue
        data = load_data(workspace.prepared, split, config.base.device)
        spec = guide_spec(config, data, role)
        if spec in weights:
            continue
        folder = workspace.state / "guides" / spec.rpartition("/")[2]
        if not (folder / SIDECAR).is_file():
            _train(folder, config, data, role)
        weights[spec] = Weights(spec, str(folder / WEIGHTS), hash_file(folder / WEIGHTS), "the guide")
        notes.append(read_sidecar(folder))
    return Guides(
        weights,
        sum(float(note["seconds"]) for note in notes),
        sum(float(note["seconds"]) for note in notes if note["device"] == "cuda"),
        tuple(
            f"guide: {note['name']} of {note['images']:,} images, {note['epochs']} epochs, train/accuracy "
            f"{note['accuracy']:.4f}, {note['seconds']:.1f} s"
            for note in notes
        ),
    )


def _train(folder: Path, params: Params, data: TrainingData, role: str) -> None:
    """Trains a guide and stores it.

    As in the published method, it is trained by SGD with a learning rate from 0.1 along a cosine and a weight
    decay of 5e-4. Its augmentation is shifted images.

    Args:
        folder: folder of the guide.
        params: a configuration that uses it.
        data: the data.
        role: role of the training images.

    Raises:
        UserError: the training diverged.
    """
    config, images = guide_config(params), data.batches(role, scaled_by=role)
    recipe = TrainConfig(
        epochs=config.epochs,
        batch_size=BATCH,
        lr=0.1,
        min_lr=0.0,
        warmup_epochs=min(1, config.epochs - 1),
        weight_decay=5e-4,
        label_smoothing=0.0,
        clip_grad=None,
        optimizer="sgd",
        augment="light",
        flip=config.flip,
        compile="never",
    )
    doing = f"training the guide of locality guidance on {len(images):,} images"
    print(doing, flush=True)
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        seed_everything(config.seed)
        network = make_guide(params, data.prepared).to(data.device)
        try:
            with CountProgress(f"{doing}: epochs") as progress:
                for last in fit(network, images, recipe, seed=config.seed):
                    progress(last.number, config.epochs)
        except Diverged as error:
            raise UserError(f"params.yaml: regularizer.locality_guidance: training its guide failed: {error}") from None
    note = {
        "name": f"ResNet-{config.depth}",
        "images": len(images),
        "epochs": config.epochs,
        "accuracy": last.metrics["train/accuracy"],
        "seconds": round(time.perf_counter() - started, 3),
        "device": data.device.type,
        "data": data.prepared.data_hash,
        "split": data.split.split_hash,
        "role": role,
    }
    save_checkpoint(folder, network, note)

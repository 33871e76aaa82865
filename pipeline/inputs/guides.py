"""The guides of locality guidance: trained once on the images that a role has, kept under `state/guides/`.

A guide sees the training images of its search, or, for retraining, those that retraining trains on; never test images.
It is named by what decides it (data, split, role, depth, epochs, seed), so whoever needs the same one takes what is
there: trials on all nodes, which are sent it as pretrained weights are, and every seed. It is written whole or not at
all; one that is cut off in its training begins anew.
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


@dataclass(frozen=True)
class Guides:
    """weights: of every guide that is needed, by its specification. seconds: that their training took, whenever that
    was; gpu_seconds: those of them on a GPU. said: a line on each.
    """

    weights: Mapping[str, Weights] = field(default_factory=dict)
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    said: tuple[str, ...] = ()


def guided_configs(params: Params, space: SearchSpace) -> Iterator[Params]:
    """Configurations in which every guide that a search can ask for occurs; none where nothing asks for one."""
    flips = space.values_at_ends("train.flip") if "train.flip" in space.dimensions else [None]
    for where, config in space.representative_configs(params):
        if config.regularizer.uses_guide:
            for flip in flips:
                yield config if flip is None else config.with_values({"train.flip": flip}, where=where)


def describe_guide(params: Params, space: SearchSpace) -> dict[str, str]:
    """What the plan says of the guide, if a search asks for one."""
    config = next(guided_configs(params, space), None)
    if config is None:
        return {}
    made = guide_config(config)
    again = "again on those of train and val before retraining"
    return {
        "guide": f"a ResNet-{made.depth}, {made.epochs} epochs on the training images before the first trial, {again}; "
        "its time is in what the search says it spent, its epochs are none of search.budget's"
    }


def train_guides(workspace: Workspace, configs: Iterable[Params], *, split: Path, role: str) -> Guides:
    """The guides of configurations on a role's images, trained now where they have not been before.

    Args:
        workspace: Where they are kept.
        configs: Of which those that use no guide are passed over.
        split: The file that says which images those are.
        role: As of `TrainingData.ids`.

    Raises:
        UserError: a guide's training diverged, or it cannot be kept.
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
    """Train a guide, and keep it in a folder.

    By SGD from 0.1 along a cosine with a decay of 5e-4, as the published one; shifted images are its augmentation.
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
            raise UserError(f"params.yaml: regularizer.locality_guidance: its guide: {error}") from None
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

"""Seeds of one configuration trained together as a stack, against single runs: ViT-Ti at 32 pixels, SAR on one block.

An epoch of each side by turns, with its augmentation, its reading of the means and its optimizer. What counts is how
many single runs take the time of a stack.
"""

import gc
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from gpu_parts.setting import Report, Setting
from gpu_parts.timing import Work, by_turns
from gpu_parts.training import made_images, recipe
from pipeline.data.batches.batches import ImageBatches
from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig
from pipeline.regularizers.base import Regularizer
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.train.loop import fit
from pipeline.train.memory import is_out_of_memory
from pipeline.train.stacked.stacked_loop import fit_stacked
from pipeline.train.train_config import TrainConfig

SEEDS, SINGLE = 10, 4
"""Seeds of the largest stack, and the single runs whose time it may take."""

BATCHES = 40
"""Of an epoch, so that its end is a small part of it."""


def run(setting: Setting, report: Report) -> None:
    batch, batches = (4, 2) if setting.small else (128, BATCHES)
    config = replace(recipe(batch), epochs=10_000, augment="light", compile="never")
    images = made_images(batches * batch, 32, setting.device, seed=setting.seed, classes=10)
    one = single(setting, config, images)
    for members in [2] if setting.small else [SEEDS, 5, 2]:
        if setting.left() < 4:
            report.note(f"no time left for a stack of {members}")
            continue
        try:
            measure(setting, report, one, stack(setting, config, images, members), members)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            report.note(f"out of memory: a stack of {members}")
        gc.collect()


def measure(setting: Setting, report: Report, one: Work, together: Work, members: int) -> None:
    sides = {"a single run": one, f"a stack of {members}": together}
    seconds = max(1.0, min(4.0, setting.left() / 3))
    timings = by_turns(sides, setting.device, rounds=setting.rounds(7), warm_up=1, seconds=seconds)
    pairs = zip(timings[f"a stack of {members}"].times, timings["a single run"].times, strict=True)
    claim = f" (claim: at most {SINGLE})" if members == SEEDS else ""
    report.values(f"ViT-Ti at 32 px: single runs in the time of a stack of {members}{claim}",
                  [stacked / alone for stacked, alone in pairs], "runs")  # fmt: skip


def network(setting: Setting, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    kwargs = {"patch_size": 4} | ({"depth": 2, "embed_dim": 48, "num_heads": 3} if setting.small else {})
    config = ModelConfig("vit_tiny_patch16_224", kwargs, "timm", 0.1)
    built: nn.Module = build_model(config, num_classes=10, image_size=(32, 32), channels=3)
    return built.to(setting.device)


def methods() -> dict[str, Regularizer]:
    return {"spatial_entropy": SpatialEntropy(weight=0.01, schedule="constant")}


def single(setting: Setting, config: TrainConfig, images: ImageBatches) -> Work:
    return following(fit(network(setting, 0), images, config, seed=0, regularizers=methods()))


def stack(setting: Setting, config: TrainConfig, images: ImageBatches, members: int) -> Work:
    seeds = range(members)
    networks = [network(setting, seed) for seed in seeds]
    return following(fit_stacked(networks, images, config, seeds=seeds, regularizers=[methods() for _ in seeds]))


def following(epochs: Iterator[object]) -> Work:
    return lambda: next(epochs)

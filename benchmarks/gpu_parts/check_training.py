"""Networks, optimizers and batches on the device against the same on the CPU, in float64 where they compute."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpu_parts.checking import Comparison, flat, stain
from gpu_parts.setting import Setting
from gpu_parts.training import made_images, recipe
from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig, SpatialPriorConfig
from pipeline.models.tap import SimilarityTap
from pipeline.regularizers.base import Regularizer
from pipeline.regularizers.registry import METHODS
from pipeline.train.loader import TrainLoader
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer

SMALL = {"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}
SIDE, CLASSES = 28, 10


def optimizers(setting: Setting) -> Iterator[Comparison]:
    """Steps of the fused optimizers."""
    generator = setting.generator(6)
    for name in ("adamw", "sgd"):
        config = replace(recipe(4), optimizer=name, lr=1e-2)
        exact = nn.Linear(37, 5).double()
        there = deepcopy(exact).float().to(setting.device)
        steps = [torch.randn(sum(each.numel() for each in exact.parameters()), generator=generator) for _ in range(3)]
        for model in (exact, there):
            optimizer = make_optimizer(model, config)
            for step in steps:
                begun = 0
                for each in model.parameters():
                    each.grad = step[begun : begun + each.numel()].view_as(each).to(each)
                    begun += each.numel()
                optimizer.step()
        yield Comparison(name, flat(list(there.parameters())), flat(list(exact.parameters())), 1e-5)


def feeds(setting: Setting) -> Iterator[Comparison]:
    """Batches of every augmentation, and mixed ones: those that the CPU makes."""
    count, side = 12, 16
    images = made_images(count, side, setting.device, seed=setting.seed, classes=CLASSES)
    pixels = np.random.default_rng(setting.seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    exact = (torch.from_numpy(pixels).double().permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    yield Comparison("in order", torch.cat([inputs for inputs, _ in images.in_order(5)]), exact, 1e-6)
    for changes in AUGMENTATIONS:
        if setting.device.type == "cuda":  # whose rectangles have draws of their own: see `augmentation_kernels`
            changes = {name: value for name, value in changes.items() if name != "erasing"}
        config = replace(recipe(5), **changes)
        model = nn.Linear(1, 1)
        model.num_classes = CLASSES  # type: ignore[assignment]
        made: list[list[Tensor]] = []
        for device in (torch.device("cpu"), setting.device):
            images = made_images(count, side, device, seed=setting.seed, classes=CLASSES)
            stain(device)
            made.append(
                list(map(flat, map(list, TrainLoader(images, config, model=model, seed=setting.seed).epoch(1))))
            )
        name = ", ".join(f"{key} {value}" for key, value in changes.items()) or "none"
        for number, (expected, found) in enumerate(zip(*made, strict=True)):
            yield Comparison(f"{name}: batch {number}", found, expected, 1e-5)


AUGMENTATIONS: tuple[dict[str, Any], ...] = (
    {}, {"augment": "light"}, {"augment": "light", "erasing": 0.5}, {"mixup": 0.8, "cutmix": 1.0}, {"augment": "deit"},
)  # fmt: skip


def networks(setting: Setting) -> Iterator[Comparison]:
    """The loss of a small network with each method, and all its gradients; also compiled."""
    torch.backends.cudnn.allow_tf32 = False  # which is torch's default for convolutions, and far from float64
    plain = ModelConfig("vit_tiny_patch16_224", SMALL, "xavier", 0.0)
    prior = replace(plain, spatial_prior=SpatialPriorConfig(1))
    sar = {"layers": "all", "threshold": 0.1}
    cases: list[tuple[str, ModelConfig, str | None, Mapping[str, Any], bool]] = [
        ("no method", plain, None, {}, False),
        ("SAR", plain, "spatial_entropy", sar, False),
        ("SAR, the mean query", plain, "spatial_entropy", sar | {"query": "mean"}, False),
        ("total variation", plain, "total_variation", {"layers": "all"}, False),
        ("head disagreement", plain, "head_disagreement", {"layers": "all"}, False),
        ("SAR, spatial prior", prior, "spatial_entropy", sar, False),
        ("SAR, compiled", plain, "spatial_entropy", sar, True),
    ]
    for number, (name, config, method, options, compiled) in enumerate(cases[1:2] if setting.small else cases):
        exact, inputs, labels = _drawn(setting, config, options, stream=10 + number)
        methods = {method: METHODS[method](weight=0.5, schedule="constant", **options)} if method else {}
        there = deepcopy(exact).float().to(setting.device)
        loss, gradients = _derived(exact, methods, inputs, labels)
        if compiled:
            there.compile(dynamic=False, backend="aot_eager" if setting.small else "inductor")
        stain(setting.device)
        found = _derived(there, methods, inputs.float().to(setting.device), labels.to(setting.device))
        yield Comparison(f"{name}: loss", found[0], loss, 1e-4)
        yield Comparison(f"{name}: gradients", found[1], gradients, 2e-3)


def _drawn(
    setting: Setting, config: ModelConfig, options: Mapping[str, Any], *, stream: int
) -> tuple[Any, Tensor, Tensor]:
    """A network in float64, images and labels, drawn anew until rounding decides no map's pixel."""
    labels = torch.randint(CLASSES, (2,), generator=setting.generator(stream))
    threshold, query = options.get("threshold", 0.0), options.get("query", "cls")
    for attempt in range(50):
        torch.manual_seed(setting.seed * 1000 + stream * 50 + attempt)
        model = build_model(config, num_classes=CLASSES, image_size=(SIDE, SIDE), channels=3).double().train()
        inputs = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
        with SimilarityTap(model, "all", query) as tap, torch.no_grad():
            model(inputs)
            maps = tap.maps().double()
        deviation = maps.std((-2, -1), correction=0, keepdim=True)
        distance = (maps - maps.mean((-2, -1), keepdim=True) - threshold * deviation).abs() / deviation
        if float(distance.min()) > 2e-5:
            return model, inputs, labels
    raise RuntimeError("every network drawn had a pixel at its cut")


def _derived(model: Any, methods: Mapping[str, Regularizer], inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    with Objective(model, methods, planned_epochs=1) as objective:
        total = objective.step(inputs, labels, 0).total
        gradients = torch.autograd.grad(total, list(model.parameters()))
    return total, flat(list(gradients))

"""Training on one GPU, images a second: with SAR, without, and timm's own step, all compiled, in one process.

Run: python benchmarks/training_step.py [--model vit_small_patch16_224] [--batch 256] [--steps 20] [--repetitions 7]

ViT-S/16 at 224 x 224, bfloat16, batches of 256. Our sides are the steps that `pipeline.train.loop` takes: images as
bytes on the GPU, cross-entropy with SAR on all blocks or with none, fused AdamW. timm's side is the same network as
timm makes it, compiled with torch's defaults, under autocast, with timm's AdamW as it comes, on a batch that lies there
already. Needs torch, timm and the rooms that train, and neither Ray, Optuna, MLflow, DVC nor pydantic.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import header, keep, skip, table, time_pairs
from torch.nn import functional as F

from pipeline.data.batches import ImageBatches, Standardisation
from pipeline.data.store import Prepared
from pipeline.models.build import build_model
from pipeline.models.settings import ModelConfig
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.train.feed import Feed
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer
from pipeline.train.settings import TrainConfig
from pipeline.train.step import take_step

CLASSES = 1000
BATCHES = 4
"""Different batches that the images on the device make."""


def recipe(batch: int) -> TrainConfig:
    return TrainConfig(
        epochs=100,
        batch_size=batch,
        lr=5e-4,
        min_lr=1e-5,
        warmup_epochs=5,
        weight_decay=0.05,
        label_smoothing=0.1,
        clip_grad=None,
        precision="bfloat16",
    )


def images(count: int, side: int, device: torch.device) -> ImageBatches:
    """Noise: a step's time does not depend on what is in the pictures, but for the components of its maps."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    prepared = Prepared(pixels, rng.integers(0, CLASSES, count), None, {})
    return ImageBatches(prepared, range(count), Standardisation((0.5,) * 3, (0.25,) * 3), device)


def our_steps(
    name: str, side: int, config: TrainConfig, train: ImageBatches, *, weight: float, steps: int, compiled: bool
) -> Callable[[], None]:
    """Take so many steps of ours, and wait for them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = build_model(ModelConfig(name, {}, "timm", 0.1), num_classes=CLASSES, image_size=(side, side), channels=3)
    model.to(device).train()
    methods = {"spatial_entropy": SpatialEntropy(weight=weight, layers="all", schedule="constant")}
    objective = Objective(model, methods, planned_epochs=config.epochs)
    if compiled:
        model.compile()
    optimizer = make_optimizer(model, config)
    feed = Feed(train, config, model=model, seed=0)

    def endless() -> Any:
        epoch = 0
        while True:
            yield from feed.epoch(epoch)
            epoch += 1

    batches = endless()

    def work() -> None:
        for _ in range(steps):
            inputs, labels = next(batches)
            take_step(model, objective, optimizer, inputs, labels, epoch=50, config=config)
        _wait(device)

    return work


def timms_steps(name: str, side: int, config: TrainConfig, *, steps: int, compiled: bool) -> Callable[[], None]:
    """Take so many steps as timm's network and optimizer come, and wait for them."""
    import timm
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES, drop_path_rate=0.1, img_size=side).to(device).train()
    if compiled:
        model.compile()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=config.lr, weight_decay=config.weight_decay)
    inputs = torch.randn(config.batch_size, 3, side, side, device=device)
    labels = torch.randint(CLASSES, (config.batch_size,), device=device)

    def work() -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16):
                logits = model(inputs)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            optimizer.step()
        _wait(device)

    return work


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--anywhere", action="store_true", help="on a CPU too; its figures say nothing of a GPU")
    asked = parser.parse_args()
    if not torch.cuda.is_available() and not asked.anywhere:
        skip("needs a CUDA device, and torch sees none here")
    config, compiled = recipe(asked.batch), not asked.eager
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train = images(BATCHES * asked.batch, asked.side, device)
    ours: dict[str, Any] = {"steps": asked.steps, "compiled": compiled}
    sides = {
        "SAR on, all blocks": our_steps(asked.model, asked.side, config, train, weight=0.01, **ours),
        "SAR off": our_steps(asked.model, asked.side, config, train, weight=0.0, **ours),
        "timm": timms_steps(asked.model, asked.side, config, steps=asked.steps, compiled=compiled),
    }
    timings = time_pairs(sides, repetitions=asked.repetitions)
    count = asked.steps * asked.batch
    rows, kept = [], {}
    for name, timing in timings.items():
        rates = [1000 * count / each for each in timing.times]
        share = 1 / timing.over(timings["SAR off"])
        spread = f"{statistics.median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})"
        rows.append((name, spread, f"{share:.3f}"))
        kept[name] = {"images_per_second": round(statistics.median(rates), 1), "of_sar_off": round(share, 4)}
    print(header("Images a second in training, one device", ["torch", "timm"]))
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU: these figures say nothing of a GPU"
    how = "compiled" if compiled else "eager"
    print(f"{where}; {asked.model} at {asked.side}, bfloat16, batches of {asked.batch}, {how}\n")
    print(table(["", "images/s, median (least-most)", "of SAR off"], rows))
    if device.type == "cuda":
        keep("training_step", {"device": where, "compiled": compiled, "batch": asked.batch, "sides": kept})


if __name__ == "__main__":
    main()

"""What several seeds of one configuration cost as a stack, against as many single runs, on the device at hand.

Run: python benchmarks/stacked.py [--members 4] [--epochs 5] [--size digits|tiny]

Both sides train the same number of networks with SAR, an epoch by turns: M runs of `fit` one after the other, and one
run of `fit_stacked`. On a CPU there is nothing to gain, and the claim is that a stack takes at most 1.25 times the time
of the single runs; what is counted there is processor time. On a GPU the claim is that ten seeds of ViT-Ti at 32 px
take the time of four single runs.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from digits import default_params, digits
from harness import header, keep, table, time_pairs
from torch import nn

from pipeline.assembly import build_run
from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.data.prepared.prepared import Prepared
from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig
from pipeline.regularizers.base import Regularizer
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.train.loop import fit
from pipeline.train.stacked.stacked_loop import fit_stacked
from pipeline.train.train_config import TrainConfig

CPU_MOST = 1.25
"""Of the single runs' time, on a CPU."""
GPU_SEEDS, GPU_RUNS = 10, 4
"""Seeds of a stack on a GPU, and the single runs whose time they may take."""

DIGITS, TINY = "digits", "tiny"
"""The default network on digits, and ViT-Ti with patches of 4 x 4 on noise of 32 x 32 pixels."""


def synthetic(device: torch.device, *, count: int, side: int, channels: int) -> ImageBatches:
    """Noise of ten classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(count, side, side, channels), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % 10
    prepared = Prepared(images, labels, None, {"classes": list(map(str, range(10)))})
    return ImageBatches(prepared, np.arange(count), Standardisation((0.5,) * channels, (0.3,) * channels), device)


def sides(size: str, members: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """The next epoch of every side, by name.

    Args:
        size: name of the network.
        members: number of networks.
        device: device of the training.
    """
    params = default_params()
    if size == DIGITS:
        data = digits(params.prepare.image_size)
        images, config = data.batches("train"), params.train.config()
    else:
        images = synthetic(device, count=5_120, side=32, channels=3)
        config = TrainConfig(1, 128, 1e-3, 0.0, 0, 0.05, 0.1, None, augment="light", precision="bfloat16")
    # No run may end, and no compilation pays within a benchmark.
    config = replace(config, epochs=10_000, compile="never")

    def network(seed: int) -> nn.Module:
        if size == DIGITS:
            return build_run(params, data, seed=seed).model
        torch.manual_seed(seed)
        tiny = ModelConfig("vit_tiny_patch16_224", {"patch_size": 4}, "timm", 0.1)
        built: nn.Module = build_model(tiny, num_classes=10, image_size=(32, 32), channels=3)
        return built.to(device)

    def methods() -> dict[str, Regularizer]:
        return {"spatial_entropy": SpatialEntropy(weight=0.01, schedule="constant")}

    seeds = range(members)
    alone: list[Iterator[object]] = [
        fit(network(seed), images, config, seed=seed, regularizers=methods()) for seed in seeds
    ]
    together = fit_stacked(
        [network(seed) for seed in seeds], images, config, seeds=seeds, regularizers=[methods() for _ in seeds]
    )

    def waited(work: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return run

    return {
        "single runs": waited(lambda: [next(each) for each in alone]),
        "a stack": waited(lambda: next(together)),
        "one run": waited(lambda: next(alone[0])),
    }


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=GPU_SEEDS if cuda else 4, help="networks of a stack")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of every side that count (default 5)")
    parser.add_argument("--size", choices=[DIGITS, TINY], default=TINY if cuda else DIGITS)
    given = parser.parse_args()
    device = torch.device("cuda" if cuda else "cpu")
    if not cuda:
        torch.set_num_threads(1)
    print(header(f"{given.members} seeds as a stack, {given.size}, on {device.type}", ["torch", "timm"]))
    clock = time.perf_counter if cuda else time.process_time
    found = time_pairs(sides(given.size, given.members, device), repetitions=given.epochs, warm_up=1, clock=clock)
    ratio, runs = found["a stack"].over(found["single runs"]), found["a stack"].over(found["one run"])
    print(f"An epoch, median (least-most) of {given.epochs}; load of the machine {os.getloadavg()[0]:.1f}.\n")
    print(table(["", "an epoch"], [(name, timing) for name, timing in found.items()]))
    good = runs <= GPU_RUNS if cuda else ratio <= CPU_MOST
    print(
        f"\na stack of {given.members}: {ratio:.2f} times the time of its runs one after the other, that of {runs:.1f} "
        f"single runs; {'within' if good else 'above'} the claim"
    )
    keep("stacked", {"device": device.type, "members": given.members, "ratio": round(ratio, 3), "runs": round(runs, 2)})


if __name__ == "__main__":
    main()

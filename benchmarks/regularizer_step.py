"""What SAR adds to training: an epoch of the default digits trial with it and without, and a GPU's step of ViT-S/16.

Run: python benchmarks/regularizer_step.py [--epochs 8] [--processes 5]

On the CPU every side is a training run of its own, and the runs go on by turns, an epoch each, validation included, on
one thread; what is counted is processor time. That is done in several processes, one after the other: where a process
has its memory shifts a side by a percent for as long as it lives. "Off" has no regulariser at all; "watched" is a
control, whose maps are looked at in validation only. On a GPU (bf16, batch 256, SAR on all 12 blocks) the sides are
steps, by turns, on the clock; without one those rows are left out.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from digits import default_params, digits
from harness import Timing, header, keep, table, time_pairs

from pipeline.assembly import build_run, train_run
from pipeline.models.build import ModelConfig, build_model
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.train.loop import Epoch
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer
from pipeline.train.step import take_step

SAR = "regularizer__spatial_entropy__"
SIDES: Mapping[str, Mapping[str, object]] = {
    "off": {"weight": 0.0, "watch": False},
    "watched": {"weight": 0.0},
    "on, last block": {"weight": 0.1, "layers": "last"},
    "on, all 4 blocks": {"weight": 0.1, "layers": "all"},
}
WARM_UP = 2
VIT_S = ModelConfig("vit_small_patch16_224", {}, "timm", 0.1)


def default_run(epochs: int, sar: Mapping[str, object]) -> Iterator[Epoch]:
    """The default digits trial with a constant weight, since the published schedule begins at 0."""
    params = default_params(
        train__epochs=epochs, **{f"{SAR}{name}": value for name, value in sar.items()}, **{f"{SAR}schedule": "constant"}
    )
    data = digits(params.prepare.image_size)
    run = build_run(params, data, seed=0)
    return train_run(run, params, data, seed=0)


def measure_epochs(epochs: int) -> dict[str, Timing]:
    """Every side's epochs by turns, on one thread."""
    torch.set_num_threads(1)
    runs = {name: default_run(epochs + WARM_UP, sar) for name, sar in SIDES.items()}

    def going_on(run: Iterator[Epoch]) -> Callable[[], object]:
        return lambda: next(run)

    sides = {name: going_on(run) for name, run in runs.items()}
    return time_pairs(sides, repetitions=epochs, warm_up=WARM_UP, clock=time.process_time)


def in_processes(epochs: int, processes: int) -> list[dict[str, Timing]]:
    """`measure_epochs` in so many processes of their own."""
    command = [sys.executable, __file__, "--epochs", str(epochs), "--times"]
    said = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(processes)]
    return [{name: Timing(tuple(times)) for name, times in json.loads(each).items()} for each in said]


def measure_steps(
    config: ModelConfig, *, batch: int, side: int, device: torch.device, repetitions: int = 30
) -> dict[str, Timing]:
    """A training step of one network with SAR on all blocks and without, eager and compiled, by turns."""
    recipe = default_params(train__epochs=10, train__batch_size=batch, train__precision="bfloat16").train.config()
    images = torch.randn(batch, 3, side, side, device=device)
    labels = torch.randint(100, (batch,), device=device)

    def stepping(weight: float, compiled: bool) -> Callable[[], object]:
        model: Any = build_model(config, num_classes=100, image_size=(side, side), channels=3).to(device).train()
        sar = {"spatial_entropy": SpatialEntropy(weight=weight, layers="all", schedule="constant", watch=False)}
        objective = Objective(model, sar, planned_epochs=10)
        optimizer = make_optimizer(model, recipe, beside=objective.trainable)
        if compiled:
            objective.step = torch.compile(objective.step, fullgraph=True)  # type: ignore[method-assign]

        def step() -> None:
            take_step(model, objective, optimizer, images, labels, epoch=9, config=recipe)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return step

    return time_pairs(
        {
            f"{'compiled' if compiled else 'eager'}, SAR {'on' if weight else 'off'}": stepping(weight, compiled)
            for compiled in (False, True)
            for weight in (0.0, 0.1)
        },
        repetitions=repetitions,
        warm_up=5,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8, help="epochs of every side that count (default 8)")
    parser.add_argument("--processes", type=int, default=5, help="that do so (default 5)")
    parser.add_argument("--times", action="store_true", help="one process: print its times alone, as JSON")
    given = parser.parse_args()
    if given.times:
        return print(json.dumps({name: timing.times for name, timing in measure_epochs(given.epochs).items()}))
    print(header("SAR in an epoch of the default digits trial, one CPU thread", ["torch", "timm", "numba"]))
    found = in_processes(given.epochs, given.processes)
    shares, rows = {}, []
    for name in SIDES:
        timing = Timing(tuple(itertools.chain.from_iterable(each[name].times for each in found)))
        by_process = sorted(100 * (each[name].over(each["off"]) - 1) for each in found)
        shares[name] = statistics.median(by_process)
        spread = f"{by_process[0]:+.1f} to {by_process[-1]:+.1f}"
        rows.append((name, timing, f"{shares[name]:+.1f} %", spread))
    print(
        f"Processor time, median (least-most) of {given.epochs} epochs in each of {given.processes} processes; load of "
        f"the machine {os.getloadavg()[0]:.1f}.\n"
    )
    print(table(["SAR", "an epoch", "more than off", "by process"], rows))
    kept: dict[str, object] = {"epoch_percent": {name: round(share, 2) for name, share in shares.items()}}
    print("\n# SAR in a step of ViT-S/16, 224 pixels, bf16, batch 256\n")
    if torch.cuda.is_available():
        steps = measure_steps(VIT_S, batch=256, side=224, device=torch.device("cuda"))
        by_step = []
        for kind in ("eager", "compiled"):
            on, off = steps[f"{kind}, SAR on"], steps[f"{kind}, SAR off"]
            by_step.append((kind, off, on, f"{100 * (on.over(off) - 1):+.1f} %"))
        print(table(["step", "off", "on all 12 blocks", "more"], by_step))
        kept["step_percent"] = {row[0]: row[3] for row in by_step}
    else:
        print("skipped: needs a CUDA device, and torch sees none here")
    keep("regularizer_step", kept)


if __name__ == "__main__":
    main()

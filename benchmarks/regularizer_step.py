"""What SAR adds to training on a CPU: an epoch of the default digits trial with it and without.

Run: python benchmarks/regularizer_step.py [--epochs 8] [--processes 5]

On the CPU every side is a training run of its own, and the runs go on by turns, a step each, on one thread, in an order
that is drawn anew every time: what else the machine does comes and goes more slowly. What is counted is processor time:
an epoch is as many steps as it has, each of the median time, and a validation, likewise.
That is done in several processes, one after the other: where a process has its memory shifts a side by a percent for as
long as it lives. "Off" has no regulariser at all, which is the least that another way of regularising could cost;
"watched" is a control, whose maps are looked at in validation only. A step on a GPU is a part of `gpu.py`.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from digits import default_params, digits
from harness import Timing, header, keep, table
from torch import Tensor

from pipeline.assembly import build_run
from pipeline.train.cpu.onednn_linear import use_onednn_linear
from pipeline.train.loader import TrainLoader
from pipeline.train.loop import score, seed_everything
from pipeline.train.memory import raise_gc_threshold, retain_freed_memory
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer, make_schedule
from pipeline.train.step import take_step

SAR = "regularizer__spatial_entropy__"
SIDES: Mapping[str, Mapping[str, object]] = {
    "off": {"weight": 0.0, "watch": False},
    "watched": {"weight": 0.0},
    "on, last block": {"weight": 0.1, "layers": "last"},
    "on, all 4 blocks": {"weight": 0.1, "layers": "all"},
}
WARM_UP = 2


@dataclass
class Side:
    """A training run by turns. turns: stops after every step; what it gives is True where an epoch ends.

    steps, ends: milliseconds of each turn; `ends` with the validation.
    """

    turns: Iterator[bool]
    steps: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def take(self) -> bool:
        """A turn; whether there was one left."""
        begun = time.process_time()
        ended = next(self.turns, None)
        if ended is not None:
            (self.ends if ended else self.steps).append(1000 * (time.process_time() - begun))
        return ended is not None

    def epoch(self, epochs: int) -> float:
        """Milliseconds of an epoch, from the medians of what it is made of; so many epochs have been trained."""
        each = len(self.steps) // epochs
        return each * statistics.median(self.steps[WARM_UP * each :]) + statistics.median(self.ends[WARM_UP:])


def default_run(epochs: int, sar: Mapping[str, object]) -> Iterator[bool]:
    """The default digits trial, `loop.fit` by turns, at a constant weight: the published schedule begins at 0."""
    params = default_params(
        train__epochs=epochs, **{f"{SAR}{name}": value for name, value in sar.items()}, **{f"{SAR}schedule": "constant"}
    )
    data, config = digits(params.prepare.image_size), params.train.config()
    run = build_run(params, data, seed=0)
    train, val = data.batches("train"), data.batches("val")
    steps = -(-len(train) // config.batch_size)
    feed = TrainLoader(train, config, model=run.model, seed=0)
    with Objective(run.model, run.regularizers, planned_epochs=epochs) as objective, use_onednn_linear(run.model):
        optimizer = make_optimizer(run.model, config, beside=objective.trainable)
        schedule = make_schedule(optimizer, config, steps)
        for epoch in range(epochs):
            seed_everything(0, epoch)
            run.model.train()
            sums: list[Tensor] = []
            for step, (inputs, labels) in enumerate(feed.epoch(epoch), start=epoch * steps):
                schedule.step_update(step)
                monitors = take_step(run.model, objective, optimizer, inputs, labels, epoch=epoch, config=config)
                sums.append(torch.stack(list(monitors.values())).double() * len(labels))
                if step + 1 < (epoch + 1) * steps:
                    yield False
            score(run.model, objective, val, config)
            yield True


def measure_epochs(epochs: int) -> dict[str, float]:
    """Milliseconds of every side's epoch, by turns of a step, on one thread."""
    torch.set_num_threads(1)
    retain_freed_memory()
    raise_gc_threshold()
    sides = {name: Side(default_run(WARM_UP + epochs, sar)) for name, sar in SIDES.items()}
    order, going_on = random.Random(0), list(sides.values())
    while any(going_on):
        going_on = [side for side in order.sample(going_on, len(going_on)) if side.take()]
    return {name: side.epoch(WARM_UP + epochs) for name, side in sides.items()}


def in_processes(epochs: int, processes: int) -> list[dict[str, float]]:
    """`measure_epochs` in so many processes of their own."""
    command = [sys.executable, __file__, "--epochs", str(epochs), "--times"]
    said = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(processes)]
    return [json.loads(each) for each in said]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8, help="epochs of every side that count (default 8)")
    parser.add_argument("--processes", type=int, default=5, help="that do so (default 5)")
    parser.add_argument("--times", action="store_true", help="one process: print its times alone, as JSON")
    given = parser.parse_args()
    if given.times:
        return print(json.dumps(measure_epochs(given.epochs)))
    print(header("SAR in an epoch of the default digits trial, one CPU thread", ["torch", "timm", "numba"]))
    found = in_processes(given.epochs, given.processes)
    shares, rows = {}, []
    for name in SIDES:
        timing = Timing(tuple(each[name] for each in found))
        by_process = sorted(100 * (each[name] / each["off"] - 1) for each in found)
        shares[name] = statistics.median(by_process)
        spread = f"{by_process[0]:+.1f} to {by_process[-1]:+.1f}"
        rows.append((name, timing, f"{shares[name]:+.1f} %", spread))
    print(
        f"Processor time, median (least-most) of {given.processes} processes, of {given.epochs} epochs each; load of "
        f"the machine {os.getloadavg()[0]:.1f}.\n"
    )
    print(table(["SAR", "an epoch", "more than off", "by process"], rows))
    kept: dict[str, object] = {"epoch_percent": {name: round(share, 2) for name, share in shares.items()}}
    keep("regularizer_step", kept)


if __name__ == "__main__":
    main()

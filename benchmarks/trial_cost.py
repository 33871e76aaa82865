"""What a trial costs besides its steps, piece by piece: CPU seconds, which other work on the machine disturbs least.

Run: python benchmarks/trial_cost.py [--repetitions 5] [--compile]

The pieces that a worker pays once (imports, opening the data) are measured in processes of their own; those that every
trial pays, on the default setting of params.yaml in this process. A steady step is the measure: the last column says
how many steps a piece costs. With --compile, what torch.compile takes and gives on the same step is measured too. There
is no other side: the pieces are ours.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from copied import copy_checkout, environment_of
from harness import header, keep, table

from pipeline.assembly import TrainingData, build_run, load_data
from pipeline.config import Params, load_params
from pipeline.train.checkpoint import load_state, load_weights, write_checkpoint
from pipeline.train.cpu.onednn_linear import use_onednn_linear
from pipeline.train.loader import TrainLoader
from pipeline.train.loop import score
from pipeline.train.memory import retain_freed_memory
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer, make_schedule
from pipeline.train.step import take_step

IMPORTS = {
    "import torch": "import torch",
    "import timm and torchvision, after torch": "import timm",
    "import Ray Tune, after those": "from ray import tune",
    "import the rest of a worker": "import pipeline.tune.ray.trainable",
}
"""In the order in which a worker does them."""

EPOCH = 5
"""Counted from 0: one in which SAR has a weight."""


def imports() -> dict[str, float]:
    """CPU seconds of each import in a fresh process in which those before it are done."""
    lines = ["import time", "import json", "found = []"]
    for line in IMPORTS.values():
        lines += ["begun = time.process_time()", line, "found.append(time.process_time() - begun)"]
    code = "\n".join([*lines, "print(*found)"])
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return dict(zip(IMPORTS, map(float, said.split()), strict=True))


def made_data(folder: Path) -> tuple[Params, Path, Path]:
    """The default data, prepared and split in a copy of this checkout: parameters, prepared folder, split file."""
    copy_checkout(folder)
    for stage in ("prepare", "split"):
        command = [sys.executable, "-m", f"pipeline.stages.{stage}"]
        subprocess.run(command, cwd=folder, env=environment_of(folder), check=True, capture_output=True)
    return load_params(folder / "params.yaml"), folder / "data" / "prepared", folder / "data" / "split.json"


def cpu_seconds(work: Callable[[], Any]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


class Trial:
    """A trial of the default setting with SAR on, taken apart."""

    def __init__(self, params: Params, data: TrainingData, *, compiled: bool = False) -> None:
        self.params, self.data = params.with_values({"regularizer.spatial_entropy.weight": 0.1}, where="here"), data
        self.config, self.spent = self.params.train.config(), dict[str, float]()
        self._piece("build the network and its batches", self._build)
        self._piece("taps, optimizer, schedule", self._begin)
        if compiled:
            self.run.model.compile()

    def measure(self, folder: Path) -> dict[str, float]:
        """CPU seconds by piece; `a steady step` among them."""
        self.run.model.train()
        with self.objective, use_onednn_linear(self.run.model):
            first = cpu_seconds(self._step)
            steps = [cpu_seconds(self._step) for _ in range(2 * self.in_epoch)]
            self.spent["a steady step"] = statistics.median(steps)
            self.spent["the first step, beyond a steady one"] = max(0.0, first - self.spent["a steady step"])
            self._piece(
                "score the validation images", lambda: score(self.run.model, self.objective, self.val, self.config)
            )
        self._piece("write a checkpoint", lambda: self._write(folder))
        self._piece("read a checkpoint", lambda: self._read(folder))
        return self.spent

    def _piece(self, name: str, work: Callable[[], Any]) -> None:
        self.spent[name] = cpu_seconds(work)

    def _read(self, folder: Path) -> None:
        load_weights(folder, self.run.model)
        load_state(folder)

    def _build(self) -> None:
        self.run = build_run(self.params, self.data, seed=0)
        self.train, self.val = self.data.batches("train"), self.data.batches("val")
        self.in_epoch = -(-len(self.train) // self.config.batch_size)

    def _begin(self) -> None:
        feed = TrainLoader(self.train, self.config, model=self.run.model, seed=0)
        self.objective = Objective(self.run.model, self.run.regularizers, planned_epochs=self.config.epochs)
        self.optimizer = make_optimizer(self.run.model, self.config, beside=self.objective.trainable)
        make_schedule(self.optimizer, self.config, self.in_epoch)
        self.batches = (batch for epoch in range(100) for batch in feed.epoch(epoch))

    def _step(self) -> None:
        inputs, labels = next(self.batches)
        take_step(self.run.model, self.objective, self.optimizer, inputs, labels, epoch=EPOCH, config=self.config)

    def _write(self, folder: Path) -> None:
        write_checkpoint(
            folder, self.run.model, self.run.sidecar, state={"epoch": 1, "optimizer": self.optimizer.state_dict()}
        )


def compiling(params: Params, data: TrainingData, eager: float, folder: Path) -> str:
    """What torch.compile takes and gives, in a sentence."""
    spent = Trial(params, data, compiled=True).measure(folder)
    took, step = spent["the first step, beyond a steady one"], spent["a steady step"]
    gain = eager - step
    after = f"pays after {took / gain:,.0f} steps" if gain > 0 else "never pays"
    with_it, without = f"{1000 * step:.1f} ms a step", f"{1000 * eager:.1f} without"
    return f"torch.compile: {took:.1f} s for the first step; then {with_it}, {without}; {after}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    retain_freed_memory()
    rounds: list[dict[str, float]] = []
    said = ""
    with tempfile.TemporaryDirectory(prefix="trial-") as temporary:
        params, prepared, split = made_data(Path(temporary) / "checkout")
        once = imports()
        once["open the data"] = cpu_seconds(lambda: load_data(prepared, split, "cpu"))
        data = load_data(prepared, split, "cpu")
        for number in range(1 + asked.repetitions):
            folder = Path(temporary) / f"checkpoint-{number}"
            os.mkdir(folder)
            rounds.append(Trial(params, data).measure(folder))
        if asked.compile:
            os.mkdir(Path(temporary) / "compiled")
            eager = statistics.median(each["a steady step"] for each in rounds[1:])
            said = compiling(params, data, eager, Path(temporary) / "compiled")
    every = {name: statistics.median(each[name] for each in rounds[1:]) for name in rounds[0]}
    once["the first trial's first step"] = rounds[0]["the first step, beyond a steady one"]
    step = every["a steady step"]
    rows = [
        (name, paid, f"{seconds:.3f} s", f"{seconds / step:,.1f}")
        for paid, pieces in (("once a worker", once), ("every trial, or epoch", every))
        for name, seconds in pieces.items()
    ]
    print(header("What a trial costs besides its steps, CPU seconds on one thread", ["torch", "timm", "ray"]))
    print(table(["", "paid", "CPU time", "in steps"], rows))
    print(f"\n{said}" if said else "")
    keep("trial_cost", {"once": once, "every": every, "compiling": said})


if __name__ == "__main__":
    main()

"""What a checkpoint after every epoch adds to training: written before the next epoch, and while it is trained.

Run: python benchmarks/checkpoint_writing.py [--turns 3]

A ViT-S (22 million weights, 260 MB a checkpoint with AdamW's state) on digits, on one thread, written to the folder for
temporary files. On the clock, by turns of four epochs; at the end of a turn its last checkpoint is waited for. The
other side is what most people write, and the shortest way to the same bytes: one torch.save of weights and state.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from digits import default_params, digits
from harness import header, keep, table, time_pairs

from pipeline.assembly import TrainingData, build_run, train_run
from pipeline.data.splits.split import Split
from pipeline.train.checkpoint import copy_tensors, write_checkpoint
from pipeline.train.checkpoint_writer import CheckpointWriter
from pipeline.train.loop import Epoch

SIDES = (
    "no checkpoint",
    "written before the next epoch",
    "written while it is trained",
    "by torch.save, before the next epoch",
)
IMAGES = 48
TURN = 4


def small_epochs(epochs: int) -> Iterator[Epoch]:
    """A training run whose epochs take a few seconds."""
    network = {"patch_size": 2, "embed_dim": 384, "depth": 12, "num_heads": 6}
    params = default_params(model__kwargs=network, train__epochs=epochs)
    data = digits(params.prepare.image_size)
    few = Split(data.split.train[:IMAGES], data.split.val[:IMAGES], data.split.test[:0])
    run = build_run(params, fewer := TrainingData(data.prepared, few, data.device), seed=0)
    return train_run(run, params, fewer, seed=0)


def keeping(side: str, run: Iterator[Epoch], folder: Path) -> Callable[[], object]:
    """A turn of epochs, with their checkpoints the way that the side has it."""
    beside = side == SIDES[2]

    def turn() -> None:
        with CheckpointWriter() as background:
            for done in islice(run, TURN):
                if side == SIDES[0]:
                    continue
                if side == SIDES[3]:
                    torch.save({"model": done.model.state_dict(), **done.state()}, folder / "by_torch.pt")
                    continue
                weights: Any = done.model
                state = done.state()
                if beside:
                    weights, state = copy_tensors(weights.state_dict()), copy_tensors(state)
                background.run(partial(write_checkpoint, folder, weights, {}, state=state), beside=beside)

    return turn


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=3, help="turns of every side that count (default 3)")
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    print(header("A checkpoint after every epoch of a ViT-S, one thread", ["torch", "timm"]))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        sides = {side: keeping(side, small_epochs((turns + 1) * TURN), folder) for side in SIDES}
        times = time_pairs(sides, repetitions=turns, warm_up=1)
        megabytes = sum(file.stat().st_size for file in folder.iterdir() if file.name != "by_torch.pt") / 1e6
    seconds = {side: statistics.median(times[side].times) / TURN / 1000 for side in SIDES}
    rows = [(side, f"{seconds[side]:.2f} s") for side in SIDES]
    print(table(["checkpoint", f"an epoch, with {megabytes:.0f} MB written"], rows))
    keep("checkpoint_writing", seconds)


if __name__ == "__main__":
    main()

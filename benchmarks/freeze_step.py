"""What a training step costs with frozen blocks: of the default network on digits, against one of all its weights.

Run: python benchmarks/freeze_step.py [--repetitions 300]

A step is the making of a batch, the forward and backward passes and the optimizer's step. Every side is a training run
of its own, without a regulariser, and the runs go on by turns, a step each, on one CPU thread; what is counted is
processor time. The claim is that a step with `model.freeze: all` takes at most 40 % of a whole one.
"""

import argparse
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from digits import default_params, digits
from harness import Timing, header, keep, table, time_pairs

from pipeline.assembly import build_run
from pipeline.models.freeze import enter_training
from pipeline.train.cpu.onednn_linear import use_onednn_linear
from pipeline.train.loader import TrainLoader
from pipeline.train.memory import raise_gc_threshold, retain_freed_memory
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer
from pipeline.train.step import take_step

WHOLE = "0"
SIDES: Mapping[str, int | str] = {WHOLE: 0, "2 of 4 blocks": 2, "4 of 4 blocks": 4, "all": "all"}
MOST = 0.4
"""Of the time of a whole step, with `model.freeze: all`."""


@contextmanager
def training(frozen: int | str) -> Iterator[Callable[[], None]]:
    """The default digits trial with so much frozen: a function that takes its next step."""
    off = {f"regularizer__spatial_entropy__{name}": value for name, value in (("weight", 0.0), ("watch", False))}
    params = default_params(model__freeze=frozen, **off)
    data, config = digits(params.prepare.image_size), params.train.config()
    run = build_run(params, data, seed=0)
    feed = TrainLoader(data.batches("train"), config, model=run.model, seed=0)
    batches = itertools.chain.from_iterable(map(feed.epoch, itertools.count()))
    with (
        Objective(run.model, run.regularizers, planned_epochs=config.epochs) as objective,
        use_onednn_linear(run.model),
    ):
        optimizer = make_optimizer(run.model, config)
        enter_training(run.model)

        def step() -> None:
            inputs, labels = next(batches)
            take_step(run.model, objective, optimizer, inputs, labels, epoch=0, config=config)

        yield step


def measure(repetitions: int, warm_up: int = 20) -> dict[str, Timing]:
    """Milliseconds of every side's steps, by turns, on one thread."""
    torch.set_num_threads(1)
    retain_freed_memory()
    raise_gc_threshold()
    with ExitStack() as runs:
        sides = {name: runs.enter_context(training(frozen)) for name, frozen in SIDES.items()}
        return time_pairs(sides, repetitions=repetitions, warm_up=warm_up, clock=time.process_time)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=300, help="steps of every side that count (default 300)")
    given = parser.parse_args()
    print(header("A training step with frozen blocks, default network on digits, one CPU thread", ["torch", "timm"]))
    found = measure(given.repetitions)
    shares = {name: timing.over(found[WHOLE]) for name, timing in found.items()}
    print(
        f"Processor time, median (least-most) of {given.repetitions} steps; shares are medians of the rounds' ratios; "
        f"load of the machine {os.getloadavg()[0]:.1f}.\n"
    )
    rows = [(name, timing, f"{100 * shares[name]:.1f} %") for name, timing in found.items()]
    print(table(["model.freeze", "a step", "of a whole one"], rows))
    verdict = "within" if shares["all"] <= MOST else "above"
    print(f"\nall: {100 * shares['all']:.1f} % of a whole step, {verdict} {MOST:.0%}")
    keep("freeze_step", {"step_share": {name: round(share, 4) for name, share in shares.items()}})


if __name__ == "__main__":
    main()

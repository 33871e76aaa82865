"""What it costs to measure what an epoch uses (`tracking.system_metrics`): default trials on digits, with and without.

Run: python benchmarks/system_metrics.py [--pairs 10]

Every pair is two training runs of the default trial, one measured and one not, that go on by turns, an epoch each;
which of them is first changes from pair to pair. Their networks lie elsewhere in memory each time, which alone is worth
some tenths of a percent of an epoch's time. Two shares are free of that: what the meter does in an epoch, timed by
itself on an epoch of as many batches in which nothing is trained, and what the driver takes to log the further metrics
to a tracking store of SQLite. The claim is that measuring costs less than 1 % of an epoch.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from digits import default_params, digits
from harness import Timing, header, keep, table, time_pairs

from pipeline.assembly import build_run, train_run
from pipeline.tracking.pending import RunUpdate, RunWriter, now_ms
from pipeline.tracking.store import client, experiment_id, prepare_store, resolve_store
from pipeline.train.loop import Epoch
from pipeline.train.usage import UsageMeter

OFF, ON = "off", "on"
MOST = 0.01
"""Of an epoch."""


def trial(side: str) -> Iterator[Epoch]:
    """The epochs of a default trial."""
    params = default_params(tracking__system_metrics=side == ON)
    data = digits(params.prepare.image_size)
    return train_run(build_run(params, data, seed=0), params, data, seed=0)


def measure(pairs: int) -> dict[str, dict[str, Timing]]:
    """Milliseconds of epochs by side, of the clock and of the processor; the first epoch of a run does not count."""
    clocks = {"clock": time.perf_counter, "processor": time.process_time}
    spent: dict[str, dict[str, list[float]]] = {name: {OFF: [], ON: []} for name in clocks}
    for pair in range(pairs):
        order = (OFF, ON) if pair % 2 else (ON, OFF)
        runs = {side: trial(side) for side in order}
        for number in range(default_params().train.epochs):
            for side in order:
                began = {name: clock() for name, clock in clocks.items()}
                epoch = next(runs[side])
                assert bool(epoch.usage) == (side == ON)
                for name, clock in clocks.items() if number else ():
                    spent[name][side].append(1000 * (clock() - began[name]))
        print(f"pair {pair + 1} of {pairs} done", flush=True)
    return {name: {side: Timing(tuple(times)) for side, times in sides.items()} for name, sides in spent.items()}


def meter_alone(batches: int, repetitions: int = 200) -> float:
    """Milliseconds of processor time that the meter takes of an epoch of so many batches."""
    found = []
    with UsageMeter(torch.device("cpu")) as meter:
        for _ in range(repetitions):
            began = time.process_time()
            meter.begin()
            for _ in meter.timed(range(batches)):
                pass
            meter.read()
            found.append(1000 * (time.process_time() - began))
    return statistics.median(found)


def log_alone(rounds: int = 60) -> dict[str, Timing]:
    """Milliseconds of processor time to log an epoch of either side, a delivery an epoch, to a store of SQLite."""
    epoch = next(trial(ON))
    told = {OFF: dict(epoch.metrics), ON: {**epoch.metrics, **epoch.usage}}
    with tempfile.TemporaryDirectory() as folder:
        store = resolve_store("sqlite:///mlflow.db", Path(folder))
        prepare_store(store)
        writer = RunWriter(client(store), experiment_id(store, "benchmark"))
        runs = {side: RunUpdate({"sar.trial": side}, side) for side in told}
        steps = itertools.count(1)

        def log(side: str) -> None:
            runs[side].add_metrics(told[side], next(steps), now_ms())
            writer.flush(runs[side])

        sides = {side: partial(log, side) for side in told}
        return time_pairs(sides, repetitions=rounds, warm_up=3, clock=time.process_time)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10, help="pairs of runs (default 10)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(header("Measuring what an epoch uses, default trial on digits, one CPU thread", ["torch", "timm", "psutil"]))
    params = default_params()
    data = digits(params.prepare.image_size)
    batches = -(-len(data.ids("train")) // params.train.batch_size) + -(-len(data.ids("val")) // 256)
    alone = meter_alone(batches)
    found = measure(given.pairs)
    count = len(found["clock"][OFF].times)
    print(
        f"\nAn epoch, median (least-most) of {count} of each side, by turns; shares are medians of the rounds' ratios; "
        f"load of the machine {os.getloadavg()[0]:.1f}.\n"
    )
    more = {name: sides[ON].over(sides[OFF]) - 1 for name, sides in found.items()}
    names = {"clock": "by the clock", "processor": "processor time"}
    rows = [(names[name], sides[OFF], sides[ON], f"{100 * more[name]:+.2f} %") for name, sides in found.items()]
    print(table(["", "not measured", "measured", "more"], rows))
    whole = statistics.median(found["processor"][OFF].times)
    print(f"\nThe meter by itself, {batches} batches: {alone:.3f} ms, {100 * alone / whole:.3f} % of an epoch.")
    logged = log_alone()
    further = statistics.median(on - off for on, off in zip(logged[ON].times, logged[OFF].times, strict=True))
    print(
        f"Logging an epoch, processor time of the driver: {logged[OFF]} without, {logged[ON]} with; the others "
        f"{further:.2f} ms, {100 * further / whole:.2f} % of an epoch."
    )
    verdict = "within" if (alone + further) / whole <= MOST else "above"
    print(f"both together: {100 * (alone + further) / whole:.2f} %, {verdict} {MOST:.0%} of an epoch")
    kept = {"more": {name: round(value, 5) for name, value in more.items()}, "epoch_ms": round(whole, 1)}
    keep("system_metrics", {**kept, "meter_ms": round(alone, 4), "logging_ms": round(further, 3)})


if __name__ == "__main__":
    main()

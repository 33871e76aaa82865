"""Records learning curves of many settings, as a table on which searches can be simulated (`simulate.py`).

Run: nice python benchmarks/record_curves.py       # some hours of two cores; goes on where it was after Ctrl-C
     python benchmarks/record_curves.py --pack     # what is there -> benchmarks/tables/sar_wide_digits.npz

The settings are the first points of a scrambled Sobol sequence over the space, so that they cover it evenly and no
sampler has chosen them; all settings are trained with the first seed, then all with the second, and so on. Those that
may be the best by then are trained with further seeds, which no search sees: they say which of them are good, and which
were lucky. Network, recipe and training images are those of params.yaml. Nothing but simulated searches sees the table,
so that the test images validate too, 719 in all: fewer would add noise of their own.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digits import PARAMS, digits
from scipy.stats import qmc

from pipeline.assembly import TrainingData, build_run, train_run
from pipeline.compute.limits import usable_cpus
from pipeline.config import Params, load_params
from pipeline.data.splits.split import Split
from pipeline.train.loop import Diverged
from pipeline.tune.selection.confirm import FIRST_SEED
from pipeline.tune.space import SearchSpace, load_space

ROOT = Path(__file__).parents[1]
SPACE = "search_spaces/sar_wide.yaml"
SETTINGS: dict[str, Any] = {"search.space": SPACE}
"""What differs from params.yaml. Empty but for the space: what is simulated is the default search's own trial."""
KEPT = {"val/accuracy": "accuracy", "val/loss": "loss", "val/spatial_entropy/empty_share": "empty_share"}


def settings_of(space: SearchSpace, count: int) -> list[Mapping[str, Any]]:
    """The first so many points of the Sobol sequence, as values by dotted path."""
    points = qmc.Sobol(len(space.dimensions), seed=0).random(count)
    return [space.decode(space.value_at(point.tolist())) for point in points]


def recorded_digits() -> TrainingData:
    """The digits with the training images of the default run, and all of its others to validate with."""
    data = digits(load_params(PARAMS).prepare.image_size)
    return replace(data, split=Split(data.split.train, data.ids("val+test"), data.split.test[:0]))


def train(params: Params, data: TrainingData, values: dict[str, Any], seed: int) -> dict[str, list[float]]:
    """Curves by name; NaN from the epoch on in which the run diverged."""
    params = params.with_values(values, where="the table")
    run = build_run(params, data, seed=seed)
    curves: dict[str, list[float]] = {name: [] for name in (*KEPT.values(), "seconds")}
    epochs = train_run(run, params, data, seed=seed)
    try:
        for epoch in epochs:
            for metric, name in (KEPT | {"seconds": "seconds"}).items():
                curves[name].append(round(epoch.metrics[metric], 5))
    except Diverged:
        missing = params.train.epochs - len(curves["accuracy"])
        return {name: curve + [float("nan")] * missing for name, curve in curves.items()}
    return curves


def record(folder: Path, order: Sequence[tuple[int, int]], at_a_time: int) -> None:
    """Train those (setting, seed) of the order that the log does not have yet, so many runs side by side."""
    params = load_params(PARAMS).with_values(SETTINGS, where="the table")
    space = load_space(ROOT / SPACE, params, shown_as=SPACE)
    rows = settings_of(space, 1 + max(row for row, _ in order))
    done = {(line["row"], line["seed"]) for line in _read(folder)}
    todo = [run for run in order if run not in done]
    started = time.perf_counter()
    fresh = get_context("spawn")
    with ProcessPoolExecutor(at_a_time, mp_context=fresh, initializer=_begin, initargs=(params,)) as pool:
        # The seeds of a search: its own, then those of its confirmations.
        shift = {seed: params.base.seed + (FIRST_SEED + seed if seed else 0) for _, seed in todo}
        curves_of = pool.map(_train_one, [rows[row] for row, _ in todo], [shift[seed] for _, seed in todo])
        for count, ((row, seed), curves) in enumerate(zip(todo, curves_of, strict=True)):
            with (folder / "curves.jsonl").open("a") as log:
                log.write(json.dumps({"row": row, "seed": seed, "values": rows[row], "curves": curves}) + "\n")
            pace = (time.perf_counter() - started) / (count + 1)
            left = pace * (len(todo) - count - 1) / 60
            said = f"seed {seed} setting {row}: {curves['accuracy'][-1]:.4f}  {left:.0f} minutes left"
            print(said, file=sys.stderr, flush=True)


_given: dict[str, Any] = {}
"""What a process that trains has read once."""


def _begin(params: Params) -> None:
    torch.set_num_threads(1)
    _given.update(params=params, data=recorded_digits())


def _train_one(values: dict[str, Any], seed: int) -> dict[str, list[float]]:
    return train(_given["params"], _given["data"], values, seed)


def _read(folder: Path) -> list[Mapping[str, Any]]:
    log = folder / "curves.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def best_of(folder: Path, settings: int, seeds: int, best: int) -> list[int]:
    """Of so many settings those with the best mean accuracy over so many seeds, best first.

    What has fewer seeds is none of them, and neither is what diverged with any.
    """
    last = _last(folder)
    whole = [row for row in range(settings) if all((row, seed) in last for seed in range(seeds))]
    means = {row: sum(last[row, seed] for seed in range(seeds)) / seeds for row in whole}
    return sorted((row for row in whole if math.isfinite(means[row])), key=lambda row: -means[row])[:best]


def pack(folder: Path, path: Path, settings: int, seeds: int, rounds: Sequence[tuple[int, int]]) -> None:
    """Write the table: whole curves of every setting, and last accuracies with the further seeds of the best ones."""
    by_key = {(line["row"], line["seed"]): line for line in _read(folder)}
    arrays = {
        name: np.array(
            [[by_key[row, seed]["curves"][name] for seed in range(seeds)] for row in range(settings)], dtype=np.float32
        )
        for name in (*KEPT.values(), "seconds")
    }
    values = json.dumps([by_key[row, 0]["values"] for row in range(settings)])
    last, again = _last(folder), [run for runs in _again(folder, settings, seeds, rounds) for run in runs]
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            values=np.array(values),
            settings=np.array(json.dumps(SETTINGS)),
            accuracy=arrays["accuracy"],
            loss=arrays["loss"].astype(np.float16),
            empty_share=arrays["empty_share"].astype(np.float16),
            seconds=arrays["seconds"].astype(np.float16),
            again=np.array([row for row, _ in again], dtype=np.int16),
            last=np.array([last[run] for run in again], dtype=np.float32),
        )
    print(f"{path}: {settings} settings, {seeds} seeds, {len(again)} further runs, {path.stat().st_size / 1000:.0f} kB")


def _again(
    folder: Path, settings: int, seeds: int, rounds: Sequence[tuple[int, int]]
) -> Iterator[list[tuple[int, int]]]:
    """The runs of each round, by (setting, seed).

    To be read on when those of a round are in the log, since the next one's settings are chosen by them.
    """
    for best, further in rounds:
        rows = best_of(folder, settings, seeds, best)
        yield [(row, seeds + index) for index in range(further) for row in rows]
        seeds += further


def _last(folder: Path) -> dict[tuple[int, int], float]:
    return {(line["row"], line["seed"]): line["curves"]["accuracy"][-1] for line in _read(folder)}


def _round(text: str) -> tuple[int, int]:
    best, _, seeds = text.partition("x")
    return int(best), int(seeds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=ROOT / "state" / "record_curves", help="kept between runs")
    parser.add_argument("--settings", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3, help="of every setting; what searches see")
    parser.add_argument(
        "--again", type=_round, nargs="*", default=[(128, 3), (64, 5)], help="the best so many, with so many more seeds"
    )
    parser.add_argument("--at-a-time", type=int, default=usable_cpus(), help="runs side by side, a thread each")
    parser.add_argument("--pack", action="store_true")
    asked = parser.parse_args()
    folder, settings, seeds = asked.folder, asked.settings, asked.seeds
    if asked.pack:
        return pack(folder, ROOT / "benchmarks" / "tables" / "sar_wide_digits.npz", settings, seeds, asked.again)
    folder.mkdir(parents=True, exist_ok=True)
    record(folder, [(row, seed) for seed in range(seeds) for row in range(settings)], asked.at_a_time)
    for runs in _again(folder, settings, seeds, asked.again):
        record(folder, runs, asked.at_a_time)


if __name__ == "__main__":
    main()

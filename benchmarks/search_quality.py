"""How many epochs a search takes to find a good setting: ours against the usual ones, on recorded learning curves.

Run: python benchmarks/search_quality.py --seeds 200 # the table of docs/benchmarks/search_quality.md
     python benchmarks/search_quality.py --all       # every sampler with every scheduler besides
     python benchmarks/search_quality.py --describe  # how well the table tells settings apart

A setting is good if it is among the best 5 % of benchmarks/tables/sar_wide_digits.npz by its mean over all of its
seeds, most of which no search sees. A search has found one when the setting that it holds for the best (of those that
ran in full, by the one value that it has seen of each) is a good one. One trial runs at a time. What is counted are all
epochs of all trials until then, of controls and confirmations none. A search that has not found one within --epochs
counts as one that takes for ever. Since what is held may be a good one for a while and give way to a luckier one, the
shares of searches that hold a good one after a quarter of the epochs, and at their end, stand beside it; and since
which ones are good is partly luck, too, what the held settings are worth after an eighth, a quarter and all of the
epochs: their mean accuracy with the seeds that the search has not seen.

Ours run through the pipeline's own course, study and stopping rules (`simulate.py`), and so does ASHA as Ray Tune has
it, which stops trials and resumes none (tests restate its rule). Optuna is itself, asked and told. Since nobody knows
beforehand which rungs are good, the rivals stand there with several: ASHA as Ray Tune sets it, with thirds, which is
its paper's ratio and Optuna's, and with halves; the same as its paper has it, pausing trials; Optuna's TPE with each of
its pruners that are made for epochs. What ours is to be held against is the best of them, whichever that is.
"""

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from harness import header, keep, table
from scipy import stats
from simulate import Simulation, Table, make_table, read_table, simulate

from pipeline.compute.limits import usable_cpus
from pipeline.config import Params
from pipeline.tune.journal.records import OBJECTIVE
from pipeline.tune.space import load_space

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "benchmarks" / "tables" / "sar_wide_digits.npz"
SPACE = "search_spaces/sar_wide.yaml"
SHARE = 0.05
EPOCHS = 8
"""Of a recorded curve."""
SAMPLERS, SCHEDULERS = ("noisy_gp", "tpe", "gp", "random", "sobol"), ("asha", "hyperband", "median", "none")

Choices = Sequence[tuple[int, int]]
"""Epochs spent, and the row of the table that is held for the best from then on."""
Search = Callable[[Table, int, int], Choices]
"""A search on a table, with a seed, for so many epochs; the trial that runs then still ends."""


@dataclass(frozen=True)
class Outcome:
    """epochs: until a good setting was held for the best, infinite if it never was. early, late: whether one was held
    after a quarter of the epochs, and at their end. worth: what was held after an eighth, a quarter, and at the end;
    NaN where nothing was.
    """

    epochs: float
    early: bool
    late: bool
    worth: tuple[float, ...]


def ours(settings: Mapping[str, Any]) -> Search:
    """A search of ours with other parameters than those of params.yaml."""

    def run(recorded: Table, seed: int, epochs: int) -> Choices:
        fixed = {"base.seed": seed, "search.trials": epochs, "search.confirm.seeds": 0}
        params = Params().with_values(fixed | dict(settings), where="the benchmark")
        found: list[tuple[int, int]] = []

        def enough(simulation: Simulation) -> bool:
            held = simulation.held()
            if held is not None and (not found or held != found[-1][1]):
                found.append((simulation.epochs, held))
            return simulation.epochs >= epochs

        space = replace(recorded.space, controls={})
        simulate(params, recorded, seed=seed % recorded.seeds, space=space, enough=enough)
        return found

    return run


def by_optuna(pruner: Callable[[], optuna.pruners.BasePruner]) -> Search:
    """Optuna's TPE as it comes (in Optuna 5 with dimensions together) and a pruner of its."""

    def run(recorded: Table, seed: int, epochs: int) -> Choices:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed)
        study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner(), study_name="one")
        space, distributions, curves = recorded.space, recorded.space.distributions(), recorded.curves[OBJECTIVE]
        found: list[tuple[int, int]] = []
        tried: set[int] = set()
        spent, best = 0, -math.inf
        while spent < epochs:
            proposed = study.ask(distributions)
            row = recorded.nearest(space.decode(proposed.params), but=tried)
            study.tell(proposed, state=optuna.trial.TrialState.FAIL)  # which no sampler looks at
            tried.add(row)
            study.enqueue_trial(space.encode(recorded.values[row]))
            trial = study.ask(distributions)
            pruned, value = False, -math.inf
            for epoch in range(1, recorded.epochs + 1):
                value, spent = float(curves[row, seed % recorded.seeds, epoch - 1]), spent + 1
                trial.report(value, epoch)
                if pruned := trial.should_prune():
                    break
            if pruned:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                continue
            study.tell(trial, value)
            if value > best:
                best = value
                found.append((spent, row))
        return found

    return run


def asha_of_the_paper(first: int, factor: int) -> Search:
    """ASHA as its paper has it, random sampling: a trial waits at its rung until it is among the best there.

    Li et al., A System for Massively Parallel Hyperparameter Tuning, arXiv 1810.05934, algorithm 2, by one worker.
    first: epochs of the first rung, of which each next one has `factor` times as many.
    """

    def run(recorded: Table, seed: int, epochs: int) -> Choices:
        rungs = [first]
        while rungs[-1] < recorded.epochs:
            rungs.append(min(factor * rungs[-1], recorded.epochs))
        curves = recorded.curves[OBJECTIVE][:, seed % recorded.seeds]
        order = iter(np.random.default_rng(seed).permutation(len(curves)).tolist())
        reached: list[dict[int, float]] = [{} for _ in rungs]
        promoted: list[set[int]] = [set() for _ in rungs]
        found: list[tuple[int, int]] = []
        spent, best = 0, -math.inf

        def next_job() -> tuple[int, int] | None:
            for rung in reversed(range(len(rungs) - 1)):
                ranked = sorted(reached[rung], key=lambda row: -reached[rung][row])
                for row in ranked[: len(ranked) // factor]:
                    if row not in promoted[rung]:
                        promoted[rung].add(row)
                        return row, rung + 1
            fresh = next(order, None)
            return None if fresh is None else (fresh, 0)

        while spent < epochs and (job := next_job()) is not None:
            row, rung = job
            spent += rungs[rung] - (rungs[rung - 1] if rung else 0)
            value = float(curves[row, rungs[rung] - 1])
            reached[rung][row] = -math.inf if math.isnan(value) else value
            if rung == len(rungs) - 1 and reached[rung][row] > best:
                best = reached[rung][row]
                found.append((spent, row))
        return found

    return run


def knowing_the_rate(recorded: Table, seed: int, epochs: int) -> Choices:
    """ASHA with random sampling from the settings alone whose learning rate is in the best quarter of its range.

    No search can know that beforehand. It says how much there is to be learned of the space, and what is luck.
    """
    place = list(recorded.space.dimensions).index("train.lr")
    quarters = np.minimum((4 * recorded.points[:, place]).astype(int), 3)
    worth = [np.nanmean(recorded.final()[quarters == quarter]) for quarter in range(4)]
    rows: list[int] = np.flatnonzero(quarters == int(np.argmax(worth))).tolist()
    curves = {name: curve[rows] for name, curve in recorded.curves.items()}
    best = make_table(recorded.space, [recorded.values[row] for row in rows], curves)
    choices = ours({"search.sampler.name": "random"})(best, seed, epochs)
    return [(spent, rows[row]) for spent, row in choices]


def outcome(choices: Choices, recorded: Table, seed: int, epochs: int) -> Outcome:
    """What the choices of a search with this seed come to. epochs: that it had."""
    good, worth = recorded.best(SHARE), recorded.final(but=[seed % recorded.seeds])

    def held(after: float) -> int | None:
        return next((row for spent, row in reversed(choices) if spent <= after), None)

    first = next((spent for spent, row in choices if row in good), math.inf)
    kept = [held(after) for after in (epochs / 8, epochs / 4, math.inf)]
    return Outcome(
        first, kept[1] in good, kept[2] in good, tuple(math.nan if k is None else float(worth[k]) for k in kept)
    )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of the medians of resamples."""
    draws = np.random.default_rng(0).choice(np.array(values), (4000, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975], method="nearest")
    return float(low), float(high)


def contenders(everything: bool) -> dict[str, Search]:
    """By what they are called; the two that others are measured against first."""
    random = {"search.sampler.name": "random"}
    even = {"search.sampler.start": "sobol"}
    ray = {"search.scheduler.grace_period": 1, "search.scheduler.reduction_factor": 4.0}
    thirds = {"search.scheduler.grace_period": 1, "search.scheduler.reduction_factor": 3.0}
    halves = {"search.scheduler.grace_period": 2, "search.scheduler.reduction_factor": 2.0}
    named = {
        "ASHA as Ray Tune sets it, random sampling": ours(random | ray),
        "ASHA with our rungs, random sampling": ours(random),
        "random search, also Ray Tune's default": ours(random | {"search.scheduler.name": "none"}),
        "ASHA with rungs 1 and 3, a third goes on, random sampling": ours(random | thirds),
        "ASHA with rungs 2 and 4, half go on, random sampling": ours(random | halves),
        "ASHA of its paper, which pauses: rungs 1 and 4, a quarter, random sampling": asha_of_the_paper(1, 4),
        "ASHA of its paper, which pauses: rungs 1 and 3, a third, random sampling": asha_of_the_paper(1, 3),
        "ASHA of its paper, which pauses: rungs 2 and 4, half, random sampling": asha_of_the_paper(2, 2),
        "Optuna's defaults (TPE, median pruner)": by_optuna(optuna.pruners.MedianPruner),
        "Optuna's TPE with its Hyperband": by_optuna(lambda: optuna.pruners.HyperbandPruner(1, EPOCHS, 3)),
        "Optuna's TPE with its successive halving": by_optuna(lambda: optuna.pruners.SuccessiveHalvingPruner(1)),
        "ours, as params.yaml has it": ours({}),
        "ours, noisy_gp": ours({"search.sampler.name": "noisy_gp"}),
        "ours, train.lr of the recipe .0006": ours({"train.lr": 0.0006}),
        "ours, train.lr of the recipe .0065": ours({"train.lr": 0.0065}),
        "ours, nothing of the recipe right": ours(
            {"train.lr": 0.0065, "train.weight_decay": 0.04, "model.drop_path": 0.27}
        ),
        "ours, not from the recipe": ours(even),
        "noisy_gp, not from the recipe": ours(even | {"search.sampler.name": "noisy_gp"}),
        "ASHA with our rungs, around the recipe, learning nothing": ours({"search.sampler.startup_trials": 1_000}),
        "ASHA with our rungs, random sampling, told the best quarter of learning rates": knowing_the_rate,
    }
    if everything:
        for sampler in SAMPLERS:
            for scheduler in SCHEDULERS:
                settings = {"search.sampler.name": sampler, "search.scheduler.name": scheduler}
                named[f"{sampler} with {scheduler}"] = ours(settings)
    return named


def compare(
    names: Iterable[str], seeds: Sequence[int], epochs: int, *, at_a_time: int
) -> Iterable[tuple[str, list[Outcome]]]:
    """What the contenders of these names come to, with every seed; so many searches side by side."""
    with ProcessPoolExecutor(at_a_time, mp_context=get_context("spawn")) as pool:
        for name in names:
            started = time.perf_counter()
            outcomes = list(pool.map(partial(_one, name, epochs), seeds, chunksize=4))
            spent = statistics.median(each.epochs for each in outcomes)
            print(f"{name}: {spent:.0f} epochs, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
            yield name, outcomes


def _one(name: str, epochs: int, seed: int) -> Outcome:
    recorded = read()
    return outcome(contenders(True)[name](recorded, seed, epochs), recorded, seed, epochs)


@cache
def read() -> Table:
    """The recorded table, read once a process."""
    return read_table(RECORDED, load_space(ROOT / SPACE, Params(), shown_as=SPACE))


def describe(recorded: Table) -> None:
    """Print how well the table tells settings apart: all of them, and those that were trained again."""
    accuracy, mean = np.asarray(recorded.curves[OBJECTIVE], dtype=np.float64), recorded.final()
    last = accuracy[:, :, -1] - accuracy[:, :, -1].mean(axis=0)  # less what a seed gives to all settings
    most_seeds = max((len(values) for values in recorded.further.values()), default=0)
    groups = {
        "all settings": np.arange(len(mean)),
        "trained again": np.array(sorted(recorded.further)),
        "trained again most often": np.array([r for r, v in sorted(recorded.further.items()) if len(v) == most_seeds]),
    }
    rows = []
    for name, those in groups.items():
        seeds = np.array([recorded.seeds + len(recorded.further.get(row, ())) for row in those.tolist()])
        luck = float(last[those].std(axis=1, ddof=1).mean())
        again = [
            float(np.mean(recorded.further[row])) if row in recorded.further else math.nan for row in those.tolist()
        ]
        agree = "" if np.isnan(again).any() else f"{_rank(accuracy[those, :, -1].mean(axis=1), again):+.2f}"
        told = {path: _rank(recorded.points[those, i], mean[those]) for i, path in enumerate(recorded.space.dimensions)}
        most, second = sorted(told, key=lambda path: -abs(told[path]))[:2]
        shown = [f"{path.rpartition('.')[2]} {told[path]:+.2f}" for path in (most, second)]
        spreads = [100 * mean[those].std(), 100 * luck, 100 * luck * np.mean(seeds**-0.5)]
        counts = f"{seeds.min()} to {seeds.max()}"
        rows.append((name, len(those), counts, *(f"{spread:.2f}" for spread in spreads), agree, ", ".join(shown)))
    spread = ["points between means", "by seed", "by luck, of a mean"]
    print(table(["", "settings", "seeds", *spread, "first and further agree", "what tells most"], rows))
    loss = np.asarray(recorded.curves["val/loss"], dtype=np.float64)
    rungs = [epoch for epoch in (1, 2, 3, 4, 6, 8) if epoch <= recorded.epochs]
    others = [recorded.final(but=[seed]) for seed in range(recorded.seeds)]

    def told_by(curves: Any, epoch: int) -> float:
        return statistics.mean(_rank(curves[:, seed, epoch - 1], others[seed]) for seed in range(recorded.seeds))

    rows = [
        (name, *(f"{told_by(curves, epoch):.2f}" for epoch in rungs))
        for name, curves in (("accuracy", accuracy), ("minus loss", -loss))
    ]
    print(table(["rank correlation with the mean of other seeds", *map(str, rungs)], rows))


def _rank(one: Any, other: Any) -> float:
    return float(stats.spearmanr(one, other).statistic)


def _said(epochs: float) -> str:
    return "not found" if math.isinf(epochs) else f"{epochs:.0f}"


def _ratio(epochs: float, other: float, most: int) -> str:
    """most: epochs that the other had, which were not enough if it is infinite."""
    if math.isinf(epochs):
        return ""
    return f"{epochs / other:.2f}" if math.isfinite(other) else f"below {epochs / most:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0, help="designs are chosen from 1000 on, and reported below")
    parser.add_argument("--epochs", type=int, default=480, help="that a search has")
    parser.add_argument("--only", help="contenders whose names contain this")
    parser.add_argument("--all", action="store_true", help="every sampler with every scheduler besides")
    parser.add_argument("--describe", action="store_true", help="how well the table tells settings apart; no search")
    parser.add_argument("--at-a-time", type=int, default=usable_cpus(), help="searches side by side, a thread each")
    asked = parser.parse_args()
    if asked.describe:
        return describe(read())
    rows, kept, medians = [], {}, {}
    all_names = list(contenders(asked.all))
    against = all_names[:2]
    names = [name for name in all_names if asked.only is None or name in against or asked.only in name]
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # of the children
    for name, outcomes in compare(names, seeds, asked.epochs, at_a_time=asked.at_a_time):
        epochs = [each.epochs for each in outcomes]
        medians[name], (low, high) = statistics.median(epochs), interval(epochs)
        count = len(outcomes)
        early, late = sum(each.early for each in outcomes), sum(each.late for each in outcomes)
        found = sum(math.isfinite(each) for each in epochs)
        shares = [f"{each / count:.0%}" for each in (found, early, late)]
        worth = np.nanmean([each.worth for each in outcomes], axis=0).tolist()
        points = [f"{value:.4f}" for value in worth]
        rows.append((name, _said(medians[name]), f"{_said(low)} to {_said(high)}", *shares, *points))
        finite = [None if math.isinf(each) else each for each in epochs]
        shared = {"found": found, "early": early, "late": late, "of": count, "worth": worth}
        kept[name] = {"median": _said(medians[name]), "interval": [_said(low), _said(high)], **shared, "epochs": finite}
    columns = ["epochs, median", "95 % interval", "found", f"held at {asked.epochs // 4}", f"held at {asked.epochs}"]
    columns += [f"worth at {epochs}" for epochs in (asked.epochs // 8, asked.epochs // 4, asked.epochs)]
    ratios = [[_ratio(medians[name], medians[other], asked.epochs) for other in against] for name in names]
    print(header("Epochs until a good setting is found", ["optuna", "ray"]))
    print(
        table(
            ["", *columns, "of the first", "of the second"], [(*row, *of) for row, of in zip(rows, ratios, strict=True)]
        )
    )
    keep("search_quality", kept)


if __name__ == "__main__":
    main()

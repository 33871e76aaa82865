"""How many epochs a search takes to hold a good setting: ours against the usual ones, on recorded learning curves.

Run: python benchmarks/search_quality.py --tables FOLDER --workers 1 4  # the table of docs/benchmarks/search_quality.md
     python benchmarks/search_quality.py                                # the project's own table
     python benchmarks/search_quality.py --describe                     # how well that table tells settings apart
     python benchmarks/search_quality.py --tables FOLDER --only "ours" --set local_search.BEST=6  # another constant

A setting is good if it is among a table's best 1 % or 5 %. A search holds one when the best of its trials that ran in
full, by the value that it has seen of each, is a good one. All epochs of all trials count until then, of all workers
together; what is not found counts as the budget, 20 full trainings. A figure is the ratio of the mean epochs over seeds
to those of ASHA with random draws as Ray Tune sets it, with the same seeds, as the geometric mean over tables; its
interval is the middle 95 % of resamples of the tables within each family and, for each table drawn, of its seeds, both
sides together. A regret is of what is held after 10 and 20 full trainings: 0 is the table's best, 1 its median.

Ours are searches of params.yaml without controls and confirmations, through the pipeline's own controller, studies and
stopping rules (`simulate.py`); others are restated (`rivals.py`, tests compare them with slow restatements) or
themselves: Optuna, and NePS with --neps PYTHON, a Python that has it. Every proposal is moved to the nearest setting
that has not been tried. A prior is a random setting of the table's best fifth (good) or of its worse half (bad).
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from curve_tables import AFTER, BAD, GOOD, RECORDED, ROOT, Choices, Problem, describe, read_problem
from harness import header, keep, table
from numpy.typing import NDArray
from pydantic import PrivateAttr
from rivals import RAY, RIVALS, Search
from simulate import Simulation, simulate

from pipeline.compute.limits import usable_cpus
from pipeline.config import Params, load_params, parameters
from pipeline.config.yaml import parse_yaml
from pipeline.tune.schedulers import rungs
from pipeline.tune.study import curve_gp, local_search

FULL_TRAININGS = 20
"""The budget of a search."""
RESAMPLES = 4_000
NEPS = {"NePS hyperband": ("hyperband", None)} | {
    f"NePS PriorBand, {prior} prior": ("priorband", prior) for prior in (GOOD, BAD)
}
BLOCK, NEPS_BLOCK = 5, 20
"""Seeds that one process searches with at a time; NePS takes seconds to import."""

CONSTANTS = {"curve_gp": curve_gp, "local_search": local_search, "rungs": rungs}
"""Modules of constants that `--set` may change."""

Figures = NDArray[np.float64]
"""Of searches, `Problem.outcome` by table and seed, (tables, seeds, 4)."""


class WithRecipe(Params):
    """Parameters whose recipe is a setting of a table, whatever its hyper-parameters are called."""

    _setting: Mapping[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, params: Params, setting: Mapping[str, Any]) -> "WithRecipe":
        made = cls.model_validate(params.model_dump(by_alias=True))
        made._setting = setting
        return made

    def value(self, path: str) -> Any:
        return self._setting[path] if path in self._setting else super().value(path)


def ours(settings: Mapping[str, Any], prior: str | None = None) -> Search:
    """A search of params.yaml with some other parameters. prior: that its recipe is; without one it is told none."""

    def run(problem: Problem, seed: int, budget: int, workers: int) -> Choices:
        recorded = problem.table
        fixed: dict[str, Any] = {
            "base.seed": seed,
            "train.epochs": recorded.epochs,
            "search.trials": None,
            "search.budget.full_trainings": budget / recorded.epochs,
            "search.confirm.seeds": 0,
            "search.sampler.start": "sobol" if prior is None else "recipe",
        }
        if not problem.own:
            fixed["train.warmup_epochs"] = 0  # nobody knows of any, and the first rung would be after it
        params = load_params(ROOT / "params.yaml").with_values(fixed | dict(settings), where="the benchmark")
        row = 0 if prior is None else problem.prior_row(prior, seed)
        if prior is not None or not problem.own:
            params = WithRecipe.of(params, recorded.values[row])
        held: list[tuple[int, int]] = []

        def enough(simulation: Simulation) -> bool:
            best = simulation.held()
            if best is not None and (not held or best != held[-1][1]):
                held.append((simulation.epochs, best))
            return simulation.epochs >= budget

        simulate(
            params, recorded, workers=workers, seed=seed, space=replace(recorded.space, controls={}), enough=enough
        )
        return held

    return run


OURS: dict[str, tuple[Mapping[str, Any], str | None]] = {
    "ours": ({}, None),
    "ours, good prior": ({}, GOOD),
    "ours, bad prior": ({}, BAD),
    "ours, random draws": ({"search.sampler.name": "random"}, None),
}
"""Parameters, and the prior."""
OF_OWN_TABLE = {"ours, the recipe of params.yaml": ({"search.sampler.start": "recipe"}, None)}


def search(
    name: str, path: Path, seeds: Sequence[int], *, workers: int, asked: argparse.Namespace
) -> list[tuple[float, ...]]:
    """What the searches of a contender on one table come to. name: without what is `asked.set`."""
    problem = read_problem(path)
    epochs = round(asked.budget * problem.table.epochs)
    if name in NEPS:
        from neps_search import ask_neps

        algorithm, prior = NEPS[name]
        centers = [None if prior is None else problem.prior_row(prior, seed) for seed in seeds]
        found = ask_neps(asked.neps, algorithm, problem, seeds, centers, epochs, workers)
    else:
        if name in RIVALS:
            contender = RIVALS[name]
        else:
            settings, prior = (OURS | OF_OWN_TABLE)[name]
            contender = ours({**_set_constants(asked.set), **settings}, prior)
        found = [contender(problem, seed, epochs, workers) for seed in seeds]
    return [problem.outcome(choices, seed, epochs) for choices, seed in zip(found, seeds, strict=True)]


def _set_constants(given: Mapping[str, Any]) -> dict[str, Any]:
    """Set the constants among what `--set` names, in this process; the parameters."""
    for path in given.keys() - parameters().keys():
        module, _, name = path.rpartition(".")
        setattr(CONSTANTS[module], name, given[path])
    return {path: value for path, value in given.items() if path in parameters()}


def ratio(mine: Figures, theirs: Figures, families: Sequence[str]) -> list[tuple[float, float, float]]:
    """Of epochs, for each of SHARES: the geometric mean over tables of the ratio of means over seeds; its interval."""
    logs = [np.log(each[..., :2].mean(axis=1)) for each in (mine, theirs)]
    point = (logs[0] - logs[1]).mean(axis=0)
    tables, seeds = resamples(families, mine.shape[1])
    logs = [np.log(each[tables[..., None], seeds, :2].mean(axis=2)) for each in (mine, theirs)]
    drawn = np.exp((logs[0] - logs[1]).mean(axis=1))
    return [_with_interval(*pair) for pair in zip(np.exp(point), drawn.T, strict=True)]


def regret(mine: Figures, families: Sequence[str]) -> list[tuple[float, float, float]]:
    """The mean regret after each of AFTER, over tables and seeds, with its interval."""
    tables, seeds = resamples(families, mine.shape[1])
    drawn = mine[tables[..., None], seeds, 2:].mean(axis=(1, 2))
    return [_with_interval(*pair) for pair in zip(mine[..., 2:].mean(axis=(0, 1)), drawn.T, strict=True)]


def resamples(families: Sequence[str], seeds: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of tables, (RESAMPLES, tables), drawn within their families; of the seeds of each, one axis more."""
    rng, named = np.random.default_rng(0), np.array(families)
    groups = [np.flatnonzero(named == family) for family in dict.fromkeys(families)]
    tables = np.concatenate([rng.choice(group, (RESAMPLES, len(group))) for group in groups], axis=1)
    return tables, rng.integers(seeds, size=(*tables.shape, seeds))


def _with_interval(point: float, drawn: NDArray[np.float64]) -> tuple[float, float, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(point), float(low), float(high)


def _said(figure: tuple[float, float, float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*figure)


Found = dict[str, dict[str, dict[str, dict[str, list[float]]]]]
"""Outcomes by contender, workers, table and seed."""


def run_missing(
    pool: ProcessPoolExecutor,
    found: Found,
    names: Sequence[str],
    paths: Sequence[Path],
    seeds: Sequence[int],
    workers: int,
    asked: argparse.Namespace,
) -> Iterator[None]:
    """Search with what is not among the outcomes yet; yields whenever there are some more."""
    for name in names:
        started = time.perf_counter()
        of_name = found.setdefault(name, {}).setdefault(str(workers), {})
        one = partial(search, name.removesuffix(asked.suffix), workers=workers, asked=asked)
        size = NEPS_BLOCK if name in NEPS else BLOCK
        jobs: dict[tuple[str, tuple[int, ...]], Future[list[tuple[float, ...]]]] = {}
        for path in paths:
            left = [seed for seed in seeds if str(seed) not in of_name.get(path.stem, {})]
            blocks = (tuple(left[first : first + size]) for first in range(0, len(left), size))
            jobs |= {(path.stem, block): pool.submit(one, path, block) for block in blocks}
        for (stem, block), job in jobs.items():
            outcomes = [[round(figure, 4) for figure in outcome] for outcome in job.result()]
            of_name.setdefault(stem, {}).update(zip(map(str, block), outcomes, strict=True))
            yield
        if jobs:
            spent = time.perf_counter() - started
            print(f"{name}, {workers} worker{'s' * (workers > 1)}: {spent:.0f} s", file=sys.stderr, flush=True)


def figures_of(found: Found, name: str, workers: int, paths: Sequence[Path], seeds: Sequence[int]) -> Figures | None:
    """The outcomes of a contender; None if there are not those of all tables and seeds."""
    of_name = found.get(name, {}).get(str(workers), {})
    try:
        return np.array([[of_name[path.stem][str(seed)] for seed in seeds] for path in paths])
    except KeyError:
        return None


def print_table(
    found: Found, names: Sequence[str], paths: Sequence[Path], seeds: Sequence[int], workers: int, budget: float
) -> None:
    """Print the figures of all contenders with so many workers. budget: in full trainings."""
    families = [read_problem(path).family for path in paths]
    against = figures_of(found, RAY, workers, paths, seeds)
    kinds = list(dict.fromkeys(families))
    columns = ["", "top 1 %", "top 5 %", *(f"regret, {kind}" for kind in kinds)]
    columns += [f"regret after {budget * after:g}" for after in AFTER] if len(kinds) > 1 else []
    columns += ["top 1 %, of one worker's", "top 5 %, of one worker's"] if workers > 1 else []
    rows = []
    for name in names:
        mine = figures_of(found, name, workers, paths, seeds)
        if mine is None:
            continue
        row = [name, *(["", ""] if against is None else map(_said, ratio(mine, against, families)))]
        for kind in kinds:
            of_kind = mine[np.array(families) == kind][..., 2:].mean(axis=(0, 1))
            row.append(" / ".join(f"{each:.2f}" for each in of_kind))
        row += map(_said, regret(mine, families)) if len(kinds) > 1 else []
        if workers > 1:
            alone = figures_of(found, name, 1, paths, seeds)
            row += ["", ""] if alone is None else map(_said, ratio(mine, alone, families))
        rows.append(row)
    print(f"\n{workers} worker{'s' * (workers > 1)}; {len(paths)} tables, {len(seeds)} seeds\n")
    print(table(columns, rows), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", type=Path, help="a folder of tables; without it, the project's own table")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0, help="designs are chosen from 1000 on, and reported below")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="that train side by side")
    parser.add_argument("--budget", type=float, default=FULL_TRAININGS, help="full trainings that a search has")
    parser.add_argument("--only", nargs="+", help="run contenders whose names contain one of these, and Ray's ASHA")
    parser.add_argument("--set", nargs="+", default=[], metavar="PATH=VALUE", help="parameters of ours, or constants")
    parser.add_argument("--against", type=Path, help="results of an earlier run; what is in it is not run again")
    parser.add_argument("--keep", help="name of the results in benchmarks/results: search_quality, or ..._foreign")
    parser.add_argument("--neps", help="a Python that has NePS (pip install neural-pipeline-search)")
    parser.add_argument(
        "--describe", action="store_true", help="how well the own table tells settings apart; no search"
    )
    parser.add_argument("--at-a-time", type=int, default=usable_cpus(), help="searches side by side, a thread each")
    asked = parser.parse_args()
    if asked.describe:
        return describe(read_problem(RECORDED).table)
    paths = [RECORDED] if asked.tables is None else sorted(asked.tables.glob("*.npz"))
    if not paths:
        parser.error(f"--tables {asked.tables}: no .npz there")
    asked.suffix = "".join(
        f", {each.partition('=')[0].rpartition('.')[2]}={each.partition('=')[2]}" for each in asked.set
    )
    asked.set = {path: parse_yaml(value, "--set") for path, _, value in (each.partition("=") for each in asked.set)}
    mine = [*OURS, *(OF_OWN_TABLE if asked.tables is None else ())]
    every = [*RIVALS, *NEPS, *(f"{name}{asked.suffix}" for name in mine)]
    chosen = [name for name in every if asked.only is None or any(word in name for word in asked.only)]
    names = chosen if RAY in chosen else [RAY, *chosen]
    if asked.neps is None and (skipped := [name for name in names if name in NEPS]):
        print(f"without --neps PYTHON: no {', '.join(skipped)}", file=sys.stderr)
        names = [name for name in names if name not in NEPS]
    if asked.keep is None:
        asked.keep = "search_quality" if asked.tables is None else "search_quality_foreign"
    found: Found = json.loads(asked.against.read_text()) if asked.against else {}
    if asked.only is not None:  # what is asked for by name is run again
        found = {name: outcomes for name, outcomes in found.items() if name not in chosen}
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # of the children
    with ProcessPoolExecutor(asked.at_a_time, mp_context=get_context("spawn")) as pool:
        for workers in asked.workers:
            for _ in run_missing(pool, found, names, paths, seeds, workers, asked):
                keep(asked.keep, found, compact=True)
    print(header("Epochs until a good setting is held", ["optuna", "ray"]))
    shown = [*every, *(name for name in found if name not in every)]
    for workers in asked.workers:
        print_table(found, shown, paths, seeds, workers, asked.budget)


if __name__ == "__main__":
    main()

"""What the rule that chooses a configuration costs in accuracy, and what it gains in attention, on recorded runs.

Run: python benchmarks/choosing.py                # the tables of docs/benchmarks/choosing.md
     python benchmarks/choosing.py --opposed      # where attention and accuracy oppose each other, simulated

The default search of params.yaml over sar.yaml, two trials at a time, is replayed on `tables/sar_digits.npz`
(`record_choosing.py`) by the pipeline's own controller, study, stopping rules and choice. Of the five seeds of the
table one is the search's and two confirm, in an order drawn anew for every search; the chosen configuration is judged
by the other two, on validation images and on test images. Bands and defaults were set on the first split; the second,
of other images in every role, says what they are worth.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from harness import header, keep, table
from numpy.typing import NDArray
from simulate import Table, make_table, simulate

from pipeline.compute.limits import usable_cpus
from pipeline.config import Params, load_params
from pipeline.score.pooled_error import pooled_error
from pipeline.tune.journal.records import VAL_ACCURACY
from pipeline.tune.objectives.objectives import AUROC, LOSS
from pipeline.tune.selection.candidates import choice_rule
from pipeline.tune.selection.choice import choose_best
from pipeline.tune.space import SearchSpace, load_space

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "benchmarks" / "tables" / "sar_digits.npz"
SPACE = "search_spaces/sar.yaml"
SEARCHES = 200
CONTROLS = load_space(ROOT / SPACE, Params(), shown_as=SPACE).controls
USED = 3
"""Seeds that a search and its confirmations see; the others judge."""

NAIVE = {"search.choose.then": "none", "search.confirm.top": 2}
RULES: Mapping[str, Mapping[str, Any]] = {
    "the most accurate of 2 (the rule before)": NAIVE,
    "params.yaml: attention, 2 errors, top 3": {"search.choose.then": AUROC},
    "attention, 1 error": {"search.choose.then": AUROC, "search.choose.within": 1.0},
    "attention, 3 errors": {"search.choose.then": AUROC, "search.choose.within": 3.0},
    "attention, top 2": {"search.choose.then": AUROC, "search.confirm.top": 2},
    "attention, top 5": {"search.choose.then": AUROC, "search.confirm.top": 5},
    "attention, 1 further seed": {"search.choose.then": AUROC, "search.confirm.seeds": 1},
    "loss, 1 error": {"search.choose.then": LOSS},
    "loss, 2 errors": {"search.choose.then": LOSS, "search.choose.within": 2.0},
}


@dataclass(frozen=True)
class Recorded:
    """One split of the table. values: configurations. figures: (R, seeds, epochs) by metric; correct: (R, seeds,
    epochs, N) bool; test_correct: (R, seeds, N_test); test_auroc: (R, seeds).
    """

    values: Sequence[Mapping[str, Any]]
    figures: Mapping[str, NDArray[np.float32]]
    correct: NDArray[np.bool_]
    test_correct: NDArray[np.bool_]
    test_auroc: NDArray[np.float32]


@dataclass(frozen=True)
class Judged:
    """A search's choice by the seeds that it has not seen; accuracies and AUROCs on validation and test images.

    best_tried: the highest AUROC of any of its trials by these same seeds, which no rule that chooses can exceed.
    """

    accuracy: float
    auroc: float
    test_accuracy: float
    test_auroc: float
    epochs: int
    equal: int
    best_tried: float


@cache
def recorded(split: int, path: Path = TABLE) -> tuple[Recorded, Recorded]:
    """The configurations of a split, and its controls."""
    with np.load(path) as stored:
        about = json.loads(str(stored["about"]))
        count = len(about["controls"])
        figures = {VAL_ACCURACY: stored["accuracy"][split], LOSS: stored["loss"][split], AUROC: stored["auroc"][split]}
        correct = np.unpackbits(stored["correct"][split], axis=-1, count=about["val"]).astype(bool)
        test = np.unpackbits(stored["test_correct"][split], axis=-1, count=about["test"]).astype(bool)
        aurocs = stored["test_auroc"][split]
    both = (slice(count, None), slice(0, count))
    parts = [
        Recorded(
            about["values"][rows], {k: v[rows] for k, v in figures.items()}, correct[rows], test[rows], aurocs[rows]
        )
        for rows in both
    ]
    return parts[0], parts[1]


@cache
def base_params() -> Params:
    return load_params(ROOT / "params.yaml")


@cache
def base_space() -> SearchSpace:
    return replace(load_space(ROOT / SPACE, base_params(), shown_as=SPACE), controls={})


def search(split: int, settings: Mapping[str, Any], number: int) -> Judged:
    """Replay one search; its seeds, and the sampler's draws, follow from its number."""
    found, _ = recorded(split)
    seeds = found.correct.shape[1]
    order = np.random.default_rng([split, number]).permutation(seeds)
    # The table has no curves of controls: what they take of the budget is taken off.
    confirmed = base_params().search.confirm.seeds
    trainings = (base_params().search.budget.full_trainings or 0) - len(CONTROLS) * (1 + confirmed)
    budget = {"base.seed": number, "search.budget.full_trainings": trainings}
    params = base_params().with_values({**budget, **settings}, where="the benchmark")
    made: Table = make_table(base_space(), found.values, {k: v[:, order] for k, v in found.figures.items()})
    made = replace(made, correct=found.correct[:, order])
    simulation = simulate(params, made, workers=2)
    course = simulation.course
    choice = choose_best(course.requested_trials(), choice_rule(params), course.journal.scores)
    row = made.nearest(choice.best.trial.values)
    unseen = order[USED:]
    tried = [made.nearest(trial.values) for trial in course.requested_trials() if trial.study is not None]
    return Judged(
        float(found.figures[VAL_ACCURACY][row, unseen, -1].mean()),
        float(found.figures[AUROC][row, unseen, -1].mean()),
        float(found.test_correct[row, unseen].mean()),
        float(found.test_auroc[row, unseen].mean()),
        simulation.epochs,
        len(choice.equal),
        float(found.figures[AUROC][tried][:, unseen, -1].mean(axis=1).max()),
    )


def _search(job: tuple[int, str, int]) -> Judged:
    split, rule, number = job
    return search(split, RULES[rule], number)


def compare(searches: int) -> dict[str, Any]:
    """Every rule on every split, beside the rule before, search by search."""
    kept: dict[str, Any] = {}
    with ProcessPoolExecutor(usable_cpus(), mp_context=get_context("spawn")) as pool:
        for split, role in enumerate(("bands and defaults were set on this split", "held out")):
            rows, before = [], None
            for rule in RULES:
                found = list(pool.map(_search, [(split, rule, n) for n in range(searches)], chunksize=10))
                values = {name: np.array([getattr(each, name) for each in found]) for name in Judged.__annotations__}
                before = values if before is None else before
                lost, gained = values["accuracy"] - before["accuracy"], values["auroc"] - before["auroc"]
                on_test = values["test_accuracy"] - before["test_accuracy"]
                rows.append(
                    [
                        rule,
                        f"{100 * lost.mean():+.2f} ± {_error(lost):.2f}",
                        f"{100 * on_test.mean():+.2f} ± {_error(on_test):.2f}",
                        f"{values['auroc'].mean():.3f} ({gained.mean():+.3f})",
                        f"{values['test_auroc'].mean():.3f}",
                        f"{(values['test_auroc'] >= 0.8).mean():.0%}",
                        f"{values['best_tried'].mean():.3f}",
                        f"{values['equal'].mean():.1f}",
                        f"{values['epochs'].mean():.0f}",
                    ]
                )
                kept[f"{split}: {rule}"] = {name: float(value.mean()) for name, value in values.items()}
                print(rule, rows[-1][1:], file=sys.stderr, flush=True)
            print(f"\n## Split {split}: {role}\n")
            columns = ("rule", "accuracy, points", "on test images", "AUROC (gained)", "on test images")
            print(table((*columns, "test AUROC >= .80", "best of the tried", "equal", "epochs"), rows))
    return kept


def _error(values: NDArray[np.float64]) -> float:
    """Standard error of a mean, in points."""
    return 100 * float(values.std(ddof=1)) / math.sqrt(len(values))


def describe(split: int) -> None:
    """How well accuracy and attention tell the recorded configurations apart."""
    found, controls = recorded(split)
    rows = []
    for name, metric in (("accuracy", VAL_ACCURACY), ("AUROC", AUROC), ("loss", LOSS)):
        last = found.figures[metric][:, :, -1].astype(np.float64)
        rest = last - last.mean(axis=1, keepdims=True) - last.mean(axis=0) + last.mean()
        seeds = last.shape[1]
        both = (rest**2).sum() / ((len(last) - 1) * (seeds - 1))
        own = max(0.0, last.mean(axis=1).var(ddof=1) - both / seeds)
        ranks = [_rank_correlation(last[:, a], last[:, b]) for a in range(seeds) for b in range(a + 1, seeds)]
        early = [_rank_correlation(found.figures[metric][:, s, 2], last[:, s]) for s in range(seeds)]
        control = controls.figures[metric][0, :, -1].mean()
        rows.append(
            [
                name,
                *(f"{own**0.5:.4f}", f"{both**0.5:.4f}", f"{np.mean(ranks):.2f}", f"{np.mean(early):.2f}"),
                *(f"{last.mean():.3f}", f"{control:.3f}"),
            ]
        )
    columns = ("", "between configurations", "configuration x seed", "rank correlation of two seeds")
    print(f"\n## Split {split}: {len(found.values)} configurations, {found.correct.shape[1]} seeds\n")
    print(table((*columns, "of epoch 3 with the end", "mean", "baseline"), rows))
    good = (found.figures[AUROC][:, :, -1].mean(axis=1) >= 0.8).mean()
    print(f"\nAUROC of .80 or more, as the mean over seeds: {good:.0%} of the configurations.")


def _rank_correlation(first: NDArray[Any], second: NDArray[Any]) -> float:
    from scipy import stats  # type: ignore[import-untyped, unused-ignore]

    return float(stats.spearmanr(first, second).statistic)  # type: ignore[no-any-return, unused-ignore]


def opposed(repetitions: int) -> None:
    """What is lost where the metric that decides ranks the candidates against their accuracy, at worst."""
    rng = np.random.default_rng(0)
    bands, gaps = (0.5, 1.0, 2.0, 3.0), np.linspace(0.0, 0.02, 11)
    lost = np.zeros((len(bands), len(gaps), repetitions))
    for place, gap in enumerate(gaps):
        true = np.array([0.0, -gap / 2, -gap])
        for count in range(repetitions):
            hard = rng.normal(5.5, 2.5, (1, 1, 287))
            of_runs = rng.normal(0, 0.5, (1, 3, 1)) + rng.normal(0, 0.25, (3, 3, 1))
            shares = 1 / (1 + np.exp(-(hard + of_runs + rng.normal(0, 0.8, (3, 3, 287)))))
            correct = rng.random((3, 3, 287)) < np.clip(shares + true[:, None, None], 0, 1)
            means, error = correct.mean(axis=(1, 2)), pooled_error(correct)
            for band, within in enumerate(bands):
                equal = np.flatnonzero(means >= means.max() - min(within * error, 0.01) - 1e-12)
                lost[band, place, count] = true[means.argmax()] - true[equal.max()]  # the last is best by the other
    rows = []
    for within, each in zip(bands, lost.mean(axis=2), strict=True):
        rows.append([f"{within:g}", f"{100 * each.max():.2f}", f"{100 * gaps[each.argmax()]:.1f}"])
    print(table(("within, standard errors", "lost at worst, points", "where candidates are apart by, points"), rows))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--searches", type=int, default=SEARCHES)
    parser.add_argument("--opposed", action="store_true")
    parser.add_argument("--describe", action="store_true")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    print(header("Choosing a configuration", ("numpy", "optuna")))
    if asked.opposed:
        return opposed(1000)
    for split in (0, 1):
        describe(split)
    if not asked.describe:
        keep("choosing", compare(asked.searches))


if __name__ == "__main__":
    main()

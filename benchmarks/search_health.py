"""How often a search is said to be ill that is not, and how often each fault is found where it is.

Run: python benchmarks/search_health.py --searches 600    # the tables of docs/benchmarks/search_health.md
     python benchmarks/search_health.py --only healthy --trials 12 --searches 50

Searches run through the pipeline's own controller, sampler and stopping rule (`simulate.py`), on made-up tables, a new
one for each. A network answers an image rightly if its skill exceeds the image's difficulty, which is normal. Skill is
the configuration's, and its seed's, of which configurations share a part; each configuration has images of its own that
it finds easier or harder. So accuracies, seeds and images are of one piece, as in training.

`healthy` has no fault: each of the three parameters has an optimum of its own inside of its range (at a quarter to
three quarters of it) and as much effect as the others, on accuracy and on attention; rungs differ from the end by .4
points; the control, at the space's corner, is worse than most; 5,000 validation images. `healthy, noisier` has less
than a third of the differences between configurations, and twice the noise at rungs. Each other scenario is `healthy`
with one fault.
"""

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import header, keep, table
from numpy.typing import NDArray
from scipy import stats
from simulate import Table, make_table, row_of, simulate

from pipeline.artifacts.search_result import ALARM, UNKNOWN, Finding
from pipeline.config import Params
from pipeline.tune.journal.image_scores import ImageScores, pack_scores
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, METHOD, VAL_ACCURACY
from pipeline.tune.objectives.objectives import AUROC, Objectives
from pipeline.tune.selection.candidates import ChoiceRule
from pipeline.tune.selection.choice import choose_best
from pipeline.tune.selection.confirm import FIRST_SEED
from pipeline.tune.selection.health import examine_search
from pipeline.tune.space import SearchSpace, load_space

ROOT = Path(__file__).parents[1]
EPOCHS, SEEDS = 8, 3
WEIGHT = "regularizer.spatial_entropy.weight"
THRESHOLD = "regularizer.spatial_entropy.threshold"
NAMES = (
    "edge_of_range",
    "no_effect",
    "tie",
    "control_ahead",
    "rungs",
    "validation_images",
    "still_improving",
    "one_trial",
)


@dataclass(frozen=True)
class World:
    """What a table is made from.

    optimum: of the weight, as a share of its range; None: drawn from a quarter to three quarters. effects: of weight,
    layers and threshold, relative to each other. scale: deviation of skill over the space. control: its skill beyond
    what its place in the space gives, times `scale`. rung_noise: of the accuracy before the end; infinite: nothing but
    noise. images: of validation.
    """

    optimum: float | None = None
    effects: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scale: float = 0.5
    control: float | None = None
    rung_noise: float = 0.004
    images: int = 5000


HEALTHY = "healthy"
SCENARIOS: Mapping[str, tuple[World, str | None]] = {
    HEALTHY: (World(), None),
    "healthy, noisier": (World(scale=0.15, rung_noise=0.008), None),
    "optimum beyond the range": (World(optimum=1.3), "edge_of_range"),
    "threshold without effect": (World(effects=(1.0, 1.0, 0.0)), "no_effect"),
    "all configurations alike": (World(scale=0.0), "tie"),
    "control best": (World(control=0.4), "control_ahead"),
    "rungs of noise": (World(rung_noise=np.inf), "rungs"),
    "100 validation images": (World(images=100, scale=0.15), "validation_images"),
}
"""Each world, and the fault that it has."""


@dataclass(frozen=True)
class Recorded:
    """A table, and which images its runs got right at the end: (rows, seeds, images). expected: accuracy by row."""

    table: Table
    correct: NDArray[np.bool_]
    expected: NDArray[np.float64]


def make_world(world: World, space: SearchSpace, rng: np.random.Generator, rows: int) -> Recorded:
    """A table of random configurations, the first of which lies in the corner where the control is."""
    corner = space.decode(space.value_at([0.0] * len(space.dimensions)))
    drawn = (space.decode(space.value_at(list(rng.random(len(space.dimensions))))) for _ in range(rows - 1))
    values = [corner, *drawn]
    shares = np.array([space.shares(each) for each in values])
    skill = 1.0 + world.scale * _quality(world, shares, rng)
    if world.control is not None:
        skill[0] = skill.max() + world.control
    own, shared = 0.03 * rng.standard_normal((rows, SEEDS)), 0.1 * rng.standard_normal(SEEDS)
    difficulty = rng.standard_normal(world.images)
    easier = 0.15 * rng.standard_normal((rows, 1, world.images), dtype=np.float32)
    luck = 0.15 * rng.standard_normal((rows, SEEDS, world.images), dtype=np.float32)
    correct = (skill[:, None] + own + shared)[:, :, None] + easier + luck > difficulty
    end = correct.mean(axis=2)
    noise = rng.standard_normal((rows, SEEDS, EPOCHS))
    noise[:, :, -1] = 0.0
    if np.isinf(world.rung_noise):
        curves = 0.6 + 0.05 * noise
        curves[:, :, -1] = end
    else:
        curves = end[:, :, None] - 0.3 * (1 / np.arange(1, EPOCHS + 1) - 1 / EPOCHS) + world.rung_noise * noise
    seconds = np.ones_like(curves)
    metrics = {VAL_ACCURACY: curves, "val/loss": 1 - curves, "seconds": seconds}
    auroc = 0.75 + 0.08 * _quality(replace(world, optimum=None), shares, rng)
    metrics[AUROC] = auroc[:, None, None] + 0.02 * rng.standard_normal(curves.shape)
    if np.isinf(world.rung_noise):
        metrics[AUROC][:, :, :-1] = 0.6 + 0.05 * rng.standard_normal((rows, SEEDS, EPOCHS - 1))
    expected = stats.norm.cdf(skill / np.sqrt(1 + 0.15**2 + 0.15**2 + 0.03**2 + 0.1**2))
    return Recorded(make_table(space, values, {k: v.astype(np.float32) for k, v in metrics.items()}), correct, expected)


def _quality(world: World, shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Of each configuration, of deviation 1 over the space: a parabola of each number, a step of each choice."""
    optima = rng.uniform(0.25, 0.75, 3)
    if world.optimum is not None:
        optima[0] = world.optimum
    steps = rng.permutation([-1.0, 0.0, 1.0])
    choices = np.minimum((3 * shares[:, 1]).astype(int), 2)
    parts = np.stack([-((shares[:, 0] - optima[0]) ** 2), steps[choices], -((shares[:, 2] - optima[2]) ** 2)])
    parts = (parts - parts.mean(axis=1, keepdims=True)) / parts.std(axis=1, keepdims=True)
    effects = np.array(world.effects)
    return np.asarray(effects @ parts / np.sqrt((effects**2).sum()))


def search(world: World, space: SearchSpace, trials: int, seed: int) -> tuple[list[Finding], bool]:
    """One search; what is said of it, and whether its confirmed configurations are in truth as good as equal: their
    expected accuracies deviate by less than a standard error of their means.
    """
    recorded = make_world(world, space, np.random.default_rng([seed, trials]), rows=max(60, 3 * trials))
    fixed: dict[str, Any] = {
        "base.seed": seed,
        "train.epochs": EPOCHS,
        "search.trials": trials,
        "search.budget.full_trainings": None,
        "search.confirm.top": 3,
        "search.confirm.seeds": SEEDS - 1,
    }
    params = Params().with_values(fixed, where="the benchmark")
    course = simulate(params, recorded.table, space=space).course
    records, correct = list(course.journal.trials.values()), ImageScores()
    confirmed = {record.of for record in records if record.role == CONFIRMATION}
    for record in records:
        if record.state == COMPLETE and (record.of or record.id) in confirmed:
            further = 0 if record.seed is None else record.seed - seed - FIRST_SEED
            flags = recorded.correct[row_of(recorded.table, params, record.values), further]
            for epoch in record.epochs:
                correct.add(record.id, epoch, pack_scores(flags))
    best = choose_best(records, ChoiceRule(top=3, seeds=SEEDS - 1, base_seed=seed)).best.trial
    found = examine_search(
        records,
        space,
        course.studies[METHOD].scheduler.rung_epochs,
        best=best,
        objectives=Objectives(then=AUROC),
        scores=correct,
    )
    rows = [row_of(recorded.table, params, r.values) for r in records if r.id in confirmed and r.study == METHOD]
    # Of a mean over seeds: the configuration's own seeds, and the images that it alone finds easier.
    noise = np.hypot(0.19 * 0.03 / np.sqrt(SEEDS), np.sqrt(0.19 * 0.15 * 0.56 / world.images))
    return found, bool(recorded.expected[rows].std(ddof=1) < noise) if len(rows) > 1 else True


def interval(count: int, of: int) -> str:
    """A share with its exact 95 % interval."""
    if not of:
        return "-"
    low, high = stats.binomtest(count, of).proportion_ci(method="exact")
    return f"{100 * count / of:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--searches", type=int, default=600, help="of each healthy scenario and size; of others a third"
    )
    parser.add_argument("--trials", type=int, nargs="+", default=[12, 24, 50])
    parser.add_argument("--only", help="scenarios whose name contains this")
    parser.add_argument("--first-seed", type=int, default=0)
    asked = parser.parse_args()
    params = Params()
    space = load_space(ROOT / "search_spaces" / "sar.yaml", params, shown_as="search_spaces/sar.yaml")
    space = replace(space, controls={"baseline": space.controls["baseline"]})
    print(header("The health of a search", ["optuna", "scipy"]))
    rows, stored = [], []
    for name, (world, fault) in SCENARIOS.items():
        if asked.only and asked.only not in name:
            continue
        for trials in asked.trials:
            began, count = (
                time.perf_counter(),
                max(1, asked.searches // (1 if name == HEALTHY else 2 if fault is None else 8)),
            )
            results = [search(world, space, trials, asked.first_seed + number) for number in range(count)]
            rows.append(_row(name, trials, fault, results))
            stored.append({"scenario": name, "trials": trials, "fault": fault, **_counts(results)})
            print(" | ".join(map(str, rows[-1])), f"  [{time.perf_counter() - began:.0f} s]", flush=True)
    print("\n" + table(["scenario", "trials", "searches", "any alarm", *NAMES], rows))
    if not asked.only:
        keep("search_health", stored)


Results = Sequence[tuple[Sequence[Finding], bool]]


def _counts(results: Results) -> dict[str, Any]:
    alarms = [{finding.name for finding in found if finding.kind == ALARM} for found, _ in results]
    unknown = Counter(finding.name for found, _ in results for finding in found if finding.kind == UNKNOWN)
    return {
        "searches": len(results),
        "any": sum(map(bool, alarms)),
        "alarms": {name: sum(name in each for each in alarms) for name in NAMES},
        "not_examined": {name: unknown[name] for name in NAMES},
        "equal_in_truth": sum(equal for _, equal in results),
        "any_but_equal_in_truth": sum(
            bool(each) for each, (_, equal) in zip(alarms, results, strict=True) if not equal
        ),
    }


def _row(name: str, trials: int, fault: str | None, results: Results) -> list[object]:
    counts = _counts(results)
    cells = []
    for each in NAMES:
        examined = len(results) - counts["not_examined"][each]
        text = "not examined" if not examined else f"{100 * counts['alarms'][each] / len(results):.1f} %"
        if each == fault and examined:
            text = f"**{interval(counts['alarms'][each], len(results))}**"
        cells.append(text)
    return [name, trials, len(results), interval(counts["any"], len(results)), *cells]


if __name__ == "__main__":
    main()

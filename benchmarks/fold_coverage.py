"""How often the interval of a procedure that was tested in folds covers the truth, with learners that really learn.

Run: python benchmarks/fold_coverage.py                     # the table of docs/benchmarks/folds.md
     python benchmarks/fold_coverage.py --repetitions 20    # to try

Each repetition draws N images of a population, deals them out to K folds, and for each fold does what the pipeline
does: divides the other images into train and val, searches a grid of nine configurations with one seed by the accuracy
on val, trains the best of them and a control anew on train and val with S seeds, and tests on the fold. A network is
ridge regression on random features (a hidden layer that the seed draws, a last one that is solved for), so that seeds
differ, small sets are learned badly, and the nine configurations' order hangs on the draw.

The truth is what the interval speaks of: the difference of accuracies of these K searches' configurations, on these
training images, over other seeds and other images. It is measured for each fold on 24,000 images that were never drawn,
by 40 seeds that were not used, 600 of the images each. Where folds are unequally hard, each fold's images are of a
population of their own, with more or less noise.

Beside it stands one split with as many networks: a fifth of the images tested by K S seeds of either arm.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from harness import header, table
from numpy.typing import NDArray

from pipeline.data.splits.folds import fold_numbers, make_folds
from pipeline.data.splits.split import Split, make_split
from pipeline.score.comparison import Comparison, compare_arms

CONFIDENCE, LOWEST = 0.95, 0.93
CLASSES, SIZE, FEATURES, CENTRES = 3, 8, 24, 4
TRUTH_SEEDS, TRUTH_IMAGES = 40, 600
"""Seeds by which the truth is measured, and images of each."""
GRID = tuple((scale, penalty) for scale in (0.2, 0.5, 1.0) for penalty in (1e-4, 1e-2, 1e-1))
TARGETS = np.eye(CLASSES, dtype=np.float32) - np.float32(1 / CLASSES)
CONTROL = (0.35, 1.0)
"""Scale of the hidden layer, and ridge penalty: of no configuration of the grid."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Config = tuple[float, float]


@dataclass(frozen=True)
class Scenario:
    """folds: K. images: N. seeds: S. hardest: how many times the noise of the easiest fold the hardest has."""

    folds: int
    images: int
    seeds: int = 3
    hardest: float = 1.0

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return "folds alike" if self.hardest == 1 else f"noise of the folds 1 to {self.hardest:g}"


def scenarios() -> list[Scenario]:
    """Those of the table."""
    alike = [Scenario(folds, images) for folds in (3, 5, 10) for images in (150, 360, 1000)]
    apart = [Scenario(folds, images, hardest=2.5) for folds, images in ((5, 150), (5, 360), (5, 1000), (10, 360))]
    return [*alike, *apart, Scenario(5, 360, seeds=2), Scenario(5, 360, seeds=5)]


class Population:
    """Images of classes that are several Gaussian clusters each."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.centres = 1.3 * rng.standard_normal((CLASSES, CENTRES, SIZE), dtype=np.float32)

    def draw(self, rng: np.random.Generator, labels: Ints, noise: Floats) -> Floats:
        """Images (..., SIZE) of labels (...). noise: of all (1,), or of each (..., 1)."""
        centres = self.centres[labels, rng.integers(CENTRES, size=labels.shape)]
        return np.asarray(centres + noise * rng.standard_normal((*labels.shape, SIZE), dtype=np.float32))


def hidden_layers(seeds: Sequence[int]) -> tuple[Floats, Floats]:
    """What each seed draws: weights (S, SIZE, FEATURES) and offsets (S, 1, FEATURES)."""
    drawn = [np.random.default_rng([9, seed]).standard_normal((SIZE + 1, FEATURES), np.float32) for seed in seeds]
    stacked = np.stack(drawn)
    return stacked[:, :SIZE], stacked[:, SIZE:]


def train(images: Floats, labels: Ints, config: Config, seeds: Sequence[int]) -> Floats:
    """The last layers (S, FEATURES, CLASSES) of a network of each seed on images (n, SIZE)."""
    scale, penalty = config
    weights, offsets = hidden_layers(seeds)
    hidden = np.maximum(np.float32(scale) * (images @ weights) + offsets, 0)
    squares = np.swapaxes(hidden, 1, 2) @ hidden + np.float32(penalty * len(images)) * np.eye(
        FEATURES, dtype=np.float32
    )
    return np.asarray(np.linalg.solve(squares, np.swapaxes(hidden, 1, 2) @ TARGETS[labels]))


def correct(last: Floats, images: Floats, labels: Ints, config: Config, seeds: Sequence[int]) -> NDArray[np.bool_]:
    """What each network got right, (S, n), of images (n, SIZE), or of each seed's own (S, n, SIZE)."""
    weights, offsets = hidden_layers(seeds)
    hidden = np.maximum(np.float32(config[0]) * (images @ weights) + offsets, 0)
    return np.asarray((hidden @ last).argmax(axis=2) == labels)


def search(images: Floats, labels: Ints, split: Split, seed: int) -> Config:
    """The configuration of the grid that is best on val."""

    def accuracy(config: Config) -> float:
        last = train(images[split.train], labels[split.train], config, [seed])
        return float(correct(last, images[split.val], labels[split.val], config, [seed]).mean())

    return max(GRID, key=accuracy)


@dataclass(frozen=True)
class Tested:
    """Both arms on the test images of a split, (S, n) each; the difference that is true of them, if it was measured."""

    best: NDArray[np.bool_]
    control: NDArray[np.bool_]
    truth: float


def run_split(
    images: Floats, labels: Ints, split: Split, seeds: Sequence[int], fresh: tuple[Floats, Ints] | None
) -> Tested:
    """Search, retrain and test on a split. fresh: images (T, m, SIZE) and labels (T, m) for the truth; None without."""
    found, used = search(images, labels, split, seeds[0] + 500), np.concatenate([split.train, split.val])
    tables, truths = [], [0.0, 0.0]
    for arm, config in enumerate((found, CONTROL)):
        last = train(images[used], labels[used], config, seeds)
        tables.append(correct(last, images[split.test], labels[split.test], config, seeds))
        if fresh is not None:
            others = [seeds[0] + 1000 + number for number in range(TRUTH_SEEDS)]
            last = train(images[used], labels[used], config, others)
            truths[arm] = float(correct(last, *fresh, config, others).mean())
    return Tested(tables[0], tables[1], truths[0] - truths[1])


@dataclass(frozen=True)
class Repetition:
    """folded, plain: the comparison in folds, and on one split with as many networks. truth: of the folds."""

    folded: Comparison
    plain: Comparison
    truth: float


def repeat(scenario: Scenario, rng: np.random.Generator) -> Repetition:
    """One repetition."""
    population, count, number = Population(rng), scenario.images, int(rng.integers(10**6)) * 10_000
    labels = rng.integers(CLASSES, size=count)
    each = range(number, number + scenario.folds)
    split = make_folds(labels, seed=number, fold_seeds=each, holdout=0.0, val_fraction=0.2)
    folds = fold_numbers(split)
    noise = np.linspace(1.0, scenario.hardest, scenario.folds, dtype=np.float32)
    images = population.draw(rng, labels, noise[folds][:, None])
    best, control = (np.zeros((scenario.seeds, count), np.bool_) for _ in range(2))
    truth = 0.0
    for fold, inner in enumerate(split.folds):
        fresh = rng.integers(CLASSES, size=(TRUTH_SEEDS, TRUTH_IMAGES))
        seeds = [number + 100 * fold + seed for seed in range(scenario.seeds)]
        tested = run_split(images, labels, inner, seeds, (population.draw(rng, fresh, noise[[fold]]), fresh))
        best[:, inner.test], control[:, inner.test] = tested.best, tested.control
        truth += tested.truth * len(inner.test) / count
    single = make_split(labels, val_fraction=0.2, test_fraction=0.2, seed=number)
    seeds = [number + seed for seed in range(scenario.folds * scenario.seeds)]
    alone = run_split(images, labels, single, seeds, None)
    return Repetition(
        compare_arms(best, control, confidence=CONFIDENCE, folds=folds),
        compare_arms(alone.best, alone.control, confidence=CONFIDENCE),
        truth,
    )


@dataclass(frozen=True)
class Coverage:
    """covered: the share of intervals that hold the truth. half, plain_half: mean half-widths in points, in folds and
    on one split with as many networks. difference: the mean truth, in points; spread: its deviation over repetitions.
    """

    covered: float
    half: float
    plain_half: float
    difference: float
    spread: float


def measure(scenario: Scenario, repetitions: int, rng: np.random.Generator) -> Coverage:
    """An interval that cannot be had covers nothing."""
    found = [repeat(scenario, rng) for _ in range(repetitions)]
    hits = [_holds(each.folded, each.truth) for each in found]
    truths = [each.truth for each in found]
    return Coverage(
        float(np.mean(hits)),
        _half_width([each.folded for each in found]),
        _half_width([each.plain for each in found]),
        100 * float(np.mean(truths)),
        100 * float(np.std(truths)),
    )


def _holds(found: Comparison, truth: float) -> bool:
    return found.low is not None and found.high is not None and found.low <= truth <= found.high


def _half_width(found: Sequence[Comparison]) -> float:
    widths = [each.high - each.low for each in found if each.low is not None and each.high is not None]
    return 50 * float(np.mean(widths))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and what falls below 93 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200, help="of every scenario")
    asked = parser.parse_args(arguments)
    print(header("How often intervals of folds cover", ["numpy", "scipy"]))
    rng, rows, low = np.random.default_rng(0), [], []
    for scenario in scenarios():
        found = measure(scenario, asked.repetitions, rng)
        rows.append(
            [
                scenario.name,
                scenario.images,
                scenario.folds,
                scenario.seeds,
                f"{100 * found.covered:.1f}",
                f"{found.difference:+.1f} ({found.spread:.1f})",
                f"{found.half:.2f}",
                f"{found.plain_half:.2f}",
            ]
        )
        if found.covered < LOWEST:
            low.append(f"{scenario.name}, N = {scenario.images}, K = {scenario.folds}, S = {scenario.seeds}")
        print(f"  {' '.join(map(str, rows[-1]))}", flush=True)
    columns = ["scenario", "N", "K", "S", "covered, %", "truth, points (deviation)", "half-width", "of one split"]
    print("\nCoverage of the 95 % interval, and half-widths in points\n", table(columns, rows), sep="\n")
    print(f"\nbelow {100 * LOWEST:.0f} %: {'; '.join(low) or 'none'}")


if __name__ == "__main__":
    main()

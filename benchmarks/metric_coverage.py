"""How often the interval of two arms covers the truth by each metric, with learners that are really trained.

Run: python benchmarks/metric_coverage.py                     # the table of docs/benchmarks/metrics.md
     python benchmarks/metric_coverage.py --repetitions 40    # to try

Images are points in eight dimensions, a mixture of normal densities, one or two a class, of which one class is rare. A
network is a layer of random features, drawn by its seed, and logistic regression on them, trained with Newton's method
on 600 points that are the same for all. The arms differ in how many features they have and in how strongly weights are
held small; seed s of both draws its features from one stream.

Of every set of training points the networks of many seeds are trained once, and all of them answer one large set of
points. The truth is the mean, over all these seeds, of the difference of the metric on that whole set. A repetition
draws S seeds and N points of it, and makes the interval as `evaluate` does. Draws in which a class has under five
points are drawn anew, as `evaluate` refuses them where a metric weighs classes alike, and so are those in which both
arms answer alike, of which no interval is given. A user's own function, the
recall of the rare class, has its interval by groups.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from harness import header, table
from numpy.typing import NDArray
from scipy.special import softmax

from pipeline.score.comparison import compare_scores
from pipeline.score.metrics.jackknife import grouped_pseudo_values
from pipeline.score.metrics.metric import FEWEST_OF_A_CLASS, METRICS, Metric

SEEDS = (3, 5)
IMAGES = (150, 400, 1000)
TRAINING_SETS = 3
POOL_SEEDS, POOL_IMAGES, TRAINING_IMAGES = 60, 20_000, 600
LOWEST, HIGHEST = 0.93, 0.98
CONFIDENCE = 0.95

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Scenario:
    """shares: of the classes. distance: between the centres of classes, in deviations of a point. features: of the
    best arm and of the control.
    """

    name: str
    shares: tuple[float, ...]
    distance: float
    features: tuple[int, int] = (24, 16)


SCENARIOS = (
    Scenario("2 classes, one 5 %", (0.95, 0.05), 3.0),
    Scenario("4 classes, one 5 %", (0.35, 0.3, 0.3, 0.05), 2.4),
    Scenario("4 classes, one 5 %, easy", (0.35, 0.3, 0.3, 0.05), 4.5),
    Scenario("10 classes, one 5 %", (0.11, 0.11, 0.11, 0.11, 0.11, 0.1, 0.1, 0.1, 0.1, 0.05), 3.2),
)


class Points:
    """A mixture of two normal densities a class."""

    def __init__(self, scenario: Scenario, rng: np.random.Generator) -> None:
        self.scenario = scenario
        self.centres = rng.normal(size=(len(scenario.shares), 2, 8)) * scenario.distance / 2.8

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Floats, Labels]:
        labels = rng.choice(len(self.scenario.shares), size=count, p=self.scenario.shares)
        part = rng.integers(2, size=count)
        return self.centres[labels, part] + rng.normal(size=(count, 8)), labels


def train(
    points: Floats, labels: Labels, classes: int, features: int, decay: float, seed: int
) -> tuple[Floats, Floats]:
    """Random features, and the weights of logistic regression on them, (D + 1, F) and (F + 1, C)."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(9, 64))[:, :features] * 0.5
    inputs = _features(points, hidden)
    target = np.eye(classes)[labels]
    weights = np.zeros((inputs.shape[1], classes))
    # Boehning's bound on the Hessian is the same in every step, so one factorisation serves all.
    bound = np.linalg.inv(0.5 * inputs.T @ inputs / len(points) + decay * np.eye(inputs.shape[1]))
    for _ in range(60):
        slope = inputs.T @ (softmax(inputs @ weights, axis=1) - target) / len(points) + decay * weights
        weights -= bound @ slope
    return hidden, weights


def answer(points: Floats, network: tuple[Floats, Floats]) -> NDArray[np.float32]:
    hidden, weights = network
    return np.asarray(softmax(_features(points, hidden) @ weights, axis=1), dtype=np.float32)


def _features(points: Floats, hidden: Floats) -> Floats:
    lifted = np.tanh(np.hstack([points, np.ones((len(points), 1))]) @ hidden)
    return np.hstack([lifted, np.ones((len(points), 1))])


def recall_of_rare(probabilities: Floats, labels: Labels) -> float:
    """A user's function: how much of the last class is found."""
    return float(
        (probabilities.argmax(axis=1)[labels == probabilities.shape[1] - 1] == probabilities.shape[1] - 1).mean()
    )


OWN = Metric(
    "my:recall",
    "metric",
    "recall of the rare class",
    margin=0.02,
    value=recall_of_rare,
    pseudo_values=lambda shares, truth: grouped_pseudo_values(recall_of_rare, shares, truth),
)


@dataclass(frozen=True)
class Pool:
    """best, control: probabilities (M, P, C) of all seeds on all points. truth: by metric."""

    best: NDArray[np.float32]
    control: NDArray[np.float32]
    labels: Labels
    truth: dict[str, float]


def make_pool(scenario: Scenario, seed: int, metrics: Sequence[Metric]) -> Pool:
    rng = np.random.default_rng([seed, 77])
    points = Points(scenario, rng)
    known, known_labels = points.draw(TRAINING_IMAGES, rng)
    asked, labels = points.draw(POOL_IMAGES, rng)
    arms = []
    for features, decay in zip(scenario.features, (1e-3, 3e-3), strict=True):
        networks = [
            train(known, known_labels, len(scenario.shares), features, decay, 1000 * seed + each)
            for each in range(POOL_SEEDS)
        ]
        arms.append(np.stack([answer(asked, network) for network in networks]))
    truth = {
        metric.name: float(np.mean([metric.value_of(run, labels) for run in arms[0]]))
        - float(np.mean([metric.value_of(run, labels) for run in arms[1]]))
        for metric in metrics
    }
    return Pool(arms[0], arms[1], labels, truth)


def measure(
    pool: Pool, metric: Metric, seeds: int, images: int, repetitions: int, rng: np.random.Generator
) -> list[bool]:
    """Whether each repetition's interval holds the truth."""
    found: list[bool] = []
    classes = pool.best.shape[2]
    while len(found) < repetitions:
        rows = rng.choice(POOL_SEEDS, size=seeds, replace=False)
        columns = rng.choice(POOL_IMAGES, size=images, replace=False)
        labels = pool.labels[columns]
        if np.bincount(labels, minlength=classes).min() < FEWEST_OF_A_CLASS:
            continue
        tables = metric.tables({"best": pool.best[rows][:, columns], "control": pool.control[rows][:, columns]}, labels)
        assert tables is not None
        compared = compare_scores(tables["best"], tables["control"], confidence=CONFIDENCE)
        if compared.low is None or compared.high is None:
            continue  # the arms answer alike, so nothing is claimed
        found.append(compared.low <= pool.truth[metric.name] <= compared.high)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and what covers too little or too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=120, help="of each training set")
    parser.add_argument("--own", type=int, default=40, help="of those, of the user's own function")
    asked = parser.parse_args(arguments)
    print(header("How often intervals of metrics cover", ["numpy", "scipy"]))
    metrics = [*METRICS.values(), OWN]
    rows, apart, every = [], [], []
    for scenario in SCENARIOS:
        pools = [make_pool(scenario, seed, metrics) for seed in range(TRAINING_SETS)]
        truths = ", ".join(
            f"{metric.label} {np.mean([metric.value_of(pools[0].control[0], pools[0].labels)]):.3f}"
            for metric in metrics
        )
        print(f"  {scenario.name}: one network of the control: {truths}", flush=True)
        for images in IMAGES:
            for seeds in SEEDS:
                shares = []
                for place, metric in enumerate(metrics):
                    count = asked.own if metric is OWN else asked.repetitions
                    hits: list[bool] = []
                    for number, pool in enumerate(pools):
                        rng = np.random.default_rng([number, images, seeds, place])
                        hits += measure(pool, metric, seeds, images, count, rng)
                    share = float(np.mean(hits))
                    shares.append(f"{100 * share:.1f}")
                    every.append(share)
                    if not LOWEST <= share <= HIGHEST:
                        apart.append((share, f"{metric.label}, {scenario.name}, {images} images, {seeds} seeds"))
                rows.append([scenario.name, images, seeds, *shares])
                print(f"  {images} images, {seeds} seeds: {' '.join(shares)}", flush=True)
    columns = ["scenario", "images", "seeds", *(metric.label for metric in metrics)]
    print("\nCoverage of the 95 % interval, in %\n", table(columns, rows), sep="\n")
    print(
        f"\nmean {100 * float(np.mean(every)):.1f} %, lowest {100 * min(every):.1f} %, highest {100 * max(every):.1f} %"
    )
    low = [f"{name}: {100 * share:.1f} %" for share, name in sorted(apart) if share < LOWEST]
    high = [f"{name}: {100 * share:.1f} %" for share, name in sorted(apart) if share > HIGHEST]
    print(f"below {100 * LOWEST:.0f} %: {'; '.join(low) or 'none'}")
    print(f"above {100 * HIGHEST:.0f} %: {'; '.join(high) or 'none'}")


if __name__ == "__main__":
    main()

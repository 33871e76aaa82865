"""Do the plans of `retrain.seeds: auto` have the power that they promise, and are the forecast's ranges right?

Run: python benchmarks/power.py                      # 2,000 experiments a scenario, some minutes
     python benchmarks/power.py --repetitions 100    # to try it

Each experiment draws the confirmed runs of a search from a model, has `auto` choose the number of seeds from them,
draws retraining and test from the same model, in which both arms are equally good, and looks whether the interval shows
that no more than the margin is lost. The model: a share of the images is hard; on these, a network is right where

    ability of its configuration + easiness of the image + effect of the seed + configuration x seed
        + configuration x image + noise  >  0

with every effect normal, and on the others always. Configuration x seed has the deviation of accuracies that the
scenario names; a seed's own effect, which all configurations share, has two points.
"""

import argparse
import math
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import product

import numpy as np
from harness import header, keep, table
from numpy.typing import NDArray
from scipy import special

from pipeline.score.forecast import (
    FLAT,
    LIMITED,
    REACHED,
    Components,
    Forecast,
    choose_seeds,
    estimate_components,
)

ACCURACY_ON_HARD = 0.75
EASINESS, CONFIG_IMAGE, SEED = 1.0, 0.5, 0.02
"""Deviations: of hard images' easiness and of configuration x image, in units of the noise; of a seed's accuracy."""
CONFIGURATION = 0.003
"""Deviation of the configurations' true accuracies in a search; the arms that are compared have none."""
VAL_IMAGES, CONFIGURATIONS, MAX_SEEDS = 287, 5, 20
CONFIDENCE, FEW_DISCORDANT = 0.95, 10
SHOWN = 5
"""Seeds whose forecast range is held against the power that they truly have."""


@dataclass(frozen=True)
class Scenario:
    """deviation: of configuration x seed, a share of 1. search_seeds: further seeds of all confirmed configurations.

    hard: share of the images that are. Of a tenth, two networks of a seed differ on 3 % of all images.
    """

    deviation: float
    search_seeds: int
    test_images: int
    margin: float = 0.01
    hard: float = 0.1

    def cells(self) -> list[str]:
        """As a row of the table has it, in points."""
        searched = f"{CONFIGURATIONS} x {self.search_seeds}"
        points = [f"{100 * share:g}" for share in (self.hard, self.deviation, self.margin)]
        return [points[0], points[1], searched, f"{self.test_images:,}", points[2]]


SCENARIOS = [
    *(Scenario(*each) for each in product((0.003, 0.006, 0.01), (2, 3), (359, 2000, 10_000))),
    *(Scenario(*each, margin=0.02) for each in product((0.003, 0.006, 0.01), (2, 3), (359,))),
    *(Scenario(*each, hard=0.04) for each in product((0.001, 0.003), (2, 3), (359,))),
]


def draw(
    rng: np.random.Generator, scenario: Scenario, configurations: int, seeds: int, images: int, *, spread: float = 0.0
) -> NDArray[np.bool_]:
    """What networks got right, (configurations, seeds, hard images); on all other images all are right.

    spread: deviation of the configurations' own accuracies.
    """
    hard, deviation = max(2, rng.binomial(images, scenario.hard)), scenario.deviation
    scale = math.sqrt(1 + EASINESS**2 + CONFIG_IMAGE**2)
    middle = scale * special.ndtri(ACCURACY_ON_HARD)
    # Accuracy changes with what is added on hard images by this slope.
    slope = scenario.hard * math.exp(-((middle / scale) ** 2) / 2) / math.sqrt(2 * math.pi) / scale

    def normal(deviation: float, *shape: int) -> NDArray[np.float32]:
        return np.float32(deviation) * rng.standard_normal(shape, dtype=np.float32)

    total = middle + normal(EASINESS, 1, 1, hard) + normal(CONFIG_IMAGE, configurations, 1, hard)
    total = total + normal(SEED / slope, 1, seeds, 1) + normal(deviation / slope, configurations, seeds, 1)
    total = total + normal(spread / slope, configurations, 1, 1) + normal(1.0, configurations, seeds, hard)
    return np.asarray(total > 0)


def with_easy(right: NDArray[np.bool_], images: int) -> NDArray[np.bool_]:
    """The same with all other images."""
    easy = np.ones((*right.shape[:2], max(0, images - right.shape[2])), dtype=bool)
    return np.concatenate([right, easy], axis=2)


def lower_end(difference: NDArray[np.float64], images: int) -> float:
    """The lower end of the paired interval, from the differences (seeds, hard images); elsewhere there is none."""
    seeds = len(difference)
    by_seed, by_image = difference.sum(axis=1) / images, difference.mean(axis=0)
    mean = by_seed.mean()
    of_seeds = by_seed.var(ddof=1) / seeds
    plain = np.square(by_image).sum()
    squares = plain - images * mean**2
    alone = squares / (images - 1) / images
    if np.count_nonzero(by_image) < FEW_DISCORDANT:
        alone = max(alone, (plain + 1 - (images * mean) ** 2 / (images + 2)) / (images + 2) ** 2)
    # The residual's sum of squares: all of them, less those of rows and columns.
    left = np.square(difference).sum() - seeds * images * mean**2 - images * (seeds - 1) * of_seeds * seeds
    left -= seeds * squares
    both = left / ((seeds - 1) * (images - 1)) / (seeds * images)
    of_images = max(0.0, alone - both)
    total, half = of_seeds + of_images, 0.0
    if total > 0:
        freedom = total**2 / (of_seeds**2 / (seeds - 1) + of_images**2 / (images - 1))
        half = float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(total)
    return float(mean) - max(half, float(special.stdtrit(images - 1, (1 + CONFIDENCE) / 2)) * math.sqrt(alone))


def components_of(right: NDArray[np.bool_], images: int) -> Components:
    """What a search with these runs says of itself."""
    return estimate_components({str(number): table for number, table in enumerate(with_easy(right, images))})


def true_components(scenario: Scenario) -> Components:
    """Those of the model, from a very large table."""
    return components_of(draw(np.random.default_rng(1), scenario, 60, 60, 5000), 5000)


@dataclass
class Outcome:
    """Of a scenario's experiments: whether each showed no loss, why its plan takes no more seeds, how many it takes,
    and whether the forecast's range holds the true power at `SHOWN` seeds. assumed: searches that had measured nothing.

    reachable: whether the margin is, for one who knows the model; most_power: of this one's plan.
    """

    shown: list[bool]
    reasons: list[str]
    seeds: list[int]
    within: list[bool]
    assumed: int
    reachable: bool
    most_power: float


def simulate(scenario: Scenario, repetitions: int, seed: int = 0) -> Outcome:
    """Draw so many searches and experiments."""
    rng = np.random.default_rng([seed, *" ".join(scenario.cells()).encode()])
    truth = Forecast(true_components(scenario), scenario.test_images, CONFIDENCE)
    known = choose_seeds(truth, scenario.margin, max_seeds=MAX_SEEDS)
    right = truth.power(SHOWN, scenario.margin).value
    found = Outcome([], [], [], [], 0, known.reason == REACHED, truth.power(known.seeds, scenario.margin).value)
    for _ in range(repetitions):
        searched = draw(rng, scenario, CONFIGURATIONS, scenario.search_seeds, VAL_IMAGES, spread=CONFIGURATION)
        components = components_of(searched, VAL_IMAGES)
        forecast = Forecast(components, scenario.test_images, CONFIDENCE)
        plan = choose_seeds(forecast, scenario.margin, max_seeds=MAX_SEEDS)
        arms = draw(rng, scenario, 2, plan.seeds, scenario.test_images).astype(np.float64)
        low = lower_end(arms[0] - arms[1], scenario.test_images)
        found.shown.append(low > -scenario.margin)
        found.reasons.append(plan.reason)
        found.seeds.append(plan.seeds)
        found.assumed += components.assumed is not None
        if components.assumed is None:
            said = forecast.power(SHOWN, scenario.margin)
            assert said.low is not None
            assert said.high is not None
            found.within.append(said.low - 1e-9 <= right <= said.high + 1e-9)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(header("Power of what `retrain.seeds: auto` plans", ["numpy", "scipy"]))
    rows: list[list[object]] = []
    for scenario in SCENARIOS:
        found = simulate(scenario, args.repetitions, args.seed)
        reasons = Counter(found.reasons)
        low, middle, high = (int(each) for each in np.quantile(found.seeds, (0.1, 0.5, 0.9), method="nearest"))
        rows.append(
            [
                *scenario.cells(),
                "yes" if found.reachable else f"no, {100 * found.most_power:.0f} %",
                f"{100 * np.mean(found.shown):.1f} %",
                f"{middle} ({low}-{high})",
                *(f"{100 * reasons[reason] / args.repetitions:.0f} %" for reason in (REACHED, FLAT, LIMITED)),
                f"{100 * np.mean(found.within):.0f} %",
                f"{100 * found.assumed / args.repetitions:.0f} %",
            ]
        )
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    columns = [
        "hard images, %",
        "configuration x seed",
        "searched",
        "test images",
        "margin",
        "in reach",
        "power",
        "seeds, 80 % of plans",
    ]
    columns += ["reached", "a seed gained too little", "max_seeds", f"range at {SHOWN} seeds is right", "assumed"]
    print(table(columns, rows))
    reached = [float(str(row[6]).split()[0]) for row in rows if row[5] == "yes"]
    print(f"\nMean power where the margin is in reach: {np.mean(reached):.1f} % ({min(reached)} to {max(reached)})")
    keep("power", {"columns": columns, "rows": rows})


if __name__ == "__main__":
    main()

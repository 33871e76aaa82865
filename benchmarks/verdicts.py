"""How often the interval of two arms covers the truth, and how often a verdict says what is false, by simulation.

Run: python benchmarks/verdicts.py                     # both tables of docs/benchmarks/verdicts.md
     python benchmarks/verdicts.py --repetitions 200   # to try

A network of arm a and seed s is right on image i where

    m = mu_a + u_s + v_as + b_i + c_ai + e_asi  >  0

with normal effects: u of the seed, which both arms share (first weights, batches), v of the seed in one arm, b of the
image (how hard it is), c of the image in one arm, and e of variance 1 for the rest. So m is normal, and the true
accuracy of an arm is exactly Phi(mu_a / sd(m)). A network's log loss is log(1 + exp(-k m)), whose true mean is an
integral over one normal variable. The AUROC of attention is a normal score of its own, whose mean is what it is set to,
with the same kinds of effects, and partly the same v. Nothing that is held for true is estimated.

Coverage: the share of repetitions whose 95 % interval holds the true difference of accuracies, and the interval's mean
width beside that of the formula for independent arms, on the same tables. Claims: the share of verdicts in which any
endpoint is said to be shown that is false, or a loss of accuracy that is none, for every combination of true and false
hypotheses at their least favourable values: the loss is exactly the margin, the difference is exactly 0.
"""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from harness import header, table
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from pipeline.score.comparison import compare_arms, compare_scores
from pipeline.score.endpoints import ATTENTION, HIGHER, LOG_LOSS, LOWER, NOT_WORSE, Endpoint, decide_endpoints

SEEDS = (3, 5, 8, 10, 20)
CLAIM_CELLS = ((3, 359), (5, 359), (10, 359), (5, 2000))
"""Seeds and images."""
CONFIDENCE, MARGIN = 0.95, 0.01
LOWEST, BAND = 0.93, (0.94, 0.98)

SLOPE = 2.0
"""k of the log loss."""

Table = NDArray[np.float32]


@dataclass(frozen=True)
class Scenario:
    """One situation.

    accuracy: the control's, true; gain: the best's over it. shared, own: deviations over seeds, as shares, that both
    arms share, and that each has besides. hardness, by_arm: variances of b and c, of the image. formula: "paired" or
    "independent", which is by what the interval is made, and whether the seeds are the same ones.
    """

    name: str
    images: int
    accuracy: float = 0.9
    gain: float = 0.0
    shared: float = 0.02
    own: float = 0.005
    hardness: float = 1.0
    by_arm: float = 0.25
    formula: str = "paired"


def coverage_scenarios() -> list[Scenario]:
    """The named scenarios, each to be run with every number of `SEEDS`."""
    kinds = [
        Scenario("seeds shared, arm x seed .2 points", 0, own=0.002),
        Scenario("seeds shared, arm x seed 1 point", 0, own=0.01, gain=0.01),
        Scenario("images equally hard", 0, hardness=0.0, by_arm=0.0),
        Scenario("images very unequally hard", 0, hardness=9.0, by_arm=4.0, gain=0.01),
        Scenario("accuracy .5, images unequally hard", 0, accuracy=0.5, hardness=4.0, by_arm=1.0),
        Scenario("independent seeds, the old formula", 0, shared=0.0, own=0.02, formula="independent"),
    ]
    made = [replace(kind, images=images) for kind in kinds for images in (100, 359, 2000)]
    made.append(Scenario("accuracies .975", 359, 0.975, shared=0.005, own=0.003))
    few = Scenario("few discordant: .99 and .99", 0, 0.99, shared=0.002, own=0.001)
    rarer = replace(few, name="few discordant: .995 and .995", accuracy=0.995)
    rarest = replace(rarer, name="nearly none wrong: .999 and .995", gain=0.004, shared=0.0003, own=0.0001)
    gained = replace(few, name="few discordant: .994 and .99", gain=0.004)
    uneven = replace(few, name="few discordant: .99 and .99, unequally hard", hardness=9.0, by_arm=4.0)
    made += [replace(each, images=images) for each in (few, gained, uneven) for images in (100, 359)]
    made += [replace(each, images=images) for each in (rarer, rarest) for images in (100, 359, 2000)]
    return made


class Arms:
    """Draws pairs of tables of a scenario, with so many seeds."""

    def __init__(self, scenario: Scenario, seeds: int) -> None:
        self.scenario, self.seeds = scenario, seeds
        of_images = np.sqrt(1 + scenario.hardness + scenario.by_arm)
        z = float(ndtri(scenario.accuracy))
        # A small effect x on m moves the accuracy by x phi(z) / of_images.
        density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi) / of_images
        self.shared, self.own = scenario.shared / density, scenario.own / density
        self.deviation = float(np.sqrt(of_images**2 + self.shared**2 + self.own**2))
        accuracies = np.array([scenario.accuracy + scenario.gain, scenario.accuracy])
        self.means = ndtri(accuracies) * self.deviation
        found = ndtr(self.means / self.deviation)
        self.difference = float(found[0] - found[1])

    def draw(self, rng: np.random.Generator) -> tuple[Table, Table]:
        """m of best and control, (S, N) each."""
        shape = (self.seeds, self.scenario.images)
        shared = self.shared * rng.standard_normal((self.seeds, 1))
        image = np.sqrt(self.scenario.hardness) * rng.standard_normal(shape[1])
        arms = []
        for mean in self.means:
            seed = mean + shared + self.own * rng.standard_normal((self.seeds, 1))
            if self.scenario.formula == "independent":
                seed = mean + np.hypot(self.shared, self.own) * rng.standard_normal((self.seeds, 1))
            of_arm = image + np.sqrt(self.scenario.by_arm) * rng.standard_normal(shape[1])
            arms.append(
                rng.standard_normal(shape, dtype=np.float32) + seed.astype(np.float32) + of_arm.astype(np.float32)
            )
        return arms[0], arms[1]


@dataclass(frozen=True)
class Coverage:
    """covered: the share of intervals that hold the truth. width, old_width: means, in points, of the intervals that
    there are; of the formula for independent arms.
    """

    covered: float
    width: float
    old_width: float


def measure_coverage(scenario: Scenario, seeds: int, repetitions: int, rng: np.random.Generator) -> Coverage:
    """An interval that cannot be had covers nothing."""
    arms, hits, widths, old_widths = Arms(scenario, seeds), 0, [], []
    for _ in range(repetitions):
        best, control = (drawn > 0 for drawn in arms.draw(rng))
        old = compare_arms(best, control, confidence=CONFIDENCE, shared_seeds=False)
        found = old if scenario.formula == "independent" else compare_arms(best, control, confidence=CONFIDENCE)
        if found.low is not None and found.high is not None:
            hits += found.low <= arms.difference <= found.high
            widths.append(found.high - found.low)
        if old.low is not None and old.high is not None:
            old_widths.append(old.high - old.low)
    return Coverage(hits / repetitions, 100 * float(np.mean(widths)), 100 * float(np.mean(old_widths)))


@dataclass(frozen=True)
class Truth:
    """What is true of the arms.

    gain: of accuracy. second: by how much the AUROC is higher, or the log loss lower.
    """

    gain: float
    second: float

    def false_claims(self) -> set[str]:
        """Endpoints that must not be said to be shown."""
        wrong = {NOT_WORSE} if self.gain <= -MARGIN else set()
        wrong |= {HIGHER} if self.gain <= 0 else set()
        wrong |= {LOWER} if self.gain >= 0 else set()
        return wrong | ({ATTENTION, LOG_LOSS} if self.second <= 0 else set())


GAINS = (-MARGIN, -MARGIN / 2, 0.0, 2 * MARGIN)
"""The accuracy is lost by the margin, by half of it, not at all; or gained."""
SECONDS = {True: (0.0, 0.08), False: (0.0, 0.03)}
"""With masks and without: the second endpoint's score is equal, or better."""


def truths(masks: bool) -> list[Truth]:
    """Every combination."""
    return [Truth(*pair) for pair in itertools.product(GAINS, SECONDS[masks])]


def log_loss(m: Table) -> Table:
    """log(1 + exp(-k m)); m lies far from where this overflows."""
    losses: Table = np.log1p(np.exp(-SLOPE * m))
    return losses


def mean_log_loss(mean: float, deviation: float) -> float:
    """Its true mean where m is normal, by Gauss and Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    values = np.logaddexp(0.0, -SLOPE * (mean + deviation * nodes))
    return float((weights * values).sum() / weights.sum())


def draw_auroc(rng: np.random.Generator, seeds: int, images: int) -> list[NDArray[np.float64]]:
    """AUROC of attention, (S, N) by arm: means .62, moved by .03 by a seed in an arm."""
    shared = 0.02 * rng.standard_normal((seeds, 1)) + 0.1 * rng.standard_normal(images)
    return [
        0.62
        + shared
        + 0.03 * rng.standard_normal((seeds, 1))
        + 0.1 * rng.standard_normal(images)
        + 0.1 * rng.standard_normal((seeds, images), dtype=np.float32)
        for _ in range(2)
    ]


class Claims:
    """What verdicts of one truth said: how many there were, with a false claim, and with each endpoint shown."""

    def __init__(self, truth: Truth) -> None:
        self.wrong = truth.false_claims()
        self.verdicts = self.false = 0
        self.shown: dict[str, int] = {}

    def add(self, endpoints: Sequence[Endpoint]) -> None:
        """Count one more."""
        names = {endpoint.name for endpoint in endpoints if endpoint.shown}
        self.verdicts += 1
        self.false += bool(names & self.wrong)
        for name in names:
            self.shown[name] = self.shown.get(name, 0) + 1

    def share(self, name: str | None = None) -> float:
        """Of verdicts with any false claim, or in which the endpoint is shown."""
        return (self.false if name is None else self.shown.get(name, 0)) / self.verdicts


def measure_claims(
    seeds: int, images: int, repetitions: int, rng: np.random.Generator
) -> dict[tuple[bool, Truth], Claims]:
    """Decide the endpoints of so many simulated evaluations, by masks and truth. All truths share what is drawn."""
    claims = {(masks, truth): Claims(truth) for masks in (True, False) for truth in truths(masks)}
    of_gain = {gain: Arms(Scenario("claims", images, 0.95, gain, shared=0.01, own=0.002), seeds) for gain in GAINS}
    equal = of_gain[0.0]
    # The mean log loss of the best is taken to be the control's, whatever the accuracies are.
    means = {
        gain: [mean_log_loss(float(mean), arms.deviation) for mean in arms.means] for gain, arms in of_gain.items()
    }
    for _ in range(repetitions):
        drawn, control = equal.draw(rng)
        attention, beside = draw_auroc(rng, seeds, images)
        aurocs = {gain: compare_scores(attention + gain, beside, confidence=CONFIDENCE) for gain in SECONDS[True]}
        losses = log_loss(control)
        for gain, arms in of_gain.items():
            best = drawn + np.float32(arms.means[0] - equal.means[0])
            accuracy = compare_arms(best > 0, control > 0, confidence=CONFIDENCE)
            for second, attended in aurocs.items():
                claims[True, Truth(gain, second)].add(decide_endpoints(accuracy, margin=MARGIN, attention=attended))
            lower = log_loss(best) + np.float32(means[gain][1] - means[gain][0])
            for second in SECONDS[False]:
                found = compare_scores(lower - np.float32(second), losses, confidence=CONFIDENCE)
                claims[False, Truth(gain, second)].add(decide_endpoints(accuracy, margin=MARGIN, log_loss=found))
    return claims


def _print_coverage(repetitions: int, rng: np.random.Generator) -> None:
    covered, widths, every, low = [], [], [], []
    for scenario in coverage_scenarios():
        found = [measure_coverage(scenario, seeds, repetitions, rng) for seeds in SEEDS]
        name = [scenario.name, str(scenario.images)]
        covered.append([*name, *(f"{100 * each.covered:.1f}" for each in found)])
        widths.append([*name, *(f"{each.width:.2f} ({each.old_width:.2f})" for each in found)])
        every += [each.covered for each in found]
        low += [
            f"{scenario.name}, {scenario.images} images, {seeds} seeds: {100 * each.covered:.1f} %"
            for seeds, each in zip(SEEDS, found, strict=True)
            if each.covered < LOWEST
        ]
        print(f"  {scenario.name}, {scenario.images}: {' '.join(covered[-1][2:])}", flush=True)
    columns = ["scenario", "images", *(f"{seeds} seeds" for seeds in SEEDS)]
    print("\nCoverage of the 95 % interval, in %\n", table(columns, covered), sep="\n")
    print("\nMean width in points (of the formula for independent arms)\n", table(columns, widths), sep="\n")
    print(f"\nmean coverage {100 * float(np.mean(every)):.1f} %, lowest {100 * min(every):.1f} %")
    print(f"below {100 * LOWEST:.0f} %: {'; '.join(low) or 'none'}")


def _print_claims(repetitions: int, rng: np.random.Generator) -> None:
    cells = []
    for seeds, images in CLAIM_CELLS:
        cells.append(measure_claims(seeds, images, repetitions, rng))
        print(f"  {seeds} seeds, {images}: {max(100 * each.share() for each in cells[-1].values()):.1f}", flush=True)
    rows = [
        [
            f"{100 * truth.gain:+.1f} points",
            ("AUROC " if masks else "log loss ") + ("better" if truth.second > 0 else "equal"),
            *(f"{100 * cell[masks, truth].share():.1f}" for cell in cells),
            ", ".join(f"{name} {100 * cells[-1][masks, truth].share(name):.0f}" for name in _names(masks)),
        ]
        for masks, truth in cells[0]
    ]
    columns = ["accuracy", "second", *(f"{seeds} seeds, {images} images" for seeds, images in CLAIM_CELLS)]
    print("\nVerdicts with any false claim, in %\n", table([*columns, "shown, last"], rows), sep="\n")
    print(f"\nhighest {max(100 * each.share() for cell in cells for each in cell.values()):.1f} %")


def _names(masks: bool) -> tuple[str, ...]:
    return NOT_WORSE, ATTENTION if masks else LOG_LOSS, HIGHER, LOWER


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("coverage", "claims"), help="one of the two")
    parser.add_argument("--repetitions", type=int, default=2000, help="of every scenario")
    asked = parser.parse_args(arguments)
    print(header("How often verdicts are right", ["numpy", "scipy"]))
    if asked.only != "claims":
        _print_coverage(asked.repetitions, np.random.default_rng(0))
    if asked.only != "coverage":
        _print_claims(asked.repetitions, np.random.default_rng(1))


if __name__ == "__main__":
    main()

"""Configurations over the seeds that they share: which are taken, and the variances, against loops that restate them."""

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.tune.journal.image_scores import ImageScores, pack_scores
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, FAILED, VAL_ACCURACY, TrialRecord
from pipeline.tune.selection.seed_table import SeedTable, seed_table


def run(of: str, seed: int | None, *accuracies: float, state: str = COMPLETE) -> TrialRecord:
    name, role = (of, "trial") if seed is None else (f"{of}-seed{seed}", CONFIRMATION)
    record = TrialRecord(name, None, {}, role=role, seed=seed, of=None if seed is None else of, state=state)
    record.epochs = {epoch: {VAL_ACCURACY: value} for epoch, value in enumerate(accuracies, 1)}
    return record


def slow_seed_variance(x: NDArray[Any]) -> float:
    k, s = x.shape
    total = 0.0
    for one in range(k):
        for seed in range(s):
            row, column = sum(x[one]) / s, sum(x[:, seed]) / k
            total += (x[one, seed] - row - column + sum(sum(x)) / (k * s)) ** 2
    return total / ((k - 1) * (s - 1)) / s


def slow_image_variance(a: NDArray[Any], b: NDArray[Any], *, binary: bool = True) -> float:
    seeds, images = a.shape
    d = [[float(a[s, i]) - float(b[s, i]) for i in range(images)] for s in range(seeds)]
    by_image = [sum(d[s][i] for s in range(seeds)) / seeds for i in range(images)]
    by_seed = [sum(d[s]) / images for s in range(seeds)]
    whole = sum(by_image) / images
    square = sum((value - whole) ** 2 for value in by_image)
    if binary and sum(value != 0 for value in by_image) < 10:
        square += 1
    rest = sum((d[s][i] - by_image[i] - by_seed[s] + whole) ** 2 for s in range(seeds) for i in range(images))
    mean_square = rest / ((seeds - 1) * (images - 1))
    return max(0.0, square / (images - 1) / images - mean_square / (seeds * images))


@pytest.mark.parametrize("seed", range(8))
def test_variances_are_what_loops_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k, s, n = rng.integers(2, 5), rng.integers(2, 5), rng.integers(2, 60)
    hard, noise = rng.random((1, 1, n)), 0.3 * rng.standard_normal((k, 1, n))
    correct = rng.random((k, s, n)) < hard + noise
    table = SeedTable([f"t{row}" for row in range(k)], correct.mean(axis=2), correct)
    assert table.seed_variance() == pytest.approx(slow_seed_variance(table.values), abs=1e-15)
    pairs = [slow_image_variance(correct[a], correct[b]) for a, b in itertools.combinations(range(k), 2)]
    assert table.image_variance(0, 1) == pytest.approx(pairs[0], abs=1e-15)
    assert table.mean_image_variance(range(k)) == pytest.approx(sum(pairs) / len(pairs), abs=1e-15)


def test_what_all_configurations_share_by_seed_or_by_image_cancels() -> None:
    seeds, own = np.array([0.1, -0.2, 0.3]), np.array([[0.5], [0.7]])
    assert SeedTable(["a", "b"], own + seeds, None).seed_variance() == pytest.approx(0.0, abs=1e-30)
    alike = np.random.default_rng(0).random((1, 3, 40)) < 0.5
    correct = np.concatenate([alike, alike])
    # Not an image differs: one more is taken to, half of it each way.
    assert SeedTable(["a", "b"], correct.mean(axis=2), correct).image_variance(0, 1) == 1 / 39 / 40


def test_mean_of_variances_estimates_what_made_them() -> None:
    """Of configurations that differ by images of their own, with seeds that differ too, by repeating."""
    rng = np.random.default_rng(1)
    found, means = [], []
    for _ in range(400):
        easier = rng.choice([-0.3, 0.0, 0.3], (2, 1, 100))
        correct = rng.random((2, 3, 100)) < 0.5 + easier
        found.append(SeedTable(["a", "b"], correct.mean(axis=2), correct).image_variance(0, 1))
        means.append(easier.mean(axis=2)[:, 0])
    truth = np.var([one - other for one, other in means])
    assert np.mean([value for value in found if value is not None]) == pytest.approx(truth, rel=0.15)


def test_table_takes_the_seeds_and_configurations_that_leave_most_degrees_of_freedom() -> None:
    runs = [run(of, seed, 0.5) for of in ("t0000", "t0001", "baseline") for seed in (None, 1001, 1002)]
    runs += [run("baseline", seed, 0.5) for seed in range(1003, 1010)]
    runs += [run("t0002", None, 0.5), run("t0002", 1001, 0.4, state=FAILED), run("t0002", 1002, float("nan"))]
    table = seed_table(runs, ["t0000", "t0001", "t0002", "baseline"], ImageScores())
    assert table is not None
    assert (table.ids, table.seeds) == (["t0000", "t0001", "baseline"], 3)
    assert table.scores is None
    assert table.image_variance(0, 1) is None
    assert table.mean_image_variance([0, 1]) is None
    alone = seed_table(runs, ["t0000", "baseline"], ImageScores())
    assert alone is not None
    assert alone.seeds == 3


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [run("t0000", None, 0.5), run("t0000", 1001, 0.5)],
        [run("t0000", None, 0.5), run("t0001", None, 0.5)],
        [run("t0000", None, 0.5), run("t0000", 1001, 0.5), run("t0001", 1002, 0.5), run("t0001", 1003, 0.5)],
        [run("t0000", None), run("t0000", 1001), run("t0001", None), run("t0001", 1001)],
    ],
    ids=["none", "one configuration", "one seed", "no seed in common", "no epoch"],
)
def test_there_is_no_table_without_two_configurations_and_two_seeds(runs: list[TrialRecord]) -> None:
    assert seed_table(runs, ["t0000", "t0001"], ImageScores()) is None


def test_images_are_those_of_the_epoch_and_must_be_known_of_every_run() -> None:
    runs = [run(of, seed, 0.25, 0.5) for of in ("t0000", "t0001") for seed in (None, 1001)]
    correct = ImageScores()
    for record in runs:
        correct.add(record.id, 1, pack_scores([True, False, False, False]))
        correct.add(record.id, 2, pack_scores([True, False, True, False]))
    early, late = (seed_table(runs, ["t0000", "t0001"], correct, epoch=epoch) for epoch in (1, None))
    assert early is not None
    assert late is not None
    assert early.scores is not None
    assert late.scores is not None
    assert (early.values == 0.25).all()
    assert (early.scores.sum(axis=2) == 1).all()
    assert (late.scores.sum(axis=2) == 2).all()
    runs.append(run("t0000", 1002, 0.5))
    runs.append(run("t0001", 1002, 0.5))
    without = seed_table(runs, ["t0000", "t0001"], correct)
    assert without is not None
    assert without.scores is None
    correct.add("t0000-seed1002", 1, pack_scores([True]))
    correct.add("t0001-seed1002", 1, pack_scores([True, True]))
    torn = seed_table(runs, ["t0000", "t0001"], correct)
    assert torn is not None
    assert torn.scores is None


def test_pseudo_values_of_another_metric_remain_numbers() -> None:
    runs = [run(of, seed, 0.5) for of in ("t0000", "t0001") for seed in (None, 1001, 1002)]
    found = np.random.default_rng(0).standard_normal((2, 3, 30)).astype(np.float32)
    scores = ImageScores()
    for record, values in zip(runs, found.reshape(6, 30), strict=True):
        scores.add(record.id, 1, pack_scores(values))
    table = seed_table(runs, ["t0000", "t0001"], scores)
    assert table is not None
    assert table.scores is not None
    assert (table.scores == found).all()
    assert table.scores.dtype == np.float32
    slow = slow_image_variance(found[0], found[1], binary=False)
    assert table.image_variance(0, 1) == pytest.approx(slow, rel=1e-12)

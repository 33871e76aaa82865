"""The simulation behind docs/benchmarks/folds.md, with few repetitions: what it holds for true, and what it finds."""

import fold_coverage
import numpy as np
import pytest
from fold_coverage import (  # fmt: skip
    CONTROL,
    GRID,
    TRUTH_IMAGES,
    TRUTH_SEEDS,
    Population,
    Scenario,
    correct,
    measure,
    repeat,
    run_split,
    search,
    train,
)

from pipeline.data.splits.split import make_split


def test_networks_of_one_seed_are_the_same_and_of_others_differ() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=200)
    images = Population(rng).draw(rng, labels, np.ones(1, np.float32))
    last = train(images, labels, GRID[0], [1, 2, 1])
    np.testing.assert_array_equal(last[0], last[2])
    assert not np.allclose(last[0], last[1])
    right = correct(last, images, labels, GRID[0], [1, 2, 1])
    assert right.shape == (3, 200)
    assert 0.4 < right.mean() < 1.0  # of three classes


def test_layer_that_is_solved_for_is_that_of_ridge_regression() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=50)
    images = rng.standard_normal((50, fold_coverage.SIZE), np.float32)
    scale, penalty = CONTROL
    (last,) = train(images, labels, CONTROL, [7])
    weights, offsets = fold_coverage.hidden_layers([7])
    hidden = np.maximum(scale * images.astype(np.float64) @ weights[0] + offsets[0], 0)
    targets = np.eye(3)[labels] - 1 / 3
    more = np.sqrt(penalty * 50) * np.eye(fold_coverage.FEATURES)
    expected = np.linalg.lstsq(np.vstack([hidden, more]), np.vstack([targets, np.zeros((len(more), 3))]), rcond=None)[0]
    np.testing.assert_allclose(last, expected, atol=1e-3)


def test_search_takes_what_is_best_on_val_and_looks_at_nothing_else() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(3, size=150)
    images = Population(rng).draw(rng, labels, np.ones(1, np.float32))
    split = make_split(labels, val_fraction=0.2, test_fraction=0.2, seed=0)
    found = search(images, labels, split, 3)
    shares = {}
    for config in GRID:
        last = train(images[split.train], labels[split.train], config, [3])
        shares[config] = correct(last, images[split.val], labels[split.val], config, [3]).mean()
    assert shares[found] == max(shares.values())
    changed = images.copy()
    changed[split.test] = 0
    assert search(changed, labels, split, 3) == found


def test_truth_is_that_of_other_seeds_on_images_that_were_never_drawn() -> None:
    rng = np.random.default_rng(3)
    population, labels = Population(rng), rng.integers(3, size=120)
    images = population.draw(rng, labels, np.ones(1, np.float32))
    split = make_split(labels, val_fraction=0.2, test_fraction=0.2, seed=0)
    measured = []
    for _ in range(2):
        fresh = rng.integers(3, size=(TRUTH_SEEDS, TRUTH_IMAGES))
        drawn = population.draw(rng, fresh, np.ones(1, np.float32))
        measured.append(run_split(images, labels, split, [5, 6], (drawn, fresh)).truth)
    assert measured[0] == pytest.approx(measured[1], abs=0.02)
    assert run_split(images, labels, split, [5, 6], None).truth == 0.0


def test_repetition_compares_every_image_and_as_many_networks_on_one_split() -> None:
    found = repeat(Scenario(3, 90, seeds=2), np.random.default_rng(4))
    assert (found.folded.folds, found.folded.images, found.folded.seeds) == (3, 90, (2, 2))
    assert (found.plain.folds, found.plain.images, found.plain.seeds) == (1, 18, (6, 6))


def test_intervals_cover() -> None:
    found = measure(Scenario(3, 150), 60, np.random.default_rng(5))
    # Of 60 intervals at 95 % fewer than 51 cover once in a thousand times; the seed is fixed.
    assert found.covered >= 0.85
    assert found.half < found.plain_half


def test_table_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fold_coverage, "scenarios", lambda: [Scenario(2, 60, seeds=2, hardest=2.0)])
    fold_coverage.main(["--repetitions", "3"])
    printed = capsys.readouterr().out
    for words in ("Coverage of the 95 % interval", "| noise of the folds 1 to 2 | 60 | 2 | 2 |", "below 93 %"):
        assert words in printed

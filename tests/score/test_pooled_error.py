"""The pooled standard error of a difference, against a restatement in loops and against simulation."""

import itertools
import math

import numpy as np
import pytest

from pipeline.score.pooled_error import difference_error, discordance_error, pooled_error


def slow(table: np.ndarray) -> float:
    """By pairs of configurations and the layout of one difference, which pooled over all pairs is the same."""
    configs, seeds, images = table.shape
    of_seeds, of_images, of_rest = [], [], []
    for first, second in itertools.combinations(range(configs), 2):
        d = [[float(table[first, s, i]) - float(table[second, s, i]) for i in range(images)] for s in range(seeds)]
        rows = [sum(row) / images for row in d]
        columns = [sum(d[s][i] for s in range(seeds)) / seeds for i in range(images)]
        mean = sum(rows) / seeds
        of_images.append(sum((value - mean) ** 2 for value in columns) / (images - 1) / images)
        if seeds > 1:
            of_seeds.append(sum((value - mean) ** 2 for value in rows) / (seeds - 1) / seeds)
            rest = [(d[s][i] - rows[s] - columns[i] + mean) ** 2 for s in range(seeds) for i in range(images)]
            of_rest.append(sum(rest) / (seeds - 1) / (images - 1) / (seeds * images))
    count = configs * (configs - 1) / 2
    if seeds == 1:
        return math.sqrt(sum(of_images) / count)
    return math.sqrt(sum(of_seeds) / count + max(0.0, (sum(of_images) - sum(of_rest)) / count))


@pytest.mark.parametrize("shape", [(2, 1, 2), (2, 2, 5), (3, 3, 40), (5, 2, 17), (4, 1, 30)])
@pytest.mark.parametrize("share", [0.5, 0.97, 1.0])
def test_it_is_that_of_all_pairs(shape: tuple[int, int, int], share: float) -> None:
    table = np.random.default_rng([*shape, int(100 * share)]).random(shape) < share
    assert pooled_error(table) == pytest.approx(slow(table), abs=1e-12)


def test_what_all_configurations_share_does_not_count() -> None:
    """A seed with which all are worse, and an image on which all are wrong, tell no two of them apart."""
    shared = np.random.default_rng(0).random((1, 4, 50)) < 0.7
    assert pooled_error(np.repeat(shared, 3, axis=0)) == pytest.approx(0.0, abs=1e-12)


def test_on_average_it_is_the_deviation_of_a_difference() -> None:
    """Configurations that are equal but for their networks, on images of uneven difficulty, new ones every time."""
    rng = np.random.default_rng(1)
    seen, said = [], []
    for _ in range(2000):
        hard = rng.normal(2.0, 2.0, size=(1, 1, 60))
        logits = hard + rng.normal(0, 0.5, (1, 3, 1)) + rng.normal(0, 0.4, (3, 3, 1)) + rng.normal(0, 1.0, (3, 1, 60))
        table = rng.random((3, 3, 60)) < 1 / (1 + np.exp(-logits))
        means = table.mean(axis=(1, 2))
        seen.append((means[0] - means[1]) ** 2)
        said.append(pooled_error(table) ** 2)
    assert np.mean(said) == pytest.approx(np.mean(seen), rel=0.1)


@pytest.mark.parametrize("shape", [(1, 2, 5), (2, 0, 5), (2, 2, 1), (2, 5)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 2 by 1 by 2"):
        pooled_error(np.ones(shape))


@pytest.mark.parametrize(("alone", "beside", "both"), [(0, 0, 10), (3, 1, 40), (5, 0, 282), (0, 7, 0)])
def test_two_networks_differ_by_their_discordant_images(alone: int, beside: int, both: int) -> None:
    first = [True] * alone + [False] * beside + [True] * both
    second = [False] * alone + [True] * beside + [True] * both
    n = alone + beside + both
    expected = math.sqrt((alone + beside + 1 - (alone - beside) ** 2 / (n + 2)) / (n + 2) ** 2)
    assert discordance_error(first, second) == pytest.approx(expected, abs=1e-15)


def test_of_scores_it_is_that_of_a_mean_of_differences() -> None:
    """Rights and wrongs keep the formula that does not collapse; numbers have the plain one, restated in loops."""
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(2, 30))
    gains = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    mean = sum(gains) / 30
    expected = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / 29 / 30)
    assert difference_error(first, second) == pytest.approx(expected, rel=1e-12)
    right = rng.random((2, 30)) < 0.8
    assert difference_error(right[0], right[1]) == discordance_error(right[0], right[1])
    assert difference_error(first, first) == 0


def test_pseudo_values_are_pooled_as_rights_are() -> None:
    table = np.random.default_rng(6).normal(size=(3, 2, 11))
    assert pooled_error(table) == pytest.approx(slow(table), rel=1e-9)

"""Claims about what would have been enough: the parts are those of the interval, and each forecast is the least that is.

Against slow restatements: the comparison itself at the numbers that were measured, and a search number by number.
"""

import math
import re
from dataclasses import replace
from statistics import mean, variance
from typing import Any

import numpy as np
import pytest
import scipy.stats

from pipeline.score.comparison import compare_arms
from pipeline.score.sample_size import VarianceParts, describe_enough, variance_parts

LEVEL = 0.95
OF_SEEDS = VarianceParts((4e-5,), (1e-6,), (4,), 1e-6, 1e-6, 400)
OF_IMAGES = VarianceParts((1e-6,), (1e-6,), (4,), 9e-5, 1e-6, 400)
OF_BOTH = VarianceParts((6e-5,), (1e-6,), (4,), 9e-5, 1e-6, 400)
EITHER = VarianceParts((4e-6,), (3e-5,), (4,), 4e-6, 3e-5, 400)


def arms(seed: int, seeds: tuple[int, int] = (4, 4), images: int = 60) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    hard, shared = rng.normal(size=images), rng.normal(size=(max(seeds), 1))
    tables = [rng.normal(size=(count, images)) + hard + 0.3 * shared[:count] > -1 for count in seeds]
    return tables[0], tables[1]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("seeds", [(2, 2), (4, 4), (5, 3)])
def test_as_many_seeds_and_images_have_the_comparisons_own_detectable_difference(
    seed: int, seeds: tuple[int, int]
) -> None:
    tables = arms(seed, seeds)
    parts = variance_parts(*tables)
    assert parts is not None
    detectable = compare_arms(*tables, confidence=LEVEL, shared_seeds=False).detectable_difference
    assert parts.detectable(1, 1, LEVEL) == pytest.approx(detectable, rel=1e-9)
    if seeds[0] == seeds[1]:
        paired = variance_parts(*tables, shared_seeds=True)
        assert paired is not None
        detectable = compare_arms(*tables, confidence=LEVEL).detectable_difference
        assert paired.detectable(1, 1, LEVEL) == pytest.approx(detectable, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_parts_of_shared_seeds_are_those_of_one_table(seed: int) -> None:
    """By loops, with the layout's formula."""
    best, control = (table.astype(float) for table in arms(seed, (3, 3), 20))
    table = [[one - other for one, other in zip(*rows, strict=True)] for rows in zip(best, control, strict=True)]
    seeds, images = 3, 20
    row_means, column_means = [mean(row) for row in table], [mean(column) for column in zip(*table, strict=True)]
    whole = mean(row_means)
    left = sum((table[s][i] - row_means[s] - column_means[i] + whole) ** 2 for s in range(seeds) for i in range(images))
    square = left / ((seeds - 1) * (images - 1))
    parts = variance_parts(best, control, shared_seeds=True)
    assert parts is not None
    assert parts.seeds == pytest.approx([max(0.0, variance(row_means) / seeds - square / (seeds * images))])
    assert parts.images == pytest.approx(max(0.0, variance(column_means) / images - square / (seeds * images)))
    total = variance(row_means) / seeds + parts.images
    assert sum(parts.seeds) + sum(parts.both) + parts.images == pytest.approx(total)
    assert (parts.seed_counts, parts.image_count) == ((3,), 20)


def test_the_error_at_other_numbers_is_that_of_the_formula() -> None:
    parts = OF_BOTH
    seeds, images = 2, 3  # times as many
    terms = [(6e-5 / 2 + 1e-6 / 6, 7), (9e-5 / 3, 1199)]
    total = sum(term for term, _ in terms)
    freedom = total**2 / sum(term**2 / df for term, df in terms)
    t = scipy.stats.t.ppf
    expected = (t(0.975, freedom) + t(0.8, freedom)) * math.sqrt(total)
    assert parts.detectable(seeds, images, LEVEL) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("parts", [OF_SEEDS, OF_IMAGES, OF_BOTH, EITHER], ids=["seeds", "images", "both", "either"])
@pytest.mark.parametrize("distance", [0.012, 0.02])
def test_what_is_enough_is_the_least_that_is(parts: VarianceParts, distance: float) -> None:
    said = describe_enough(parts, distance, LEVEL)
    seeds = next((n for n in range(4, 1001) if parts.detectable(n / 4, 1, LEVEL) <= distance), None)
    if seeds is not None:
        assert f"about {seeds:,} seeds an arm on as many images" in said
    if (named := re.search(r"about ([\d,]+) test images with as many seeds", said)) is not None:
        images = int(named[1].replace(",", ""))
        assert parts.detectable(1, images / 400, LEVEL) <= distance
        assert images == 400 or parts.detectable(1, (images - 1) / 400, LEVEL) > distance
    else:
        assert parts.detectable(1, 1e9, LEVEL) > distance
    if seeds is None and named is None:
        count = next(n for n in range(4, 1001) if parts.detectable(n / 4, n / 4, LEVEL) <= distance)
        assert f"about {count:,} seeds an arm and {100 * count:,} test images together" in said


def test_seeds_and_images_are_named_only_where_more_of_them_alone_would_do() -> None:
    assert describe_enough(OF_IMAGES, 0.01, LEVEL) == (
        "about 3,120 test images with as many seeds; more seeds alone would not do: the images' part of the variance stays"
    )
    assert describe_enough(OF_SEEDS, 0.01, LEVEL) == (
        "about 16 seeds an arm on as many images (retrain.seeds); more images alone would not do: the seeds' part of the "
        "variance stays"
    )
    assert describe_enough(OF_BOTH, 0.01, LEVEL) == (
        "about 48 seeds an arm and 4,800 test images together; neither would do alone"
    )
    assert describe_enough(EITHER, 0.012, LEVEL) == (
        "about 12 seeds an arm on as many images (retrain.seeds), or about 2,530 test images with as many seeds"
    )
    assert describe_enough(OF_SEEDS, 0.2, LEVEL).startswith("as many seeds and images again")
    assert describe_enough(replace(OF_BOTH, seeds=(1.0,)), 1e-4, LEVEL).startswith("more seeds and images than can be")


def test_one_seed_has_no_parts_and_tables_that_do_not_fit_are_refused() -> None:
    best, control = arms(0)
    assert variance_parts(best[:1], control) is None
    assert variance_parts(best, control[:1]) is None
    with pytest.raises(ValueError, match="do not fit together"):
        variance_parts(best[:2], control, shared_seeds=True)
    with pytest.raises(ValueError, match="do not fit together"):
        variance_parts(best[:, :5], control)


def test_networks_that_do_not_differ_need_nothing() -> None:
    parts = variance_parts(np.ones((3, 9)), np.ones((3, 9)), shared_seeds=True)
    assert parts is not None
    assert parts.detectable(1, 1, LEVEL) == 0
    assert describe_enough(parts, 0.01, LEVEL).startswith("as many seeds and images again")

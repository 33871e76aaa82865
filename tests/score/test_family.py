"""Claims about what stands beside the primary analysis: corrections hold, descriptions describe."""

import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped, unused-ignore]

from pipeline.score.comparison import compare_arms, p_value
from pipeline.score.family import compare_classes, compare_family, holm, mcnemar, two_way_bootstrap


def tables(seed: int, gain: float = 0.0, images: int = 300, seeds: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((seeds, images)) < 0.7 + gain, rng.random((seeds, images)) < 0.7


def test_holm_is_the_published_step_down() -> None:
    # Worked by hand: sorted .005 .01 .03 .04, times 4 3 2 1, never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_counts_only_the_comparisons_that_were_made() -> None:
    assert holm([None, 0.02, None, 0.04]) == [None, pytest.approx(0.04), None, pytest.approx(0.04)]


def test_holm_seldom_finds_anything_where_there_is_nothing() -> None:
    rng = np.random.default_rng(0)
    wrong = sum(min(value for value in holm(list(rng.random(8))) if value is not None) < 0.05 for _ in range(4000))
    assert 0.04 < wrong / 4000 < 0.06


@pytest.mark.parametrize("gain", [0.0, 0.02, 0.06, 0.15])
def test_p_is_below_its_level_exactly_where_the_interval_excludes_0(gain: float) -> None:
    for seed in range(10):
        comparison = compare_arms(*tables(seed, gain))
        p = p_value(comparison)
        assert p is not None
        assert comparison.low is not None
        assert comparison.high is not None
        assert (p < 0.05) == (comparison.low > 0 or comparison.high < 0)


def test_one_seed_has_no_p() -> None:
    assert p_value(compare_arms(*tables(0, seeds=1))) is None


def test_a_family_widens_intervals_for_the_comparisons_that_count() -> None:
    pairs = {str(seed): tables(seed, 0.05) for seed in range(3)}
    family = compare_family({**pairs, "one seed": tables(9, seeds=1)})
    assert [member.name for member in family] == ["0", "1", "2", "one seed"]
    assert family[3].p is family[3].p_holm is family[3].comparison.low is None
    for member in family[:3]:
        assert member.comparison.confidence == pytest.approx(1 - 0.05 / 3)
        alone = compare_arms(*pairs[member.name])
        assert member.p == p_value(alone)
        assert member.comparison.difference == alone.difference
        assert member.comparison.low is not None
        assert alone.low is not None
        assert member.comparison.low < alone.low
    assert [m.p_holm for m in family] == holm([m.p for m in family])


def test_a_pair_of_a_family_is_paired_where_its_seeds_are_shared() -> None:
    pairs = {name: tables(seed) for seed, name in enumerate("ab")}
    mixed = compare_family(pairs, shared_seeds={"a": True, "b": False})
    assert [member.comparison.layout for member in mixed] == ["paired", "independent"]
    assert mixed[1].p == p_value(compare_arms(*pairs["b"], shared_seeds=False))
    assert {member.comparison.layout for member in compare_family(pairs, shared_seeds=False)} == {"independent"}
    (one,) = compare_classes(*pairs["a"], np.zeros(300, dtype=np.int64), 1, shared_seeds=False)
    assert one is not None
    assert one.comparison.layout == "independent"


def test_classes_are_compared_on_their_own_images_and_missing_ones_left_out() -> None:
    labels = np.array([0] * 100 + [1] * 100 + [2])
    best, control = np.full((3, 201), 0.5), np.full((3, 201), 0.5)
    rng = np.random.default_rng(0)
    best[:, :100], control[:, :100] = rng.random((3, 100)) < 0.9, rng.random((3, 100)) < 0.3
    best[:, 100:200], control[:, 100:200] = rng.random((3, 100)) < 0.6, rng.random((3, 100)) < 0.6
    first, second, third, fourth = compare_classes(best, control, labels, 4)
    assert third is None  # one image
    assert fourth is None  # none
    assert first is not None
    assert second is not None
    assert first.comparison.images == second.comparison.images == 100
    assert first.comparison.difference == pytest.approx(best[:, :100].mean() - control[:, :100].mean())
    assert first.p_holm is not None
    assert second.p_holm is not None
    assert first.p_holm < 0.05 < second.p_holm


def test_mcnemar_counts_where_two_networks_part() -> None:
    first = np.array([1, 1, 1, 1, 1, 1, 0, 1, 0], dtype=bool)
    second = np.array([0, 0, 0, 0, 0, 0, 1, 1, 0], dtype=bool)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (6, 1)
    assert found.p == pytest.approx(2 * scipy.stats.binom.cdf(1, 7, 0.5))
    assert mcnemar(first, first).p == 1.0
    with pytest.raises(ValueError, match="shape"):
        mcnemar(first, second[:3])


def test_bootstrap_resamples_seeds_and_images() -> None:
    best, control = tables(1, 0.05, seeds=5)
    found = two_way_bootstrap(best, control, seed=3)
    assert found is not None
    low, high = found
    assert low < best.mean() - control.mean() < high
    assert two_way_bootstrap(best, control, seed=3) == found
    # Seeds that differ widen it, though the images are the same: best is right on all images with two seeds of four.
    spread = np.repeat([[1.0], [0.0], [1.0], [0.0]], 200, axis=1)
    wide = two_way_bootstrap(spread, np.full((4, 200), 0.5))
    assert wide is not None
    assert wide[1] - wide[0] > 0.5
    # What a seed does to both arms alike is drawn for both alike.
    assert two_way_bootstrap(spread, spread) == (0.0, 0.0)
    apart = two_way_bootstrap(spread, spread, shared_seeds=False)
    assert apart is not None
    assert apart[1] - apart[0] > 0.5
    # And images that differ do, though the seeds agree.
    uneven = np.tile(np.arange(200) % 2, (4, 1)).astype(float)
    by_images = two_way_bootstrap(uneven, np.full((4, 200), 0.5))
    assert by_images is not None
    assert by_images[1] - by_images[0] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(200), rel=0.15)
    assert two_way_bootstrap(best[:1], control) is None

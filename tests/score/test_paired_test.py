"""Claims about comparing two models on the same images: the interval covers, and says what would be enough."""

import math

import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped, unused-ignore]

from pipeline.score.paired_test import paired_difference, paired_score_difference


def right(images: int, both: int, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """What two models got right: both, the first alone, the second alone, and neither on the rest."""
    kinds = np.repeat([0, 1, 2, 3], [both, first, second, images - both - first - second])
    return np.isin(kinds, [0, 1]), np.isin(kinds, [0, 2])


def test_the_interval_is_that_of_the_adjusted_proportions() -> None:
    found = paired_difference(*right(100, 80, 8, 3), confidence=0.95)
    p, q = 9 / 102, 4 / 102
    half = 1.959963984540054 * math.sqrt((p + q - (p - q) ** 2) / 102)
    assert (found.difference, found.only_first, found.only_second, found.images) == (0.05, 8, 3, 100)
    assert (found.low, found.high) == pytest.approx((p - q - half, p - q + half))


def test_models_that_agree_everywhere_still_have_an_interval() -> None:
    found = paired_difference(*right(360, 350, 0, 0))
    assert found.difference == 0
    assert -0.01 < found.low < -0.005
    assert found.high == -found.low


def test_images_that_both_fail_do_not_widen_it() -> None:
    narrow, wide = paired_difference(*right(400, 200, 5, 5)), paired_difference(*right(400, 200, 50, 50))
    assert wide.high > 2 * narrow.high


@pytest.mark.parametrize(("only_first", "only_second"), [(0.02, 0.02), (0.005, 0.015), (0.1, 0.05)])
def test_it_covers_the_true_difference_as_often_as_it_says(only_first: float, only_second: float) -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(3000):
        kinds = rng.choice(4, size=360, p=[0.7, only_first, only_second, 0.3 - only_first - only_second])
        found = paired_difference(np.isin(kinds, [0, 1]), np.isin(kinds, [0, 2]))
        hits += found.low <= only_first - only_second <= found.high
    assert 0.94 <= hits / 3000 <= 0.985


def test_the_images_that_would_be_enough_are_enough_four_times_in_five() -> None:
    needed = paired_difference(*right(360, 350, 4, 4)).images_needed(0.01)
    rng, found = np.random.default_rng(1), 0
    share = 5 / 362
    for _ in range(2000):
        kinds = rng.choice(3, size=needed, p=[1 - 2 * share, share, share])
        found += paired_difference(kinds != 2, kinds != 1).low > -0.01
    assert 2000 < needed < 3000
    assert 0.76 <= found / 2000 <= 0.84


@pytest.mark.parametrize(
    ("first", "second", "confidence"),
    [([1, 0], [1], 0.95), ([], [], 0.95), ([[1]], [[1]], 0.95), ([1], [1], 1.0), ([1], [1], 0.0)],
)
def test_what_cannot_be_compared_is_refused(first: list[int], second: list[int], confidence: float) -> None:
    with pytest.raises(ValueError, match=r"needed|confidence"):
        paired_difference(first, second, confidence=confidence)


def test_pseudo_values_are_compared_image_by_image_by_t() -> None:
    rng = np.random.default_rng(0)
    for images in (2, 5, 60):
        one, other = rng.normal(size=images), rng.normal(size=images)
        found = paired_score_difference(one, other, confidence=0.9)
        plain = scipy.stats.ttest_rel(one, other).confidence_interval(0.9)
        assert found.difference == pytest.approx(one.mean() - other.mean())
        assert (found.low, found.high) == (pytest.approx(plain.low), pytest.approx(plain.high))


def test_models_that_answer_alike_have_no_interval_rather_than_one_of_no_width() -> None:
    found = paired_score_difference(np.full(50, 0.1) + 0.2, np.full(50, 0.3))
    assert (found.low, found.high) == (None, None)
    assert found.note is not None
    with pytest.raises(ValueError, match="at least two"):
        paired_score_difference([0.1], [0.2])

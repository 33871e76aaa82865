"""Claims about attention against masks, each checked against a slow restatement that works pixel by pixel."""

import math
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score  # type: ignore[import-untyped, unused-ignore]

from pipeline.score.locate import baseline_scores, location_scores, pick_head
from pipeline.score.maps import attention_from_similarity, top_mass
from pipeline.score.overlap import attention_auroc, attention_average_precision, attention_jaccard

Floats = NDArray[np.float64]
Masks = NDArray[np.uint8]


def slow_upsample(patches: Floats, size: tuple[int, int]) -> Floats:
    grid = patches.shape
    pixels = np.empty(size)
    for i in range(size[0]):
        for j in range(size[1]):
            pixels[i, j] = patches[math.floor((i + 0.5) * grid[0] / size[0]), math.floor((j + 0.5) * grid[1] / size[1])]
    return pixels


def slow_scores(attention: Floats, mask: Masks, mass: float = 0.6) -> tuple[float, float, float]:
    """Jaccard, AUROC and average precision of one map (H, W) against one mask (h, w), the long way."""
    kept, held = np.zeros(attention.shape), 0.0
    for place in sorted(np.ndindex(*attention.shape), key=lambda place: -attention[place]):
        if held >= mass - 1e-9:
            break
        kept[place], held = 1, held + float(attention[place])
    decided = mask != 255
    truth = mask[decided] == 1
    chosen = slow_upsample(kept, mask.shape)[decided] == 1
    jaccard = float((truth & chosen).sum() / (truth | chosen).sum()) if truth.any() else math.nan
    if not truth.any() or truth.all():
        return jaccard, math.nan, math.nan
    values = slow_upsample(attention, mask.shape)[decided]
    return jaccard, roc_auc_score(truth, values), average_precision_score(truth, values)


def nasty_set() -> tuple[Floats, Masks]:
    """Twelve maps of two heads on 5 x 4 patches, with masks of 13 x 10 pixels: neither side divides the other.

    Images 0 to 4: void only, no object, all object, all object or void, one object pixel. Maps 5 to 8: constant, one
    patch with all the mass, two levels (many ties), equal patches whose sum meets 60 % exactly.
    """
    rng = np.random.default_rng(0)
    similarity = rng.normal(scale=2, size=(12, 2, 5, 4))
    masks = rng.choice([0, 1, 255], p=[0.5, 0.35, 0.15], size=(12, 13, 10)).astype(np.uint8)
    masks[0], masks[1], masks[2] = 255, np.where(masks[1] == 1, 0, masks[1]), 1
    masks[3] = np.where(masks[3] == 0, 1, masks[3])
    masks[4] = 0
    masks[4, 6, 5] = 1
    similarity[5] = 3.0
    similarity[6] = 0.0
    similarity[6, :, 2, 2] = 5000.0
    similarity[7] = np.where(similarity[7] > 0.5, 1.0, 0.0)
    similarity[8] = -800.0
    similarity[8, :, ::2, 1:3] = 0.0
    similarity[8, :, 0, 0] = similarity[8, :, 4, 3] = similarity[8, :, 1, 1] = similarity[8, :, 3, 3] = 0.0
    return similarity, masks


def test_all_scores_agree_with_the_slow_restatement_on_nasty_input() -> None:
    similarity, masks = nasty_set()
    attention = attention_from_similarity(similarity)
    expected = np.array([[slow_scores(one, mask) for one in maps] for maps, mask in zip(attention, masks, strict=True)])
    np.testing.assert_allclose(attention_jaccard(attention, masks), expected[..., 0], rtol=1e-12)
    np.testing.assert_allclose(attention_auroc(attention, masks), expected[..., 1], rtol=1e-12)
    np.testing.assert_allclose(attention_average_precision(attention, masks), expected[..., 2], rtol=1e-12)


@pytest.mark.parametrize(("grid", "size"), [((6, 6), (12, 12)), ((7, 3), (7, 3)), ((6, 5), (4, 3)), ((2, 9), (31, 20))])
def test_scores_hold_for_any_pair_of_grid_and_mask(grid: tuple[int, int], size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    attention = attention_from_similarity(rng.normal(size=(4, 3, *grid)))
    masks = rng.choice([0, 1, 255], p=[0.4, 0.4, 0.2], size=(4, *size)).astype(np.uint8)
    expected = np.array([[slow_scores(one, mask) for one in maps] for maps, mask in zip(attention, masks, strict=True)])
    np.testing.assert_allclose(attention_jaccard(attention, masks), expected[..., 0], rtol=1e-12)
    np.testing.assert_allclose(attention_auroc(attention, masks), expected[..., 1], rtol=1e-12)
    np.testing.assert_allclose(attention_average_precision(attention, masks), expected[..., 2], rtol=1e-12)


def test_location_scores_are_means_over_the_images_that_can_be_scored() -> None:
    similarity, masks = nasty_set()
    attention = attention_from_similarity(similarity)
    slow = np.array([[slow_scores(one, mask) for one in maps] for maps, mask in zip(attention, masks, strict=True)])
    scores = location_scores(similarity, masks, head=1)
    assert (scores.images, scores.left_out, scores.ranked) == (10, 2, 8)
    assert scores.jaccard_best_head == pytest.approx(np.nanmean(slow[2:, :, 0].max(axis=1)))
    means = np.nanmean(slow[2:], axis=0)
    np.testing.assert_allclose(
        np.stack([scores.head_jaccard, scores.head_auroc, scores.head_average_precision]), means.T
    )
    assert scores.head == 1
    assert scores.jaccard_fixed_head == pytest.approx(means[1, 0])
    assert scores.auroc == pytest.approx(means[1, 1])
    assert scores.average_precision == pytest.approx(means[1, 2])


def test_without_a_given_head_nothing_is_reported_for_one() -> None:
    scores = location_scores(*nasty_set())
    assert scores.head is scores.jaccard_fixed_head is scores.auroc is scores.average_precision is None


def test_a_set_without_any_object_scores_nan_and_counts_it() -> None:
    scores = location_scores(np.zeros((3, 2, 4, 4)), np.full((3, 8, 8), 255, dtype=np.uint8), head=0)
    assert (scores.images, scores.left_out, scores.ranked) == (0, 3, 0)
    assert math.isnan(scores.jaccard_best_head)
    assert np.isnan(scores.head_auroc).all()


def test_undecided_pixels_change_nothing() -> None:
    similarity, masks = nasty_set()
    wide = np.full((12, 13, 20), 255, dtype=np.uint8)
    wide[:, :, :10] = masks
    doubled = np.concatenate([similarity, np.full_like(similarity, -1e4)], axis=-1)
    narrow, padded = location_scores(similarity, masks, head=0), location_scores(doubled, wide, head=0)
    assert padded.jaccard_best_head == pytest.approx(narrow.jaccard_best_head)
    assert padded.auroc == pytest.approx(narrow.auroc)
    assert padded.average_precision == pytest.approx(narrow.average_precision)


def test_pick_head_takes_the_highest_mean_auroc() -> None:
    masks = np.zeros((2, 8, 8), dtype=np.uint8)
    masks[:, 2:4, 2:6] = 1
    on_object = np.kron(np.eye(1), masks[0, ::2, ::2].astype(float))
    similarity = np.stack([-on_object, on_object, np.zeros((4, 4))])[None].repeat(2, axis=0)
    assert pick_head(similarity, masks) == 1
    assert pick_head(-similarity, masks) == 0


def test_pick_head_refuses_masks_that_rank_nothing() -> None:
    with pytest.raises(ValueError, match="no head can be picked"):
        pick_head(np.zeros((2, 3, 4, 4)), np.ones((2, 8, 8), dtype=np.uint8))


def test_attention_is_the_softmax_of_each_map_even_for_huge_logits() -> None:
    similarity = np.random.default_rng(2).normal(size=(2, 3, 4, 5))
    expected = np.exp(similarity) / np.exp(similarity).sum(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(attention_from_similarity(similarity), expected)
    np.testing.assert_allclose(attention_from_similarity(similarity + 1e4), expected, rtol=1e-8)


def test_top_mass_keeps_the_patch_that_crosses() -> None:
    np.testing.assert_array_equal(top_mass(np.array([[0.4, 0.1], [0.3, 0.2]])), [[True, False], [True, False]])
    np.testing.assert_array_equal(top_mass(np.array([[0.4, 0.1], [0.3, 0.2]]), 0.71), [[True, False], [True, True]])
    np.testing.assert_array_equal(top_mass(np.array([[1.0, 0.0], [0.0, 0.0]])), [[True, False], [False, False]])


def test_top_mass_met_exactly_adds_no_patch() -> None:
    # Six tenths sum to a hair less than 0.6 in floating point.
    assert top_mass(np.full((2, 5), 0.1)).sum() == 6


@pytest.mark.parametrize("mass", [0.0, -0.1, 1.1])
def test_top_mass_outside_its_range_is_refused(mass: float) -> None:
    with pytest.raises(ValueError, match="mass"):
        top_mass(np.full((2, 2), 0.25), mass)


def test_trivial_baselines_say_what_they_are() -> None:
    masks = np.zeros((60, 24, 24), dtype=np.uint8)
    masks[:, 6:18, 6:18] = 1
    masks[:, :2] = 255
    rows = baseline_scores(masks, (12, 12), heads=4, seed=0)
    share = 144 / (22 * 24)
    assert set(rows) == {"random", "uniform", "centre", "all_on"}
    assert rows["all_on"].jaccard_best_head == pytest.approx(share)
    assert rows["all_on"].jaccard_fixed_head == pytest.approx(share)
    assert rows["all_on"].auroc == 0.5
    assert rows["all_on"].average_precision == pytest.approx(share)
    assert rows["random"].auroc == pytest.approx(0.5, abs=0.03)
    # About 60 % of the patches, whichever: hits 0.6 of the object, adds 0.6 of the rest.
    assert rows["random"].jaccard_fixed_head == pytest.approx(0.6 * share / (share + 0.6 * (1 - share)), abs=0.02)
    assert rows["random"].jaccard_best_head > (rows["random"].jaccard_fixed_head or 1.0)
    assert (rows["centre"].auroc or 0) > 0.9
    assert len(rows["centre"].head_auroc) == 4


def test_centre_baseline_is_a_gaussian_of_a_quarter_of_the_side() -> None:
    rng = np.random.default_rng(3)
    masks = rng.choice([0, 1], size=(3, 20, 30)).astype(np.uint8)
    grid = (4, 6)
    attention = np.empty(grid)
    for i, j in np.ndindex(*grid):
        attention[i, j] = math.exp(-(((i + 0.5 - 2) / (4 / 4)) ** 2 + ((j + 0.5 - 3) / (6 / 4)) ** 2) / 2)
    attention /= attention.sum()
    expected = np.mean([slow_scores(attention, mask) for mask in masks], axis=0)
    centre = baseline_scores(masks, grid, heads=1, seed=0)["centre"]
    assert (centre.jaccard_fixed_head, centre.auroc, centre.average_precision) == pytest.approx(tuple(expected))


def test_random_baseline_depends_on_its_seed_alone() -> None:
    masks = np.zeros((5, 8, 8), dtype=np.uint8)
    masks[:, :3] = 1
    one, same, other = (baseline_scores(masks, (8, 8), heads=2, seed=seed)["random"].auroc for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(
    ("similarity", "masks", "head", "message"),
    [
        (np.zeros((2, 4, 4)), np.zeros((2, 8, 8)), None, r"\(images, heads, rows, columns\)"),
        (np.full((2, 1, 4, 4), np.nan), np.zeros((2, 8, 8)), None, "not finite"),
        (np.zeros((2, 1, 4, 4)), np.zeros((3, 8, 8)), None, r"masks must have shape \(2, height, width\)"),
        (np.zeros((2, 1, 4, 4)), np.zeros((2, 8)), None, "masks must have shape"),
        (np.zeros((2, 1, 4, 4)), np.full((2, 8, 8), 2), None, "masks may hold 0"),
        (np.zeros((2, 1, 4, 4)), np.zeros((2, 8, 8)), 1, r"head must lie in 0\.\.0"),
    ],
)
def test_unusable_input_is_refused_by_name(similarity: Floats, masks: Masks, head: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        location_scores(similarity, masks, head=head)


def test_scoring_calls_no_more_functions_for_more_heads_and_pixels() -> None:
    """A loop over them would, and takes ten times as long on a test set."""

    def calls(heads: int, grid: int, side: int) -> int:
        rng = np.random.default_rng(4)
        attention = attention_from_similarity(rng.normal(size=(5, heads, grid, grid)))
        masks = rng.choice([0, 1, 255], size=(5, side, side)).astype(np.uint8)
        masks[:, 0, :2] = 0, 1
        seen: list[str] = []
        sys.setprofile(lambda frame, event, given: seen.append(event))
        try:
            attention_auroc(attention, masks)
        finally:
            sys.setprofile(None)
        return len(seen)

    assert calls(8, 12, 96) == calls(2, 6, 12)

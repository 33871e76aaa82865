"""Claims about the pointing game and the energy on the object, against restatements that go from pixel to pixel."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.data.decode.masks import draw_boxes
from pipeline.score.locate import baseline_scores, by_class, location_scores
from pipeline.score.maps import attention_from_similarity
from pipeline.score.overlap import attention_energy, cover, pointing_game

Floats = NDArray[np.float64]
Masks = NDArray[np.uint8]


def slow_pointing_and_energy(attention: Floats, mask: Masks) -> tuple[float, float]:
    """Both scores of one map (H, W) against one mask (h, w), pixel by pixel."""
    (h, w), (rows, columns) = mask.shape, attention.shape
    decided, objects = [], 0
    for i in range(h):
        for j in range(w):
            value = attention[math.floor((i + 0.5) * rows / h), math.floor((j + 0.5) * columns / w)]
            if mask[i, j] != 255:
                decided.append((value, mask[i, j] == 1))
                objects += int(mask[i, j] == 1)
    if not objects:
        return math.nan, math.nan
    largest = max(value for value, _ in decided)
    there = [inside for value, inside in decided if value == largest]
    total = sum(value for value, _ in decided)
    energy = sum(value for value, inside in decided if inside) / total if total else math.nan
    return sum(there) / len(there), energy


def random_case(seed: int) -> tuple[Floats, Masks]:
    """Attention (4, 2, H, W) and masks (4, h, w) of a random size, each with a nasty one of some kind."""
    rng = np.random.default_rng([11, seed])
    grid, size = rng.integers(1, 8, 2), rng.integers(1, 15, 2)
    similarity = rng.normal(scale=rng.choice([0.1, 1.0, 30.0]), size=(4, 2, *grid))
    if seed % 3 == 0:
        similarity = np.round(similarity)  # ties, also of the maximum
    if seed % 7 == 0:
        similarity[1] = 0.0
    masks = rng.choice([0, 1, 255], p=rng.dirichlet([1, 1, 1]), size=(4, *size)).astype(np.uint8)
    masks[0] = [255, 0, 1, 1][seed % 4]  # undecided only, no object, object everywhere
    if seed % 4 == 3:
        masks[0, : size[0] // 2] = 255
    return attention_from_similarity(similarity), masks


@pytest.mark.parametrize("first", range(0, 320, 40))
def test_both_scores_agree_with_the_restatement_on_random_input(first: int) -> None:
    for seed in range(first, first + 40):
        attention, masks = random_case(seed)
        slow = [
            [slow_pointing_and_energy(one, mask) for one in maps] for maps, mask in zip(attention, masks, strict=True)
        ]
        expected = np.array(slow)
        np.testing.assert_allclose(pointing_game(attention, masks), expected[..., 0], rtol=1e-12)
        np.testing.assert_allclose(attention_energy(attention, masks), expected[..., 1], rtol=1e-12)


def one(patches: list[list[float]], mask: list[list[int]]) -> tuple[float, float]:
    attention, masks = np.array([[patches]], dtype=np.float64), np.array([mask], dtype=np.uint8)
    return float(pointing_game(attention, masks)[0, 0]), float(attention_energy(attention, masks)[0, 0])


def test_scores_worked_by_hand() -> None:
    # The largest patch covers two object pixels and two others; of 0.1 + 0.2 + 0.3 + 0.4 in 4 pixels each, the object
    # has 2 pixels of 0.4 and one of 0.1.
    mask = [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
    assert one([[0.1, 0.2], [0.3, 0.4]], mask) == (pytest.approx(0.5), pytest.approx(0.9 / 4))


def test_tied_largest_patches_share_the_point() -> None:
    assert one([[0.4, 0.1], [0.1, 0.4]], [[1, 0], [0, 0]]) == (0.5, pytest.approx(0.4))
    assert one([[0.25, 0.25], [0.25, 0.25]], [[1, 0], [0, 0]]) == (0.25, 0.25)


def test_scores_in_boxes_worked_by_hand() -> None:
    similarity = np.log(np.array([[[[0.1, 0.2], [0.3, 0.4]]]]))
    # The right half, and the lower left patch's lower row of pixels, which a second box adds; their overlap counts once.
    mask = draw_boxes([(2, 0, 4, 4), (0, 3, 3, 4)], (4, 4), 4)
    assert not isinstance(mask, str)
    scores = location_scores(similarity, mask[None], head=0)
    assert scores.energy == pytest.approx(0.2 + 0.4 + 0.3 / 2)
    assert scores.pointing_game == 1.0


def test_scores_against_boxes_are_those_of_a_walk_over_the_pixels_in_them() -> None:
    for seed in range(40):
        rng = np.random.default_rng([13, seed])
        attention = attention_from_similarity(rng.normal(size=(1, 1, 3, 2)))
        corners = rng.integers(0, 8, (rng.integers(1, 4), 2))
        boxes = [(float(x), float(y), float(rng.integers(x, 8) + 1), float(rng.integers(y, 8) + 1)) for x, y in corners]
        mask = draw_boxes(boxes, (8, 8), 8)
        assert not isinstance(mask, str)
        pixels = [(i, j, attention[0, 0, math.floor((i + 0.5) * 3 / 8), math.floor((j + 0.5) * 2 / 8)]) for i in range(8) for j in range(8)]  # fmt: skip
        inside = [v for i, j, v in pixels if any(a <= j < c and b <= i < d for a, b, c, d in boxes)]
        largest = max(v for _, _, v in pixels)
        pointed = inside.count(largest) / sum(v == largest for _, _, v in pixels)
        share = sum(inside) / sum(v for _, _, v in pixels)
        assert attention_energy(attention, mask[None]).item() == pytest.approx(share)
        assert pointing_game(attention, mask[None]).item() == pytest.approx(pointed)


def test_undecided_pixels_are_neither_pointed_at_nor_counted() -> None:
    # The largest patch is undecided, so that the next one is pointed at.
    assert one([[0.7, 0.2], [0.05, 0.05]], [[255, 1], [0, 0]]) == (1.0, pytest.approx(0.2 / 0.3))


def test_attention_on_undecided_pixels_alone_has_no_energy_to_share() -> None:
    pointing, energy = one([[1.0, 0.0], [0.0, 0.0]], [[255, 1], [0, 0]])
    assert pointing == pytest.approx(1 / 3)
    assert math.isnan(energy)


def test_negative_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        attention_energy(np.full((1, 1, 2, 2), -0.1), np.ones((1, 2, 2)))


def test_counted_pixels_give_the_scores_of_their_masks() -> None:
    attention, masks = random_case(5)
    seen = cover(masks, (attention.shape[2], attention.shape[3]))
    np.testing.assert_array_equal(pointing_game(attention, seen), pointing_game(attention, masks))
    with pytest.raises(ValueError, match=r"masks must have shape \(3, height, width\)"):
        pointing_game(attention[:3], seen)


def test_location_scores_hold_the_fixed_head_and_the_best_of_each_image() -> None:
    rng = np.random.default_rng(3)
    similarity, masks = rng.normal(size=(6, 3, 4, 4)), rng.choice([0, 1], size=(6, 9, 9)).astype(np.uint8)
    masks[0] = 255
    attention = attention_from_similarity(similarity)
    scores = location_scores(similarity, masks, head=2)
    for values, best, fixed, heads in (
        (pointing_game(attention, masks)[1:], scores.pointing_game_best_head, scores.pointing_game, scores.head_pointing_game),
        (attention_energy(attention, masks)[1:], scores.energy_best_head, scores.energy, scores.head_energy),
    ):  # fmt: skip
        assert best == pytest.approx(values.max(axis=1).mean())
        assert fixed == pytest.approx(values[:, 2].mean())
        np.testing.assert_allclose(heads, values.mean(axis=0))
        assert best > (fixed or 1.0)
    free = location_scores(similarity, masks)
    assert free.pointing_game is free.energy is None
    assert set(free.per_image) == {"jaccard_best_head", "pointing_game_best_head", "energy_best_head"}


def test_means_by_class_are_those_over_its_scored_images() -> None:
    rng = np.random.default_rng(4)
    similarity, masks = rng.normal(size=(7, 2, 3, 3)), rng.choice([0, 1], size=(7, 6, 6)).astype(np.uint8)
    masks[[2, 5]] = 255
    labels = np.array([0, 0, 0, 2, 2, 3, 0])
    scores = location_scores(similarity, masks, head=1)
    means = by_class(scores, labels, 5)
    energy = attention_energy(attention_from_similarity(similarity), masks)[:, 1]
    np.testing.assert_allclose(
        means["energy"], [energy[[0, 1, 6]].mean(), math.nan, energy[[3, 4]].mean(), math.nan, math.nan]
    )
    best = location_scores(similarity[[3, 4]], masks[[3, 4]]).jaccard_best_head
    assert means["jaccard_best_head"][2] == pytest.approx(best)
    assert set(means) == set(scores.per_image)
    assert scores.per_image["auroc"].shape == (7,)


def test_uniform_attention_scores_the_share_of_the_object() -> None:
    masks = np.zeros((10, 24, 24), dtype=np.uint8)
    masks[:, 12:, 6:18] = 1
    masks[:, :2] = 255
    share = 144 / (22 * 24)
    rows = baseline_scores(masks, (12, 12), heads=3, seed=0)
    for name in ("uniform", "all_on"):
        found = rows[name]
        assert (found.pointing_game, found.energy, found.energy_best_head) == pytest.approx((share, share, share))
        assert found.auroc == 0.5
    # Of equal patches, the first 87 of 144 reach 60 %.
    kept = np.zeros(144, dtype=bool)
    kept[:87] = True
    pixels = np.kron(kept.reshape(12, 12), np.ones((2, 2), dtype=bool))
    truth, decided = masks[0] == 1, masks[0] != 255
    expected = (truth & pixels).sum() / ((truth | pixels) & decided).sum()
    assert rows["uniform"].jaccard_fixed_head == pytest.approx(expected)
    assert rows["random"].energy == pytest.approx(share, abs=0.01)
    # The four middle patches tie for the Gaussian's largest value, and half of their pixels lie on the object.
    assert rows["centre"].pointing_game == pytest.approx(0.5)

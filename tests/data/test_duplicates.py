"""Claims about copies: exact ones by content, near ones by hashes that differ in few bits, and all of them found."""

import io
import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.splits.duplicates import Duplicates, find_duplicates, near_pairs, perceptual_hashes

Images = NDArray[np.uint8]


def scenes(count: int, side: int = 64, channels: int = 3, seed: int = 0) -> Images:
    """Smooth random pictures, each unlike the others."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, channels)).astype(np.uint8)
    if channels == 1:
        return np.stack([np.asarray(Image.fromarray(c[..., 0]).resize((side, side)))[..., None] for c in coarse])
    return np.stack([np.asarray(Image.fromarray(c).resize((side, side))) for c in coarse])


def clusters(copies: Duplicates, count: int) -> list[list[int]]:
    """Rows that are copies of each other, two or more."""
    of = copies.clusters(count)
    return [rows for label in range(of.max() + 1) if len(rows := np.flatnonzero(of == label).tolist()) > 1]


def slow_clusters(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """Numbers of connected hashes, all compared with all."""
    of = np.arange(len(hashes))
    for one, other in itertools.combinations(range(len(hashes)), 2):
        if (int(hashes[one]) ^ int(hashes[other])).bit_count() <= distance:
            of[of == of[other]] = of[one]
    return of


def same_partition(one: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    return bool(((one[:, None] == one[None]) == (other[:, None] == other[None])).all())


@pytest.mark.parametrize("distance", [1, 2, 4, 7, 8])
def test_pairs_connect_what_comparing_all_with_all_connects(distance: int) -> None:
    for seed in range(60):
        rng = np.random.default_rng([14, seed])
        count = int(rng.integers(1, 40))
        hashes = rng.integers(0, 2**63, count).astype(np.uint64)
        for row in range(1, count):
            if rng.random() < 0.7:  # near, or equal to, an earlier one
                hashes[row] = hashes[rng.integers(0, row)]
                for bit in rng.choice(64, rng.integers(0, distance + 3), replace=False):
                    hashes[row] ^= np.uint64(1 << int(bit))
        pairs = near_pairs(hashes, distance)
        assert all((int(hashes[a]) ^ int(hashes[b])).bit_count() <= distance for a, b in pairs)
        assert (pairs[:, 0] < pairs[:, 1]).all()
        found = Duplicates(np.zeros((0, 2), dtype=np.int64), pairs).clusters(count)
        assert same_partition(found, slow_clusters(hashes, distance))


def test_no_hashes_have_no_pairs() -> None:
    assert near_pairs(np.zeros(0, dtype=np.uint64), 4).shape == (0, 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_exact_copies_are_found_at_any_size(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 5, 5, channels)).astype(np.uint8)
    images[[7, 12]] = images[3]
    images[19] = images[0]
    copies = find_duplicates(images, 4)
    assert copies.exact.tolist() == [[3, 7], [3, 12], [0, 19]]
    assert copies.near.shape == (0, 2)
    assert clusters(copies, 20) == [[0, 19], [3, 7, 12]]


def altered(image: Images, how: str) -> Images:
    picture = Image.fromarray(image)
    side = picture.size
    if how == "recompressed":
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=60)
        return np.asarray(Image.open(buffer))
    if how == "brighter":
        return np.asarray(picture.point(lambda value: min(255, value + 6)))
    if how == "rescaled":
        return np.asarray(picture.resize((40, 40)).resize(side))
    return np.asarray(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


@pytest.mark.parametrize(("how", "found"), [("recompressed", True), ("brighter", True), ("rescaled", True), ("mirrored", False)])  # fmt: skip
def test_near_copies_are_those_that_a_person_would_take_for_the_same(how: str, found: bool) -> None:
    images = scenes(60)
    images[59] = altered(images[0], how)
    copies = find_duplicates(images, 4)
    assert len(copies.exact) == 0
    assert clusters(copies, 60) == ([[0, 59]] if found else [])


def test_exact_copies_are_linked_with_near_ones_over_their_first_row() -> None:
    images = scenes(30, channels=1)
    images[20] = images[4]
    images[25] = images[4]
    images[25, 0, 0] += 1
    copies = find_duplicates(images, 4)
    assert copies.exact.tolist() == [[4, 20]]
    assert copies.near.tolist() == [[4, 25]]
    assert clusters(copies, 30) == [[4, 20, 25]]
    assert copies.clusters(30, near=False)[25] != copies.clusters(30, near=False)[4]


def test_near_copies_are_looked_for_from_32_pixels_on_and_not_at_distance_0() -> None:
    for side, distance, looked_for in ((32, 1, True), (31, 8, False), (32, 0, False)):
        images = scenes(2, side=side)
        images[1] = images[0]
        images[1, 0, 0, 0] ^= 1
        assert (len(find_duplicates(images, distance).near) == 1) == looked_for


def test_plain_pictures_are_not_near_copies_of_each_other() -> None:
    images = np.repeat(np.arange(10, dtype=np.uint8) * 20, 64 * 64).reshape(10, 64, 64, 1)
    images[:, 0, 0] += 5
    assert len(find_duplicates(images, 4).near) == 0
    images[:, ::2] += 30  # stripes, which are structure
    assert clusters(find_duplicates(images, 4), 10) == [list(range(10))]


def test_large_pictures_have_the_hash_of_their_smaller_selves() -> None:
    small = scenes(8, side=64, channels=1)
    large = small.repeat(4, axis=1).repeat(4, axis=2)
    rows = np.arange(8)
    np.testing.assert_array_equal(perceptual_hashes(large, rows)[0], perceptual_hashes(small, rows)[0])

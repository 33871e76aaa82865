"""Finds pictures that are in a set more than once: identical, or so similar that a person hardly sees a difference.

Copies are searched in the prepared arrays, since they are the input of the network. Near copies have
perceptual hashes (the `phash` of imagehash: 64 signs of low frequencies) that differ in few bits. This finds
scaled, recompressed and slightly recoloured copies, but not mirrored, turned or cropped ones.
"""

import hashlib
from dataclasses import dataclass

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.prepared.encoded import ImageRows
from pipeline.data.splits.assignment import component_numbers

BITS = 64
"""Bits of a perceptual hash."""
SMALLEST_SIDE = 32
"""Smallest side in pixels for which perceptual hashes are meaningful: imagehash reduces pictures to this size."""
PLAIN = 8
"""A picture whose grey levels differ by no more than this has too little structure for a hash."""
_REDUCED = 64
"""Side in pixels to which large pictures are about reduced before hashing."""

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Duplicates:
    """Pairs of rows that are copies of each other, (P, 2) int64 each, the smaller row first.

    Attributes:
        exact: Enough pairs to connect all rows of the same content.
        near: Enough pairs to connect all rows whose hashes are within the given distance, directly or through
            other rows. No exact pair is among them.
    """

    exact: Ids
    near: Ids

    def clusters(self, count: int, *, near: bool = True) -> Ids:
        """Returns a number for every row, (count,), which is the same for rows that are connected.

        Args:
            count: Number of rows.
            near: Whether near copies count, too.
        """
        pairs = np.concatenate([self.exact, self.near]) if near else self.exact
        return component_numbers(pairs[:, 0], pairs[:, 1], count)


def find_duplicates(images: ImageRows, distance: int) -> Duplicates:
    """Returns the copies among images.

    Pictures smaller than `SMALLEST_SIDE` are only compared exactly, since pictures of few pixels are always
    similar.

    Args:
        images: (N, H, W, C) uint8.
        distance: Bits, of 64, in which the hashes of near copies may differ; 0: exact copies only.
    """
    exact = _exact(images)
    if not can_be_near(images, distance):
        return Duplicates(exact, np.zeros((0, 2), dtype=np.int64))
    # Hashing is slow, and one row of each content is enough.
    rows = np.setdiff1d(np.arange(len(images)), exact[:, 1])
    hashes, known = perceptual_hashes(images, rows)
    return Duplicates(exact, rows[known][near_pairs(hashes[known], distance)])


def can_be_near(images: ImageRows, distance: int) -> bool:
    """Returns whether near copies are searched among these images at this distance.

    Args:
        images: (N, H, W, C) uint8.
        distance: Bits in which the hashes of near copies may differ.
    """
    return distance > 0 and min(images.shape[1:3]) >= SMALLEST_SIDE


def _exact(images: ImageRows) -> Ids:
    """Returns pairs of the first row with some content and each later row with the same content, (P, 2)."""
    first: dict[bytes, int] = {}
    pairs = []
    for row in range(len(images)):
        digest = hashlib.blake2b(np.ascontiguousarray(images[row]).data, digest_size=16).digest()
        if first.setdefault(digest, row) != row:
            pairs.append((first[digest], row))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def perceptual_hashes(images: ImageRows, rows: Ids) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Returns perceptual hashes of images.

    Args:
        images: (N, H, W, C) uint8.
        rows: Rows to hash, (n,).

    Returns:
        Hashes (n,) uint64, and which of them are valid (n,) bool: plain pictures have no hash.
    """
    bits, known = np.zeros((len(rows), BITS), dtype=np.bool_), np.zeros(len(rows), dtype=np.bool_)
    for index, row in enumerate(rows):
        image = images[row]
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("L")
        low, high = np.asarray(picture.getextrema(), dtype=np.float64)
        known[index] = high - low > PLAIN
        if known[index]:
            # phash reduces pictures itself, but slowly if they are large.
            factor = min(picture.size) // _REDUCED
            hashed = imagehash.phash(picture.reduce(factor) if factor > 1 else picture)
            bits[index] = hashed.hash.ravel()
    return np.packbits(bits, axis=1).view(np.uint64).ravel(), known


def near_pairs(hashes: NDArray[np.uint64], distance: int) -> Ids:
    """Returns pairs (P, 2) of indices that connect all hashes which differ in at most `distance` bits.

    The bits are divided into distance + 1 bands. Two hashes that differ in at most `distance` bits are equal
    in at least one whole band. So only hashes with an equal band are compared, and not all pairs.

    Args:
        hashes: (n,).
        distance: Largest number of bits in which two hashes may differ.
    """
    codes, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    found = [_repeats(first, inverse)]
    for band in range(distance + 1):
        # A band takes every (distance + 1)-th bit. Neighbouring bits are equal in many pictures, so a band of such
        # bits would have many equal hashes.
        chosen = sum(1 << bit for bit in range(band, BITS, distance + 1))
        keys = codes & np.uint64(chosen)
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.r_[True, keys[order][1:] != keys[order][:-1]])
        ends = np.repeat(np.r_[starts[1:], len(order)], np.diff(np.r_[starts, len(order)]))
        left, step = np.arange(len(order)), 1
        while len(left := left[left + step < ends[left]]):
            one, other = order[left], order[left + step]
            close = np.bitwise_count(codes[one] ^ codes[other]) <= distance
            found.append(np.stack([first[one[close]], first[other[close]]], axis=1))
            step += 1
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _repeats(first: Ids, inverse: Ids) -> Ids:
    """Returns pairs (P, 2) of the first index with some hash and each later index with the same hash."""
    rows = np.arange(len(inverse))
    again = rows[first[inverse] != rows]
    return np.stack([first[inverse[again]], again], axis=1)

"""Pictures that are in a set more than once: byte for byte, or so much alike that hardly a person would tell.

Copies are found on the prepared arrays, since that is what a network sees. Near copies have perceptual hashes (the
`phash` of imagehash: 64 signs of low frequencies) that differ in few bits. Scaled, recompressed and slightly recoloured
copies have; mirrored, turned and cropped ones do not.
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
SMALLEST_SIDE = 32
"""Side in pixels from which perceptual hashes say something; it is what they shrink pictures to."""
PLAIN = 8
"""A picture whose grey levels differ by no more than this has no structure to hash."""
_REDUCED = 64

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Duplicates:
    """Pairs of rows that are copies of each other, (P, 2) int64 each, the smaller row first.

    exact: enough pairs to connect all rows of the same content. near: enough to connect the rows whose hashes are no
    further apart than was asked, directly or over others; none of the exact ones.
    """

    exact: Ids
    near: Ids

    def clusters(self, count: int, *, near: bool = True) -> Ids:
        """A number (count,) for every row, the same for those that are connected."""
        pairs = np.concatenate([self.exact, self.near]) if near else self.exact
        return component_numbers(pairs[:, 0], pairs[:, 1], count)


def find_duplicates(images: ImageRows, distance: int) -> Duplicates:
    """Copies among images (N, H, W, C) uint8.

    distance: bits, of 64, in which the hashes of near copies may differ; 0: exact copies alone. Pictures smaller than
    `SMALLEST_SIDE` are compared exactly alone: that little is alike by nature.
    """
    exact = _exact(images)
    if not can_be_near(images, distance):
        return Duplicates(exact, np.zeros((0, 2), dtype=np.int64))
    # One row of each content is enough, and the fewer are hashed the better.
    rows = np.setdiff1d(np.arange(len(images)), exact[:, 1])
    hashes, known = perceptual_hashes(images, rows)
    return Duplicates(exact, rows[known][near_pairs(hashes[known], distance)])


def can_be_near(images: ImageRows, distance: int) -> bool:
    """Whether near copies among images (N, H, W, C) are looked for at this distance."""
    return distance > 0 and min(images.shape[1:3]) >= SMALLEST_SIDE


def _exact(images: ImageRows) -> Ids:
    """Pairs of the first row of a content and each further one."""
    first: dict[bytes, int] = {}
    pairs = []
    for row in range(len(images)):
        digest = hashlib.blake2b(np.ascontiguousarray(images[row]).data, digest_size=16).digest()
        if first.setdefault(digest, row) != row:
            pairs.append((first[digest], row))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def perceptual_hashes(images: ImageRows, rows: Ids) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Hashes (n,) uint64 of the images at rows (n,), and which of them (n,) bool have structure enough for one."""
    bits, known = np.zeros((len(rows), BITS), dtype=np.bool_), np.zeros(len(rows), dtype=np.bool_)
    for index, row in enumerate(rows):
        image = images[row]
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("L")
        low, high = np.asarray(picture.getextrema(), dtype=np.float64)
        known[index] = high - low > PLAIN
        if known[index]:
            # phash shrinks by itself, but takes long over large pictures.
            factor = min(picture.size) // _REDUCED
            hashed = imagehash.phash(picture.reduce(factor) if factor > 1 else picture)
            bits[index] = hashed.hash.ravel()
    return np.packbits(bits, axis=1).view(np.uint64).ravel(), known


def near_pairs(hashes: NDArray[np.uint64], distance: int) -> Ids:
    """Pairs (P, 2) of indices that connect all hashes (n,) that differ in at most `distance` bits.

    The bits are dealt out to distance + 1 bands. Hashes that differ in no more bits than that agree in a whole band, so
    that only those that do have to be compared, and not all with all.
    """
    codes, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    found = [_repeats(first, inverse)]
    for band in range(distance + 1):
        # Every (distance + 1)-th bit: neighbouring bits are alike in many pictures, and would make crowded bands.
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
    rows = np.arange(len(inverse))
    again = rows[first[inverse] != rows]
    return np.stack([first[inverse[again]], again], axis=1)

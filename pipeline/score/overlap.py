"""Scores of attention against masks, for each image and head: overlap, ranking, pointing, energy.

A mask has 0 for background, 1 for the object and 255 for undecided. Undecided pixels are left out of every
score. Every pixel takes the attention of the nearest patch: pixel i of h lies in patch floor((i + 0.5) * H /
h), and h need not be a multiple of H. So all scores follow from the numbers of object and background pixels
of each patch, and no score is computed at pixel resolution.

Shapes: B images, A attention heads, H x W patches, h x w pixels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.score.maps import top_mass

OBJECT, BACKGROUND, UNDECIDED = 1, 0, 255

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Coverage:
    """Numbers of pixels of every patch, shaped to broadcast over heads.

    Attributes:
        inside: Object pixels, (B, 1, H * W).
        outside: Background pixels, (B, 1, H * W).
    """

    inside: Floats
    outside: Floats


def cover(masks: ArrayLike, grid: tuple[int, int]) -> Coverage:
    """Counts the pixels of masks by patches.

    Counting takes longer than scoring. So a caller that computes several scores counts once, and passes the
    result in place of the masks.

    Args:
        masks: Masks, (B, h, w).
        grid: (H, W).

    Raises:
        ValueError: If the masks have another shape or other values.
    """
    labels = np.asarray(masks)
    if labels.ndim != 3:
        raise ValueError(f"masks must have shape (images, height, width), got {labels.shape}")
    if not np.isin(labels, (BACKGROUND, OBJECT, UNDECIDED)).all():
        kinds = f"{BACKGROUND} (background), {OBJECT} (object) and {UNDECIDED} (undecided)"
        raise ValueError(f"masks may hold {kinds} only")
    rows, columns = (
        (_patch_of_pixel(pixels, side) == np.arange(side)[:, None]).astype(np.float64)
        for pixels, side in zip(labels.shape[1:], grid, strict=True)
    )
    counts: Floats = np.empty((2, len(labels), 1, rows.shape[0] * columns.shape[0]))
    # Image by image, because all masks of a test set in floating point would take eight times their memory.
    for image, mask in enumerate(labels):
        for kind, out in ((OBJECT, counts[0, image]), (BACKGROUND, counts[1, image])):
            out[0] = (rows @ (mask == kind) @ columns.T).ravel()
    return Coverage(counts[0], counts[1])


def attention_jaccard(attention: ArrayLike, masks: ArrayLike | Coverage, *, mass: float = 0.6) -> Floats:
    """Returns the intersection over union of the kept patches and the object, (B, A).

    NaN for an image whose mask has no object pixel.

    Args:
        attention: Attention, (B, A, H, W).
        masks: Masks (B, h, w), or their `Coverage`.
        mass: Share of the attention that the kept patches hold.
    """
    values, seen = _flat(attention, masks)
    keep = top_mass(values[..., None, :], mass)[..., 0, :]
    hit = (keep * seen.inside).sum(axis=-1)
    union = seen.inside.sum(axis=-1) + (keep * seen.outside).sum(axis=-1)
    return _divided(hit, union, where=seen.inside.sum(axis=-1) > 0)


def attention_auroc(attention: ArrayLike, masks: ArrayLike | Coverage) -> Floats:
    """Returns the area under the ROC curve of attention as a score of "object", (B, A).

    It is the probability that a random object pixel gets more attention than a random background pixel, ties
    counting half. NaN for an image whose decided pixels are all of one kind.

    Args:
        attention: Attention, (B, A, H, W).
        masks: Masks (B, h, w), or their `Coverage`.
    """
    ranked, inside, outside = _ranked(attention, masks)
    first, last = _tie_ends(ranked)
    seen = np.cumsum(outside, axis=-1)
    # In descending order, pixels up to the end of a patch's tie group are not below it; those in the group count half.
    up_to = np.take_along_axis(seen, last, axis=-1)
    ahead = np.take_along_axis(seen - outside, first, axis=-1)
    total_in, total_out = inside.sum(axis=-1), outside.sum(axis=-1)
    wins = (inside * (total_out[..., None] - 0.5 * (ahead + up_to))).sum(axis=-1)
    pairs = total_in * total_out
    return _divided(wins, pairs, where=pairs > 0)


def attention_average_precision(attention: ArrayLike, masks: ArrayLike | Coverage) -> Floats:
    """Returns the average precision of attention as a score of "object", (B, A).

    It is the sum over thresholds of precision times the gain in recall, without interpolation. Equal values
    of attention share one threshold. NaN for an image whose decided pixels are all of one kind.

    Args:
        attention: Attention, (B, A, H, W).
        masks: Masks (B, h, w), or their `Coverage`.
    """
    ranked, inside, outside = _ranked(attention, masks)
    _, last = _tie_ends(ranked)
    hits = np.take_along_axis(np.cumsum(inside, axis=-1), last, axis=-1)
    taken = hits + np.take_along_axis(np.cumsum(outside, axis=-1), last, axis=-1)
    # Patches without a decided pixel may come first; they gain no recall, so their precision counts nothing.
    precision = np.nan_to_num(_divided(hits, taken, where=taken > 0))
    total = inside.sum(axis=-1)
    both = (total > 0) & (outside.sum(axis=-1) > 0)
    return _divided((inside * precision).sum(axis=-1), total, where=both)


def pointing_game(attention: ArrayLike, masks: ArrayLike | Coverage) -> Floats:
    """Returns the probability that a pixel with the largest attention lies on the object, (B, A).

    The pointing game (Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016) tests
    whether the largest value lies on the object. All pixels of a patch share their value, and patches may
    tie, so there is no single largest pixel. The result is therefore the object's share of the decided pixels
    with the largest value, which is the expectation for one of them at random. No tolerance is added around
    the object. NaN for an image without an object pixel.

    Args:
        attention: Attention, (B, A, H, W).
        masks: Masks (B, h, w), or their `Coverage`.
    """
    values, seen = _flat(attention, masks)
    decided = seen.inside + seen.outside
    largest = np.where(decided > 0, values, -np.inf).max(axis=-1, keepdims=True)
    at_largest = values == largest
    total = (at_largest * decided).sum(axis=-1)
    return _divided((at_largest * seen.inside).sum(axis=-1), total, where=seen.inside.sum(axis=-1) > 0)


def attention_energy(attention: ArrayLike, masks: ArrayLike | Coverage) -> Floats:
    """Returns the share of the attention that lies on the object, (B, A).

    This is the energy-based pointing game (Wang et al., Score-CAM, CVPR Workshops 2020): the sum over the
    object's pixels (in the paper, over its boxes) divided by the sum over all decided pixels. NaN for an
    image without an object pixel, or with all attention on undecided pixels.

    Args:
        attention: Attention, (B, A, H, W), not negative.
        masks: Masks (B, h, w), or their `Coverage`.

    Raises:
        ValueError: If any attention is negative.
    """
    values, seen = _flat(attention, masks)
    if values.size and values.min() < 0:
        raise ValueError("attention must not be negative")
    on_object = (values * seen.inside).sum(axis=-1)
    total = on_object + (values * seen.outside).sum(axis=-1)
    return _divided(on_object, total, where=(seen.inside.sum(axis=-1) > 0) & (total > 0))


def mean_over_images(values: Floats) -> Floats:
    """Returns the mean over images, (B, A) -> (A,), without NaN; NaN if no image is left."""
    held = ~np.isnan(values)
    count = held.sum(axis=0)
    return _divided(np.where(held, values, 0.0).sum(axis=0), count, where=count > 0)


def _divided(above: NDArray[Any], below: NDArray[Any], *, where: NDArray[np.bool_]) -> Floats:
    """Divides where `where` is true, and returns NaN elsewhere without a warning.

    Args:
        above: Numerator.
        below: Denominator.
        where: Places of the result that are computed.
    """
    out: Floats = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    np.divide(above, below, out=out, where=where)
    return out


def _patch_of_pixel(pixels: int, side: int) -> NDArray[np.int64]:
    """Returns the patch of each pixel along one side, (pixels,)."""
    # In integers, since (i + 0.5) * side / pixels may round to just below a whole number.
    patches: NDArray[np.int64] = (2 * np.arange(pixels) + 1) * side // (2 * pixels)
    return patches


def _flat(attention: ArrayLike, masks: ArrayLike | Coverage) -> tuple[Floats, Coverage]:
    """Returns attention (B, A, H * W), and the pixels of its patches.

    Raises:
        ValueError: If the number of masks differs from that of the images.
    """
    values = np.asarray(attention, dtype=np.float64)
    seen = masks if isinstance(masks, Coverage) else cover(masks, (values.shape[-2], values.shape[-1]))
    if len(seen.inside) != len(values):
        raise ValueError(f"masks must have shape ({len(values)}, height, width), got {len(seen.inside)} of them")
    return values.reshape(*values.shape[:2], -1), seen


def _ranked(attention: ArrayLike, masks: ArrayLike | Coverage) -> tuple[Floats, Floats, Floats]:
    """Returns attention in descending order, and the object and background pixels of its patches.

    All three have the shape (B, A, H * W).
    """
    flat, seen = _flat(attention, masks)
    order = np.argsort(-flat, axis=-1)
    inside, outside = (
        np.take_along_axis(np.broadcast_to(part, flat.shape), order, axis=-1) for part in (seen.inside, seen.outside)
    )
    return np.take_along_axis(flat, order, axis=-1), inside, outside


def _tie_ends(ranked: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns, for every place of a sorted last axis, the first and the last place with the same value."""
    places = np.arange(ranked.shape[-1])
    change = ranked[..., 1:] != ranked[..., :-1]
    edge = np.ones((*ranked.shape[:-1], 1), dtype=bool)
    starts = np.concatenate([edge, change], axis=-1)
    ends = np.concatenate([change, edge], axis=-1)
    first = np.maximum.accumulate(np.where(starts, places, 0), axis=-1)
    backwards = np.where(ends, places, ranked.shape[-1] - 1)[..., ::-1]
    return first, np.minimum.accumulate(backwards, axis=-1)[..., ::-1]

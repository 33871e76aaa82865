"""Attention against masks: does the CLS token look at the object?

The protocol is the usual one for VOC (keep the patches with the top 60 % of the attention's mass, compare them with the
mask), with two additions. Its best-head Jaccard index mostly measures how peaked the attention is, so every result
comes with threshold-free ranking scores of a head that was picked on other data, and with baselines that look at no
image.

A mask holds 0 for background, 1 for the object and 255 for undecided; undecided pixels are left out of everything.
Every pixel takes the attention of the nearest patch (pixel i of h lies in patch floor((i + 0.5) * H / h), and h need
not be a multiple of H), so all scores follow from how many object and background pixels each patch covers, and nothing
is ever computed at pixel resolution.

Shape letters: B images, A attention heads, H x W patches, h x w pixels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

OBJECT, BACKGROUND, UNDECIDED = 1, 0, 255

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LocationScores:
    """Means over images of what attention says about where the object is. All values lie in 0..1; NaN: none to score.

    `jaccard_best_head` takes each image's best head, which favours many heads. `jaccard_fixed_head`, `auroc` and
    `average_precision` are those of `head`, and None where no head was given. `head_*` (A,) hold every head.

    `images` were scored and `left_out` were not: their mask has no object pixel. `ranked` of the scored images have
    background pixels too, without which nothing can be ranked; the ranking scores are means over those.
    """

    jaccard_best_head: float
    jaccard_fixed_head: float | None
    auroc: float | None
    average_precision: float | None
    head: int | None
    head_jaccard: Floats
    head_auroc: Floats
    head_average_precision: Floats
    images: int
    left_out: int
    ranked: int


def location_scores(
    similarity: ArrayLike, masks: ArrayLike, *, head: int | None = None, mass: float = 0.6
) -> LocationScores:
    """Score similarity maps (B, A, H, W) of one block, before softmax, against masks (B, h, w).

    `head` is the one reported beside the best; pick it with `pick_head` on validation data, never on the data scored
    here. Raises ValueError for shapes that do not fit, maps that are not finite, unknown mask values and unknown heads.
    """
    return _score(attention_from_similarity(similarity), masks, head=head, mass=mass)


def pick_head(similarity: ArrayLike, masks: ArrayLike) -> int:
    """Return the head with the highest mean AUROC. Raises ValueError if no mask holds both object and background."""
    means = _mean(attention_auroc(attention_from_similarity(similarity), masks))
    if np.isnan(means).all():
        raise ValueError("no head can be picked: no mask holds both object and background pixels")
    return int(np.nanargmax(means))


def can_be_ranked(masks: ArrayLike) -> bool:
    """Whether any mask (B, h, w) holds both object and background, without which no score of attention is defined."""
    masks = np.asarray(masks)
    return bool(((masks == 1).any(axis=(1, 2)) & (masks == 0).any(axis=(1, 2))).any())


def trivial_baselines(
    masks: ArrayLike, grid: tuple[int, int], *, heads: int, seed: int, mass: float = 0.6
) -> dict[str, LocationScores]:
    """Score three kinds of attention that never look at the image, on `grid` (H, W) with `heads` heads.

    random   nearly equal mass everywhere, in random order (standard normal logits times 0.01, other ones for each image
             and head): keeps about `mass` of the patches at random
    centre   a Gaussian around the middle of the image, with a standard deviation of a quarter of the side in either
             direction
    all_on   every patch kept: the Jaccard index is the object's share of the decided pixels, AUROC is 0.5, average
             precision that share again

    The fixed head is head 0, since none is better than another beforehand.
    """
    masks = np.asarray(masks)
    shape = (len(masks), heads, *grid)
    random = 0.01 * np.random.default_rng(seed).standard_normal(shape)
    # Distance from the middle in standard deviations; from whole numbers, so that mirrored patches tie exactly.
    down, across = ((2 * np.arange(side) + 1 - side) / (0.5 * side) for side in grid)
    centre = -0.5 * (down[:, None] ** 2 + across[None, :] ** 2)
    return {
        "random": location_scores(random, masks, head=0, mass=mass),
        "centre": location_scores(np.broadcast_to(centre, shape), masks, head=0, mass=mass),
        "all_on": location_scores(np.zeros(shape), masks, head=0, mass=1.0),
    }


def attention_from_similarity(similarity: ArrayLike) -> Floats:
    """Softmax over the patches of each map: (B, A, H, W) to the same shape, each map summing to 1.

    The CLS token's attention to itself is not among the logits, so this is the attention renormalised without it.
    Raises ValueError for any other number of dimensions and for values that are not finite.
    """
    logits = np.asarray(similarity, dtype=np.float64)
    if logits.ndim != 4 or 0 in logits.shape[1:]:
        raise ValueError(f"similarity maps must have shape (images, heads, rows, columns), got {logits.shape}")
    if not np.isfinite(logits).all():
        raise ValueError("similarity maps hold values that are not finite: the network diverged")
    weight = np.exp(logits - logits.max(axis=(2, 3), keepdims=True))
    attention: Floats = weight / weight.sum(axis=(2, 3), keepdims=True)
    return attention


def top_mass(attention: ArrayLike, mass: float = 0.6) -> NDArray[np.bool_]:
    """Mark the fewest patches that together hold `mass` of each map's attention (..., H, W), largest first.

    The patch that crosses `mass` is kept. Among equal patches the earlier one in reading order comes first. Raises
    ValueError for a mass outside (0, 1].
    """
    if not 0 < mass <= 1:
        raise ValueError(f"mass must lie above 0 and not above 1, got {mass}")
    values = np.asarray(attention, dtype=np.float64)
    flat = values.reshape(*values.shape[:-2], -1)
    order = np.argsort(-flat, axis=-1, kind="stable")
    ranked = np.take_along_axis(flat, order, axis=-1)
    before = np.cumsum(ranked, axis=-1) - ranked
    # Without the tolerance the rounding of a sum decides whether a mass met exactly is met.
    keep_ranked = before < mass * ranked.sum(axis=-1, keepdims=True) - 1e-9
    keep = np.empty_like(keep_ranked)
    np.put_along_axis(keep, order, keep_ranked, axis=-1)
    kept: NDArray[np.bool_] = keep.reshape(values.shape)
    return kept


def attention_jaccard(attention: ArrayLike, masks: ArrayLike, *, mass: float = 0.6) -> Floats:
    """Intersection over union of the kept patches and the object: (B, A, H, W) against (B, h, w) gives (B, A).

    NaN for an image whose mask has no object pixel.
    """
    values = np.asarray(attention, dtype=np.float64)
    inside, outside = _pixels_by_patch(masks, values.shape)
    keep = top_mass(values, mass).reshape(*values.shape[:2], -1)
    hit = (keep * inside).sum(axis=-1)
    union = inside.sum(axis=-1) + (keep * outside).sum(axis=-1)
    return _divided(hit, union, where=inside.sum(axis=-1) > 0)


def attention_auroc(attention: ArrayLike, masks: ArrayLike) -> Floats:
    """Chance that a random object pixel gets more attention than a random background pixel, ties counting half.

    (B, A, H, W) against (B, h, w) gives (B, A): the area under the ROC curve of attention as a score of "object". NaN
    for an image whose decided pixels are all of one kind.
    """
    ranked, inside, outside = _ranked(attention, masks)
    first, last = _tie_ends(ranked)
    seen = np.cumsum(outside, axis=-1)
    # Descending order: what was seen up to the end of the own tie group is not below, what is inside it counts half.
    up_to = np.take_along_axis(seen, last, axis=-1)
    ahead = np.take_along_axis(seen - outside, first, axis=-1)
    total_in, total_out = inside.sum(axis=-1), outside.sum(axis=-1)
    wins = (inside * (total_out[..., None] - 0.5 * (ahead + up_to))).sum(axis=-1)
    pairs = total_in * total_out
    return _divided(wins, pairs, where=pairs > 0)


def attention_average_precision(attention: ArrayLike, masks: ArrayLike) -> Floats:
    """Average precision of attention as a score of "object": (B, A, H, W) against (B, h, w) gives (B, A).

    The sum over thresholds of precision times the gain in recall, without interpolation; equal attention shares one
    threshold. NaN for an image whose decided pixels are all of one kind.
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


def _score(attention: Floats, masks: ArrayLike, *, head: int | None, mass: float) -> LocationScores:
    if head is not None and not 0 <= head < attention.shape[1]:
        raise ValueError(f"head must lie in 0..{attention.shape[1] - 1}, got {head}")
    jaccard = attention_jaccard(attention, masks, mass=mass)
    auroc = attention_auroc(attention, masks)
    by_head = [_mean(jaccard), _mean(auroc), _mean(attention_average_precision(attention, masks))]
    fixed = [None if head is None else float(means[head]) for means in by_head]
    scored = ~np.isnan(jaccard[:, 0])
    return LocationScores(
        jaccard_best_head=float(_mean(jaccard.max(axis=1, keepdims=True))[0]),
        jaccard_fixed_head=fixed[0],
        auroc=fixed[1],
        average_precision=fixed[2],
        head=head,
        head_jaccard=by_head[0],
        head_auroc=by_head[1],
        head_average_precision=by_head[2],
        images=int(scored.sum()),
        left_out=int((~scored).sum()),
        ranked=int((~np.isnan(auroc[:, 0])).sum()),
    )


def _mean(values: Floats) -> Floats:
    """Mean over images (B, A) -> (A,), leaving out NaN images; NaN, without a warning, if none is left."""
    held = ~np.isnan(values)
    count = held.sum(axis=0)
    return _divided(np.where(held, values, 0.0).sum(axis=0), count, where=count > 0)


def _divided(above: NDArray[Any], below: NDArray[Any], *, where: NDArray[np.bool_]) -> Floats:
    """Divide where `where` holds, and give NaN elsewhere without a warning."""
    out: Floats = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    np.divide(above, below, out=out, where=where)
    return out


def _patch_of_pixel(pixels: int, side: int) -> NDArray[np.int64]:
    # In integers, because (i + 0.5) * side / pixels may round to just below a whole number.
    patches: NDArray[np.int64] = (2 * np.arange(pixels) + 1) * side // (2 * pixels)
    return patches


def _pixels_by_patch(masks: ArrayLike, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Count object and background pixels of every patch: two arrays (B, 1, H * W), to broadcast over heads."""
    labels = np.asarray(masks)
    if labels.ndim != 3 or len(labels) != shape[0]:
        raise ValueError(f"masks must have shape ({shape[0]}, height, width), got {labels.shape}")
    if not np.isin(labels, (BACKGROUND, OBJECT, UNDECIDED)).all():
        kinds = f"{BACKGROUND} (background), {OBJECT} (object) and {UNDECIDED} (undecided)"
        raise ValueError(f"masks may hold {kinds} only")
    rows, columns = (
        (_patch_of_pixel(pixels, side) == np.arange(side)[:, None]).astype(np.float64)
        for pixels, side in zip(labels.shape[1:], shape[-2:], strict=True)
    )
    counts: Floats = np.empty((2, len(labels), 1, rows.shape[0] * columns.shape[0]))
    # Image by image, because the masks of a whole test set in floating point take eight times their room.
    for image, mask in enumerate(labels):
        for kind, out in ((OBJECT, counts[0, image]), (BACKGROUND, counts[1, image])):
            out[0] = (rows @ (mask == kind) @ columns.T).ravel()
    return counts[0], counts[1]


def _ranked(attention: ArrayLike, masks: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Attention in descending order with the object and background pixels of each patch: three arrays (B, A, H * W)."""
    values = np.asarray(attention, dtype=np.float64)
    inside, outside = _pixels_by_patch(masks, values.shape)
    flat = values.reshape(*values.shape[:2], -1)
    order = np.argsort(-flat, axis=-1)
    inside, outside = (
        np.take_along_axis(np.broadcast_to(part, flat.shape), order, axis=-1) for part in (inside, outside)
    )
    return np.take_along_axis(flat, order, axis=-1), inside, outside


def _tie_ends(ranked: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For every place of a sorted last axis, the first and the last place that hold the same value."""
    places = np.arange(ranked.shape[-1])
    change = ranked[..., 1:] != ranked[..., :-1]
    edge = np.ones((*ranked.shape[:-1], 1), dtype=bool)
    starts = np.concatenate([edge, change], axis=-1)
    ends = np.concatenate([change, edge], axis=-1)
    first = np.maximum.accumulate(np.where(starts, places, 0), axis=-1)
    backwards = np.where(ends, places, ranked.shape[-1] - 1)[..., ::-1]
    return first, np.minimum.accumulate(backwards, axis=-1)[..., ::-1]

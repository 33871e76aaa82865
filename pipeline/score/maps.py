"""Attention from similarity maps, the patches that hold most of it, and maps that do not depend on the image.

Shapes: B images, A attention heads, H x W patches.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def attention_from_similarity(similarity: ArrayLike) -> Floats:
    """Applies softmax over the patches of each map, so that each map sums to 1.

    The CLS token's attention to itself is not among the logits, so this is the attention renormalised without
    it.

    Args:
        similarity: Similarity maps, (B, A, H, W).

    Raises:
        ValueError: If there are not four dimensions, or a value is not finite.
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
    """Marks the fewest patches that together hold `mass` of each map's attention, largest first.

    The patch that crosses `mass` is kept. Among equal patches, the earlier one in reading order comes first.

    Args:
        attention: Attention, (..., H, W).
        mass: Share of each map's sum, in (0, 1].

    Raises:
        ValueError: If `mass` is outside (0, 1].
    """
    if not 0 < mass <= 1:
        raise ValueError(f"mass must lie above 0 and not above 1, got {mass}")
    values = np.asarray(attention, dtype=np.float64)
    flat = values.reshape(*values.shape[:-2], -1)
    order = np.argsort(-flat, axis=-1, kind="stable")
    ranked = np.take_along_axis(flat, order, axis=-1)
    before = np.cumsum(ranked, axis=-1) - ranked
    # Without the tolerance, rounding would decide whether a mass that is met exactly counts as met.
    keep_ranked = before < mass * ranked.sum(axis=-1, keepdims=True) - 1e-9
    keep = np.empty_like(keep_ranked)
    np.put_along_axis(keep, order, keep_ranked, axis=-1)
    kept: NDArray[np.bool_] = keep.reshape(values.shape)
    return kept


def trivial_maps(
    images: int, heads: int, grid: tuple[int, int], *, seed: int
) -> dict[str, tuple[Floats, float | None]]:
    """Returns similarity maps (images, heads, H, W) that do not depend on the images, by the baseline's name.

    random   nearly equal mass everywhere, in random order (standard normal logits times 0.01, sampled for each image
             and head). About the usual mass of the patches is kept, at random
    uniform  equal mass everywhere. Equal patches are kept in reading order, so the top of the image is kept
    centre   a Gaussian around the middle of the image, with a standard deviation of a quarter of the side in either
             direction
    all_on   equal mass everywhere, and every patch is kept

    Args:
        images: Number of images.
        heads: Number of heads.
        grid: (H, W).
        seed: Seed of the random maps.

    Returns:
        For each baseline its maps, and the mass to keep; None: the usual mass.
    """
    shape = (images, heads, *grid)
    random = 0.01 * np.random.default_rng(seed).standard_normal(shape)
    # Distance from the middle in standard deviations, from whole numbers, so that mirrored patches tie exactly.
    down, across = ((2 * np.arange(side) + 1 - side) / (0.5 * side) for side in grid)
    centre = -0.5 * (down[:, None] ** 2 + across[None, :] ** 2)
    return {
        "random": (random, None),
        "uniform": (np.zeros(shape), None),
        "centre": (np.broadcast_to(centre, shape), None),
        "all_on": (np.zeros(shape), 1.0),
    }

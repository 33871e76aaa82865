"""Scores of attention against masks: whether the CLS token attends to the object.

The protocol is the usual one for VOC: keep the patches with the top 60 % of the attention's mass, and compare
them with the mask. Its best-head Jaccard index mostly measures how peaked the attention is. So every result
has two additions. One is the scores of a head that was picked on other data: rankings without a threshold,
the pointing game, and the share of the attention that lies on the object. The other is baselines that do not
depend on the image. `pipeline.score.overlap` has the scores of an image.

Shapes: B images, A attention heads, H x W patches, h x w pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.score.maps import Floats, attention_from_similarity, trivial_maps
from pipeline.score.overlap import (
    Coverage,
    attention_auroc,
    attention_average_precision,
    attention_energy,
    attention_jaccard,
    cover,
    mean_over_images,
    pointing_game,
)

OF_HEAD = {"jaccard": "jaccard_fixed_head"} | {
    name: name for name in ("auroc", "average_precision", "pointing_game", "energy")
}
"""Scores, and the field of each for one head, which is None if no head is given; `head_*` is that of every head."""
OF_BEST = ("jaccard", "pointing_game", "energy")
"""Scores of which the best head is reported too."""


@dataclass(frozen=True)
class LocationScores:
    """Means over images of the scores of attention against masks.

    All values lie in 0 .. 1; NaN means that no image could be scored. Scores `*_best_head` take each image's
    best head, which favours networks with many heads.

    Attributes:
        jaccard_best_head: Jaccard index of each image's best head.
        jaccard_fixed_head: Jaccard index of `head`; None without a head.
        auroc: AUROC of `head`; None without a head.
        average_precision: Average precision of `head`; None without a head.
        pointing_game_best_head: Pointing game of each image's best head.
        pointing_game: Pointing game of `head`; None without a head.
        energy_best_head: Energy of each image's best head.
        energy: Energy of `head`; None without a head.
        head: The fixed head, picked on other data; None if none was given.
        head_jaccard: Jaccard index of every head, (A,).
        head_auroc: AUROC of every head, (A,).
        head_average_precision: Average precision of every head, (A,).
        head_pointing_game: Pointing game of every head, (A,).
        head_energy: Energy of every head, (A,).
        images: Number of scored images.
        left_out: Number of images without an object pixel, which are not scored.
        ranked: Number of scored images that have background pixels too. `auroc` and `average_precision` are
            means over those.
        per_image: Values behind the means, (B,), by the names of the fields; NaN for an image without a
            value.
    """

    jaccard_best_head: float
    jaccard_fixed_head: float | None
    auroc: float | None
    average_precision: float | None
    pointing_game_best_head: float
    pointing_game: float | None
    energy_best_head: float
    energy: float | None
    head: int | None
    head_jaccard: Floats
    head_auroc: Floats
    head_average_precision: Floats
    head_pointing_game: Floats
    head_energy: Floats
    images: int
    left_out: int
    ranked: int
    per_image: Mapping[str, Floats]


def location_scores(
    similarity: ArrayLike, masks: ArrayLike | Coverage, *, head: int | None = None, mass: float = 0.6
) -> LocationScores:
    """Scores similarity maps of one block against masks.

    Args:
        similarity: Similarity maps before softmax, (B, A, H, W).
        masks: Masks (B, h, w) of 0 (background), 1 (object) and 255 (undecided), or their `Coverage`.
        head: Head that is reported beside the best one; None: no such head. Pick it with `pick_head` on
            validation data, never on the data scored here.
        mass: Share of the attention that the kept patches hold, for the Jaccard index.

    Raises:
        ValueError: If the shapes do not fit, a map is not finite, a mask has other values, or the head does
            not exist.
    """
    attention = attention_from_similarity(similarity)
    if head is not None and not 0 <= head < attention.shape[1]:
        raise ValueError(f"head must lie in 0..{attention.shape[1] - 1}, got {head}")
    _, _, rows, columns = attention.shape
    seen = masks if isinstance(masks, Coverage) else cover(masks, (rows, columns))
    scores = {
        "jaccard": attention_jaccard(attention, seen, mass=mass),
        "auroc": attention_auroc(attention, seen),
        "average_precision": attention_average_precision(attention, seen),
        "pointing_game": pointing_game(attention, seen),
        "energy": attention_energy(attention, seen),
    }
    per_image = {f"{name}_best_head": scores[name].max(axis=1) for name in OF_BEST}
    if head is not None:
        per_image |= {field: scores[name][:, head] for name, field in OF_HEAD.items()}
    of_heads = {name: mean_over_images(values) for name, values in scores.items()}
    scored = ~np.isnan(scores["jaccard"][:, 0])
    return _summarise(
        per_image,
        of_heads,
        head=head,
        images=int(scored.sum()),
        left_out=int((~scored).sum()),
        ranked=int((~np.isnan(scores["auroc"][:, 0])).sum()),
    )


def join_scores(parts: Sequence[LocationScores], order: NDArray[np.int64]) -> LocationScores:
    """Joins the scores of images that were tested by several networks, each with its own head, as in folds.

    Args:
        parts: Scores of each network.
        order: Permutation (n,) of the images of all parts, one part after the other.

    Returns:
        Scores over all images; `head` is None and the values of every head are empty.
    """
    names = parts[0].per_image
    per_image = {name: np.concatenate([part.per_image[name] for part in parts])[order] for name in names}
    return _summarise(
        per_image,
        dict.fromkeys(OF_HEAD, np.zeros(0)),
        head=None,
        images=sum(part.images for part in parts),
        left_out=sum(part.left_out for part in parts),
        ranked=sum(part.ranked for part in parts),
    )


def _summarise(per_image: Mapping[str, Floats], of_heads: Mapping[str, Floats], **rest: int | None) -> LocationScores:
    """Builds the scores from the values of images, of which it takes the means.

    Args:
        per_image: Values (B,) by the fields of their means.
        of_heads: Means of every head, by score.
        **rest: The other fields.
    """
    means = {name: float(mean_over_images(values[:, None])[0]) for name, values in per_image.items()}
    if (head := rest["head"]) is not None:
        means |= {field: float(of_heads[name][head]) for name, field in OF_HEAD.items()}
    heads = {f"head_{name}": values for name, values in of_heads.items()}
    fields: dict[str, Any] = dict.fromkeys(OF_HEAD.values()) | means | heads | rest
    return LocationScores(**fields, per_image=per_image)


def pick_head(similarity: ArrayLike, masks: ArrayLike) -> int:
    """Returns the head with the highest mean AUROC.

    Args:
        similarity: Similarity maps before softmax, (B, A, H, W).
        masks: Masks, (B, h, w).

    Raises:
        ValueError: If no mask has both object and background pixels.
    """
    means = mean_over_images(attention_auroc(attention_from_similarity(similarity), masks))
    if np.isnan(means).all():
        raise ValueError("no head can be picked: no mask holds both object and background pixels")
    return int(np.nanargmax(means))


def can_be_ranked(masks: ArrayLike) -> bool:
    """Returns whether any mask has both object and background pixels; else no score of attention is defined.

    Args:
        masks: Masks, (B, h, w).
    """
    return count_rankable(masks) > 0


def count_rankable(masks: ArrayLike) -> int:
    """Returns the number of masks with both object and background pixels.

    Args:
        masks: Masks, (B, h, w).
    """
    masks = np.asarray(masks)
    return int(((masks == 1).any(axis=(1, 2)) & (masks == 0).any(axis=(1, 2))).sum())


def baseline_scores(
    masks: ArrayLike, grid: tuple[int, int], *, heads: int, seed: int, mass: float = 0.6
) -> dict[str, LocationScores]:
    """Scores the attention of each baseline of `trivial_maps` against masks.

    Uniform attention scores the object's share of the decided pixels in the pointing game and in energy, and
    0.5 in AUROC. With every patch on, that share is its Jaccard index too. The fixed head is head 0, since no
    head is better than another in advance.

    Args:
        masks: Masks, (B, h, w).
        grid: (H, W).
        heads: Number of heads, A.
        seed: Seed of the random maps.
        mass: Share of the attention that the kept patches hold, unless the baseline has its own.

    Returns:
        Scores by the baseline's name.
    """
    seen = cover(masks, grid)
    maps = trivial_maps(len(seen.inside), heads, grid, seed=seed)
    return {
        name: location_scores(similarity, seen, head=0, mass=mass if kept is None else kept)
        for name, (similarity, kept) in maps.items()
    }


def by_class(scores: LocationScores, labels: NDArray[np.int64], classes: int) -> dict[str, Floats]:
    """Averages scores over each class's images.

    The mean over classes of `pointing_game` is the figure that its authors report.

    Args:
        scores: Scores of B images.
        labels: Classes of the images, (B,).
        classes: Number of classes.

    Returns:
        Means (classes,) by the field's name; NaN for a class without images.
    """
    means = {}
    for name, values in scores.per_image.items():
        held = ~np.isnan(values)
        count = np.bincount(labels[held], minlength=classes)
        total = np.bincount(labels[held], weights=values[held], minlength=classes)
        means[name] = np.divide(total, count, out=np.full(classes, np.nan), where=count > 0)
    return means

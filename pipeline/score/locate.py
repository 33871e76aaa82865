"""Attention against masks: does the CLS token look at the object?

The protocol is the usual one for VOC (keep the patches with the top 60 % of the attention's mass, compare them with the
mask), with two additions. Its best-head Jaccard index mostly measures how peaked the attention is, so every result
comes with scores of a head that was picked on other data (rankings without a threshold, the pointing game, the share of
the attention that lies on the object), and with baselines that look at no image. `pipeline.score.overlap` has the
scores of an image.

Shape letters: B images, A attention heads, H x W patches, h x w pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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

OF_HEAD = ("jaccard_fixed_head", "auroc", "average_precision", "pointing_game", "energy")
"""Scores of one head, which are None where none is given."""


@dataclass(frozen=True)
class LocationScores:
    """Means over images of what attention says about where the object is. All values lie in 0..1; NaN: none to score.

    `*_best_head` take each image's best head, which favours many heads. `jaccard_fixed_head`, `auroc`,
    `average_precision`, `pointing_game` and `energy` are those of `head`, and None where no head was given. `head_*`
    (A,) hold every head. `per_image` has the values (B,) behind the means, by the names of the fields, NaN where an
    image has none.

    `images` were scored and `left_out` were not: their mask has no object pixel. `ranked` of the scored images have
    background pixels too, without which nothing can be ranked; `auroc` and `average_precision` are means over those.
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
    """Score similarity maps (B, A, H, W) of one block, before softmax, against masks (B, h, w).

    `head` is the one reported beside the best; pick it with `pick_head` on validation data, never on the data scored
    here. Raises ValueError for shapes that do not fit, maps that are not finite, unknown mask values and unknown heads.
    """
    attention = attention_from_similarity(similarity)
    if head is not None and not 0 <= head < attention.shape[1]:
        raise ValueError(f"head must lie in 0..{attention.shape[1] - 1}, got {head}")
    _, _, rows, columns = attention.shape
    seen = masks if isinstance(masks, Coverage) else cover(masks, (rows, columns))
    jaccard = attention_jaccard(attention, seen, mass=mass)
    auroc = attention_auroc(attention, seen)
    precision = attention_average_precision(attention, seen)
    pointing, energy = pointing_game(attention, seen), attention_energy(attention, seen)
    best = {"jaccard": jaccard, "pointing_game": pointing, "energy": energy}
    of_head = {
        "jaccard_fixed_head": jaccard,
        "auroc": auroc,
        "average_precision": precision,
        "pointing_game": pointing,
        "energy": energy,
    }
    per_image = {f"{name}_best_head": values.max(axis=1) for name, values in best.items()}
    means = {name: float(mean_over_images(values[:, None])[0]) for name, values in per_image.items()}
    fixed: dict[str, float | None] = dict.fromkeys(of_head)
    if head is not None:
        per_image |= {name: values[:, head] for name, values in of_head.items()}
        fixed = {name: float(mean_over_images(values)[head]) for name, values in of_head.items()}
    scored = ~np.isnan(jaccard[:, 0])
    return LocationScores(
        jaccard_best_head=means["jaccard_best_head"],
        pointing_game_best_head=means["pointing_game_best_head"],
        energy_best_head=means["energy_best_head"],
        **fixed,
        head=head,
        head_jaccard=mean_over_images(jaccard),
        head_auroc=mean_over_images(auroc),
        head_average_precision=mean_over_images(precision),
        head_pointing_game=mean_over_images(pointing),
        head_energy=mean_over_images(energy),
        images=int(scored.sum()),
        left_out=int((~scored).sum()),
        ranked=int((~np.isnan(auroc[:, 0])).sum()),
        per_image=per_image,
    )


def join_scores(parts: Sequence[LocationScores], order: NDArray[np.int64]) -> LocationScores:
    """The scores of images that several networks were tested on, each on its own: of folds, with their own heads.

    order: places (n,) in which the images of all parts, one part after the other, are to stand. No head is theirs all.
    """
    names = parts[0].per_image
    per_image = {name: np.concatenate([part.per_image[name] for part in parts])[order] for name in names}
    fixed: dict[str, float | None] = dict.fromkeys(OF_HEAD)
    means = {name: float(mean_over_images(values[:, None])[0]) for name, values in per_image.items()}
    none = np.zeros(0)
    return LocationScores(
        **(fixed | means),  # type: ignore[arg-type]
        head=None,
        head_jaccard=none,
        head_auroc=none,
        head_average_precision=none,
        head_pointing_game=none,
        head_energy=none,
        images=sum(part.images for part in parts),
        left_out=sum(part.left_out for part in parts),
        ranked=sum(part.ranked for part in parts),
        per_image=per_image,
    )


def pick_head(similarity: ArrayLike, masks: ArrayLike) -> int:
    """Return the head with the highest mean AUROC. Raises ValueError if no mask holds both object and background."""
    means = mean_over_images(attention_auroc(attention_from_similarity(similarity), masks))
    if np.isnan(means).all():
        raise ValueError("no head can be picked: no mask holds both object and background pixels")
    return int(np.nanargmax(means))


def can_be_ranked(masks: ArrayLike) -> bool:
    """Whether any mask (B, h, w) holds both object and background, without which no score of attention is defined."""
    return count_rankable(masks) > 0


def count_rankable(masks: ArrayLike) -> int:
    """How many masks (B, h, w) hold both object and background."""
    masks = np.asarray(masks)
    return int(((masks == 1).any(axis=(1, 2)) & (masks == 0).any(axis=(1, 2))).sum())


def baseline_scores(
    masks: ArrayLike, grid: tuple[int, int], *, heads: int, seed: int, mass: float = 0.6
) -> dict[str, LocationScores]:
    """Score the kinds of attention of `trivial_maps`, on `grid` (H, W) with `heads` heads, against masks (B, h, w).

    Uniform attention scores the object's share of the decided pixels in the pointing game and in energy, 0.5 in AUROC;
    with every patch on, that share is its Jaccard index too. The fixed head is head 0, since none is better than
    another beforehand.
    """
    seen = cover(masks, grid)
    maps = trivial_maps(len(seen.inside), heads, grid, seed=seed)
    return {
        name: location_scores(similarity, seen, head=0, mass=mass if kept is None else kept)
        for name, (similarity, kept) in maps.items()
    }


def by_class(scores: LocationScores, labels: NDArray[np.int64], classes: int) -> dict[str, Floats]:
    """Means of `scores` over each class's images: (classes,) by the field's name, NaN without images.

    labels: (B,), the images' classes. The mean over classes of `pointing_game` is what its authors report.
    """
    means = {}
    for name, values in scores.per_image.items():
        held = ~np.isnan(values)
        count = np.bincount(labels[held], minlength=classes)
        total = np.bincount(labels[held], weights=values[held], minlength=classes)
        means[name] = np.divide(total, count, out=np.full(classes, np.nan), where=count > 0)
    return means

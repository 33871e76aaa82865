"""Statistics beside the endpoints: families of comparisons, and descriptions that decide nothing.

The endpoints are those of `pipeline.score.endpoints`. Other comparisons that are made together, such as one
for every class or one for every method, are a family. Their p-values are corrected by Holm (1979). Their
intervals are Bonferroni's: the stated confidence is that of all intervals together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import ArrayLike, NDArray

from pipeline.score.comparison import Comparison, at_confidence, compare_arms, p_value
from pipeline.score.fold_variance import has_single_image

RESAMPLES = 4000

_FEW = 2
"""Fewest images of a comparison."""


@dataclass(frozen=True)
class Member:
    """One comparison of a family.

    Attributes:
        name: Name within the family.
        comparison: The comparison, whose interval has the family's confidence.
        p: Its own p-value; None if there is no interval, and `comparison.note` then gives the reason.
        p_holm: The p-value corrected for the family; None likewise.
    """

    name: str
    comparison: Comparison
    p: float | None
    p_holm: float | None


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two fixed networks on the same images.

    It is about these two networks, not about two configurations.

    Attributes:
        only_first: Images that only the first network got right.
        only_second: Images that only the second network got right.
        p: p-value of the exact test that both counts come from a fair coin.
    """

    only_first: int
    only_second: int
    p: float


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Corrects p-values by Holm's step-down rule.

    The k-th smallest of m p-values is multiplied by m - k + 1, then made not smaller than the one before, and
    at most 1.

    Args:
        values: p-values. None stands for a comparison that could not be made: it stays None and is not
            counted in m.
    """
    given = sorted((value, place) for place, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (value, place) in enumerate(given):
        highest = max(highest, min(1.0, value * (len(given) - rank)))
        corrected[place] = highest
    return corrected


def compare_family(
    arms: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    confidence: float = 0.95,
    shared_seeds: bool | Mapping[str, bool] = True,
    folds: Mapping[str, NDArray[np.int64] | None] | None = None,
    compare: Callable[..., Comparison] = compare_arms,
) -> list[Member]:
    """Compares pairs of tables as one family.

    Args:
        arms: Tables (best, control), as `compare` takes them, by the pair's name.
        confidence: Confidence of all intervals together.
        shared_seeds: Whether row s of both tables is the same seed, for all pairs or by the pair's name.
        folds: Number of each image's fold, (N,), by the pair's name; None without folds.
        compare: Function that compares one pair: `compare_arms` for shares, `compare_scores` for other
            values.

    Raises:
        ValueError: As `compare`.
    """
    plain = {
        name: compare(
            *tables,
            confidence=confidence,
            shared_seeds=shared_seeds if isinstance(shared_seeds, bool) else shared_seeds[name],
            folds=None if folds is None else folds[name],
        )
        for name, tables in arms.items()
    }
    return correct_family(plain, confidence=confidence)


def correct_family(comparisons: Mapping[str, Comparison], *, confidence: float = 0.95) -> list[Member]:
    """Corrects comparisons that were made one by one for their number.

    Args:
        comparisons: Comparisons by name.
        confidence: Confidence of all intervals together.
    """
    values = [p_value(comparison) for comparison in comparisons.values()]
    counted = sum(value is not None for value in values)
    # Bonferroni: each interval may miss with an equal share of the probability of all together.
    each = 1 - (1 - confidence) / max(1, counted)
    return [
        Member(name, at_confidence(comparison, each), value, corrected)
        for (name, comparison), value, corrected in zip(comparisons.items(), values, holm(values), strict=True)
    ]


def compare_classes(
    best: ArrayLike,
    control: ArrayLike,
    labels: NDArray[np.int64],
    classes: int,
    *,
    confidence: float = 0.95,
    shared_seeds: bool = True,
    folds: NDArray[np.int64] | None = None,
) -> list[Member | None]:
    """Compares two arms on each class's images, as one family.

    Args:
        best: Table of 0/1 of the best arm, (S, N).
        control: Table of 0/1 of the control, (S2, N).
        labels: Classes of the images, (N,).
        classes: Number of classes.
        confidence: Confidence of all intervals together.
        shared_seeds: Whether row s of both tables is the same seed.
        folds: Number of each image's fold, (N,); None without folds.

    Returns:
        A member for each class; None for a class with fewer than two images in all, or with one image in a
        fold.
    """
    first, second = np.asarray(best), np.asarray(control)
    members = {str(label): labels == label for label in range(classes)}
    members = {
        name: chosen
        for name, chosen in members.items()
        if chosen.sum() >= _FEW and (folds is None or not has_single_image(folds[chosen]))
    }
    family = compare_family(
        {name: (first[:, chosen], second[:, chosen]) for name, chosen in members.items()},
        confidence=confidence,
        shared_seeds=shared_seeds,
        folds=None if folds is None else {name: folds[chosen] for name, chosen in members.items()},
    )
    by_name = {member.name: member for member in family}
    return [by_name.get(str(label)) for label in range(classes)]


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Compares the images that two networks got right.

    Args:
        first: Whether the first network got each image right, (N,).
        second: The same for the second network, (N,).

    Raises:
        ValueError: If the shapes differ or are not (N,).
    """
    one, other = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.ndim != 1 or one.shape != other.shape:
        raise ValueError(f"both must have the shape (images,), got {one.shape} and {other.shape}")
    only_first, only_second = int((one & ~other).sum()), int((other & ~one).sum())
    differing = only_first + only_second
    p = float(scipy.stats.binomtest(only_first, differing).pvalue) if differing else 1.0
    return McNemar(only_first, only_second, p)


def two_way_bootstrap(
    best: ArrayLike,
    control: ArrayLike,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
    shared_seeds: bool = True,
) -> tuple[float, float] | None:
    """Returns bootstrap quantiles of the difference of two arms, resampling seeds and images.

    Seeds are resampled once for both arms if the arms share them. The interval has the same purpose as that
    of `pipeline.score.comparison`, but is too narrow with three to ten seeds. Resampling S values gives (S -
    1)/S of the variance of their mean, and the quantiles ignore the uncertainty of a variance from S values.

    Args:
        best: Table of the best arm, (S, N).
        control: Table of the control, (S2, N).
        confidence: Share of the resamples between the quantiles.
        seed: Seed of the resampling.
        resamples: Number of resamples.
        shared_seeds: Whether row s of both tables is the same seed.

    Returns:
        Lower and upper quantile; None with one seed in an arm.
    """
    first, second = np.asarray(best, dtype=np.float64), np.asarray(control, dtype=np.float64)
    if min(len(first), len(second)) < 2:
        return None
    rng = np.random.default_rng(seed)
    found = np.empty(resamples)
    images = first.shape[1]
    tables = (first - second,) if shared_seeds and len(first) == len(second) else (first, -second)
    for turn in range(resamples):
        # Weights instead of copies of the tables: the mean over sampled seeds, then over sampled images.
        gains = sum(
            np.bincount(rng.integers(len(table), size=len(table)), minlength=len(table)) @ table / len(table)
            for table in tables
        )
        drawn = rng.integers(images, size=images)
        found[turn] = np.asarray(gains)[drawn].mean()
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)

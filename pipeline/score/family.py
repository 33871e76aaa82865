"""What stands beside the endpoints: families of comparisons, and descriptions that decide nothing.

The endpoints are those of `pipeline.score.endpoints`. Other comparisons that are made together, such as one for every
class or one for every method, are a family: their p-values are Holm's (1979) and their intervals Bonferroni's, which
hold all together with the stated confidence.
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
"""Images of which a comparison needs at least so many."""


@dataclass(frozen=True)
class Member:
    """One comparison of a family. None where there is no interval; `comparison.note` then says why.

    comparison: its interval has the family's confidence, not its own. p: its own; p_holm: corrected for the family.
    """

    name: str
    comparison: Comparison
    p: float | None
    p_holm: float | None


@dataclass(frozen=True)
class McNemar:
    """Two fixed networks on the same images: how many only the first got right, how many only the second.

    p: of the exact test that both counts come from a fair coin. It speaks of these two networks, not of two
    configurations.
    """

    only_first: int
    only_second: int
    p: float


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction: the k-th smallest of m p-values times m - k + 1, never falling, at most 1.

    None, for a comparison that could not be made, stays None and is not counted.
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
    """Compare each pair of (best, control) tables, as `compare_arms` takes them, as one family.

    shared_seeds: whether row s of both is the same seed, of all pairs or by the pair's name. folds: the number of each
    image's fold, by the pair's name; None without folds. compare: `compare_scores` for tables of other values than
    shares. Raises ValueError as `compare` does.
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
    """Correct comparisons that were made one by one for their number; `confidence` is that of all together."""
    values = [p_value(comparison) for comparison in comparisons.values()]
    counted = sum(value is not None for value in values)
    # Bonferroni: each interval may miss with a share of what all together may.
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
    """Compare two arms, (S, N) tables of 0/1, on each class's images, as one family; None for a class of under two, or
    of one in a fold.

    shared_seeds: whether row s of both is the same seed. folds: (N,), the number of each image's fold; None without.
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
    """Compare what two networks got right, (N,) each. Raises ValueError for other shapes."""
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
    """Quantiles of the difference over seeds resampled, once for both arms where they share them, and images.

    It is the idea of the interval of `pipeline.score.comparison`, and too narrow with three to ten seeds: resampling S
    values gives (S - 1)/S of the variance of their mean, and quantiles of the resamples know nothing of how uncertain a
    variance from S values is. None with one seed in an arm.
    """
    first, second = np.asarray(best, dtype=np.float64), np.asarray(control, dtype=np.float64)
    if min(len(first), len(second)) < 2:
        return None
    rng = np.random.default_rng(seed)
    found = np.empty(resamples)
    images = first.shape[1]
    tables = (first - second,) if shared_seeds and len(first) == len(second) else (first, -second)
    for turn in range(resamples):
        # Weights instead of copies of the tables: the mean over drawn seeds, then over drawn images.
        gains = sum(
            np.bincount(rng.integers(len(table), size=len(table)), minlength=len(table)) @ table / len(table)
            for table in tables
        )
        drawn = rng.integers(images, size=images)
        found[turn] = np.asarray(gains)[drawn].mean()
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)

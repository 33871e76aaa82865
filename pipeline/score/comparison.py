"""Comparison of two arms: the difference of their mean scores, with an interval over seeds and images.

An arm is one configuration, retrained with several seeds and tested on the same images as the other arm.
Compared are the two arms' means over seeds and images of one score, such as 1 for an image that a network got
right. The interval covers both sources of chance: training (another seed gives another network) and the test
set (other images give another mean). A comparison of one network of each arm, over images alone, ignores the
first. It calls 8 to 41 % of equal arms different.

Both arms are trained with the same seeds, so with the same initial weights and the same batches, and both are
tested on the same images. So one table D[s, i] = best - control of S seeds and N images contains all
information. Effects that a seed or an image has on both arms alike cancel. In a layout of crossed random
effects the variance of its mean is

    V_seeds  = var_s(D[s, .]) / S                            on S - 1 degrees of freedom
    V_images = max(0, var_i(D[., i]) / N  -  MS / (S N))     on N - 1 degrees of freedom
    V        = V_seeds + V_images

where MS is the mean square of the residual of D after its row and column means. Both other terms contain MS /
(S N) once, hence the subtraction. The degrees of freedom are Satterthwaite's (1946), V^2 / sum(V_k^2 / df_k),
and the interval is difference +- t * sqrt(V). It is never narrower than the interval of the images alone, on
N - 1 degrees of freedom,

    difference +- t * sqrt(var_i(D[., i]) / N)

since a few seeds that agree by luck do not make the test set larger.

Arms with different seeds are independent given the images (`layout` is "independent"). V_seeds and MS / (S N)
are then sums over the arms, each from the arm's own table, on its own S - 1 degrees of freedom.

If fewer than ten images distinguish the arms (D[., i] is not 0), their variance says little about images that
were not sampled, and nothing if there are none. For tables of right and wrong, half an image on which one arm
alone is right with every seed is then added in each direction. Agresti and Min (Statistics in Medicine 24,
2005, 729-740) add half a discordant pair to either cell of a 2 x 2 table in the same way:

    var_i(D[., i]) / N  ->  (sum D^2 + 1 - (sum D)^2 / (N + 2)) / (N + 2)^2

unless that is the smaller one. Half an image with one seed alone would be narrower, and would cover too
little where images are very unequally hard. docs/benchmarks/verdicts.md reports how often the intervals
cover, and where they do not.

Images tested in folds, each by networks of its own, have this layout within every fold
(`pipeline.score.fold_variance`). Without folds, all images form one fold.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped, unused-ignore]

from pipeline.score.fold_variance import (
    Folds,
    check_fold_numbers,
    count_folds,
    images_variance,
    interaction_variance,
    seeds_variance,
)

Floats = NDArray[np.float64]

USELESS_WIDTH = 0.5
"""Width of an interval of a share, from which on it is of no use if it also exceeds what is possible."""

POWER = 0.8
"""Power of every forecast: the probability with which a difference is found."""

PAIRED, INDEPENDENT = "paired", "independent"

FEW_DISCORDANT = 10
"""Number of images that distinguish the arms, below which half an image is added in each direction."""

# A standard error below this is rounding: a share of one image in a thousand million.
_NOTHING = 1e-9


@dataclass(frozen=True)
class Comparison:
    """Comparison of two arms, in the score's own unit; accuracies are fractions of 1.

    Attributes:
        difference: Mean of the best arm minus that of the control.
        low: Lower end of the interval; None if there is no interval, and `note` then gives the reason.
        high: Upper end of the interval; None if there is no interval.
        confidence: Confidence of the interval.
        best_mean: Mean of the best arm over seeds and images.
        best_sd: Standard deviation over its seeds; None with one seed.
        control_mean: Mean of the control over seeds and images.
        control_sd: Standard deviation over its seeds; None with one seed.
        seeds: Number of seeds of (best, control).
        images: Number of images.
        layout: "paired" if seed s of both arms is the same seed, else "independent".
        standard_error: Standard error over seeds and images; None if there is no interval.
        degrees_of_freedom: Degrees of freedom of `standard_error`.
        images_error: Standard error over images alone, on `images` - `folds` degrees of freedom. The wider of
            the two intervals is the interval.
        detectable_difference: Smallest true difference that an experiment with this noise shows, its interval
            excluding 0, with probability 0.8.
        note: Why there is no interval, or what to check about the arms; None if there is nothing to say.
        folds: Number of folds; 1 without folds.
    """

    difference: float
    low: float | None
    high: float | None
    confidence: float
    best_mean: float
    best_sd: float | None
    control_mean: float
    control_sd: float | None
    seeds: tuple[int, int]
    images: int
    layout: str
    standard_error: float | None
    degrees_of_freedom: float | None
    images_error: float | None
    detectable_difference: float | None
    note: str | None
    folds: int = 1


def compare_arms(
    best: ArrayLike,
    control: ArrayLike,
    *,
    confidence: float = 0.95,
    shared_seeds: bool = True,
    folds: ArrayLike | None = None,
) -> Comparison:
    """Compares two arms by shares, such as 1 where a seed's network got an image right.

    The module's docstring has the formulas.

    Args:
        best: Shares of the best arm, (S, N).
        control: Shares of the control, (S2, N).
        confidence: Confidence of the interval, in (0, 1).
        shared_seeds: Whether row s of both tables is the same seed. Arms with different numbers of seeds
            share none.
        folds: Number of each image's fold, (N,), if every fold has networks of its own in each row; None
            without folds.

    Raises:
        ValueError: If the shapes are wrong, there are fewer than two images in all or in a fold, a value is
            outside 0 .. 1, or the confidence is outside (0, 1).
    """
    for name, arm in (("best", best), ("control", control)):
        table = _checked(name, arm)
        if not ((table >= 0) & (table <= 1)).all():
            raise ValueError(f"{name} must hold 0 (wrong) to 1 (right) only")
    return compare_scores(best, control, confidence=confidence, shared_seeds=shared_seeds, folds=folds)


def compare_scores(
    best: ArrayLike,
    control: ArrayLike,
    *,
    confidence: float = 0.95,
    shared_seeds: bool = True,
    folds: ArrayLike | None = None,
) -> Comparison:
    """Compares two arms by any score of each image, such as its log loss.

    Args:
        best: Scores of the best arm, (S, N).
        control: Scores of the control, (S2, N).
        confidence: Confidence of the interval, in (0, 1).
        shared_seeds: Whether row s of both tables is the same seed. Arms with different numbers of seeds
            share none.
        folds: Number of each image's fold, (N,), if every fold has networks of its own in each row; None
            without folds.

    Raises:
        ValueError: As `compare_arms`, but values need only be finite.
    """
    first, second = _checked("best", best), _checked("control", control)
    for name, table in (("best", first), ("control", second)):
        if not np.isfinite(table).all():
            raise ValueError(f"{name} must hold finite numbers only")
    images = first.shape[1]
    if images != second.shape[1]:
        raise ValueError(f"both arms must be tested on the same images, got {images} and {second.shape[1]}")
    paired = shared_seeds and len(first) == len(second)
    numbers = check_fold_numbers(folds, images)
    error, freedom, of_images = _uncertainty(first, second, paired, numbers)
    note = _note(first, second, error, paired)
    found = replace(
        _without_interval(first, second, images, note, confidence, shared_seeds),
        standard_error=error,
        degrees_of_freedom=freedom,
        images_error=of_images,
        folds=count_folds(numbers),
    )
    return at_confidence(found, confidence)


def compare_values(
    best: ArrayLike, control: ArrayLike, *, images: int, note: str, confidence: float = 0.95, shared_seeds: bool = True
) -> Comparison:
    """Compares two arms by one value per seed, without an interval.

    Args:
        best: Values of the best arm, (S,).
        control: Values of the control, (S2,).
        images: Number of images behind each value.
        note: Why there is no interval.
        confidence: Confidence that is recorded.
        shared_seeds: Whether value s of both arms is from the same seed.
    """
    first, second = (np.asarray(arm, dtype=np.float64)[:, None] for arm in (best, control))
    return _without_interval(first, second, images, note, confidence, shared_seeds)


def at_confidence(comparison: Comparison, confidence: float) -> Comparison:
    """Returns the comparison with interval and detectable difference at another confidence.

    Args:
        comparison: The comparison. One without an interval stays without.
        confidence: In (0, 1).

    Raises:
        ValueError: If the confidence is outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    candidates = _candidates(comparison)
    if not candidates:
        return replace(comparison, confidence=confidence)
    halves = [t_quantile((1 + confidence) / 2, freedom) * error for error, freedom in candidates]
    half = max(halves)
    error, freedom = candidates[halves.index(half)]
    return replace(
        comparison,
        confidence=confidence,
        low=comparison.difference - half,
        high=comparison.difference + half,
        # A difference is found if estimate - half > 0. The estimate scatters around the truth by the same error and t.
        detectable_difference=half + t_quantile(POWER, freedom) * error,
    )


def clip_to_possible(comparison: Comparison) -> Comparison:
    """Returns the comparison of two shares of 1, its interval clipped if seeds are too few for a useful one.

    With two seeds the interval may be wider than all values that a share can have. It is then clipped to the
    differences that the control's mean permits, and nothing is said to be detectable.

    Args:
        comparison: The comparison, of a metric from 0 to 1.

    Returns:
        The same comparison if its interval is of use, or if the images and not the seeds make it that wide.
    """
    low, high = comparison.low, comparison.high
    if low is None or high is None or high - low < USELESS_WIDTH:
        return comparison
    least, most = -comparison.control_mean, 1 - comparison.control_mean
    freedom = comparison.images - comparison.folds
    of_images = 2 * t_quantile((1 + comparison.confidence) / 2, freedom) * (comparison.images_error or 0.0)
    if (least <= low and high <= most) or of_images > (high - low) / 2:
        return comparison
    return replace(comparison, low=max(low, least), high=min(high, most), detectable_difference=None)


def has_too_few_seeds(comparison: Comparison) -> bool:
    """Returns whether the seeds are too few for an interval.

    Args:
        comparison: Result of `clip_to_possible`.
    """
    return comparison.low is not None and comparison.detectable_difference is None


def p_value(comparison: Comparison) -> float | None:
    """Returns the two-sided p-value of the difference; None without an interval.

    It is below 1 - confidence exactly if the interval at that confidence excludes 0.

    Args:
        comparison: The comparison.
    """
    candidates = _candidates(comparison)
    if not candidates:
        return None
    return max(2 * float(stdtr(freedom, -abs(comparison.difference) / error)) for error, freedom in candidates)


def directed_p(comparison: Comparison, bound: float) -> float | None:
    """Returns the two-sided p-value for a difference above `bound`: 1 if the difference is not above it.

    It is below a level exactly if the interval at 1 - level lies above the bound. None without an interval.
    """
    above = replace(comparison, difference=comparison.difference - bound)
    return p_value(above) if above.difference > 0 else None if p_value(above) is None else 1.0


def _without_interval(
    best: Floats, control: Floats, images: int, note: str | None, confidence: float, shared_seeds: bool
) -> Comparison:
    """Returns means and standard deviations of two tables, with no standard error and so no interval.

    Args:
        best: (S, N), or (S, 1) for one value per seed.
        control: (S2, N), or (S2, 1).
        images: Number of images.
        note: Note of the comparison.
        confidence: Confidence that is recorded.
        shared_seeds: Whether row s of both tables is the same seed.
    """
    return Comparison(
        difference=float(best.mean() - control.mean()),
        low=None,
        high=None,
        confidence=confidence,
        best_mean=float(best.mean()),
        best_sd=_deviation(best),
        control_mean=float(control.mean()),
        control_sd=_deviation(control),
        seeds=(len(best), len(control)),
        images=images,
        layout=PAIRED if shared_seeds and len(best) == len(control) else INDEPENDENT,
        standard_error=None,
        degrees_of_freedom=None,
        images_error=None,
        detectable_difference=None,
        note=note,
    )


def _uncertainty(
    best: Floats, control: Floats, paired: bool, folds: Folds
) -> tuple[float | None, float | None, float | None]:
    """Computes the standard errors of the difference.

    Args:
        best: (S, N).
        control: (S2, N).
        paired: Whether row s of both tables is the same seed.
        folds: Number of each image's fold, (N,).

    Returns:
        Standard error over seeds and images, its degrees of freedom, and the standard error over images
        alone. All are None with one seed in an arm, or without any variation.
    """
    images, count = best.shape[1], count_folds(folds)
    if min(len(best), len(control)) < 2:
        return None, None, None
    parts, freedoms, both = [], [], 0.0
    for table in (best - control,) if paired else (best, control):
        parts.append(seeds_variance(table, folds))
        freedoms.append(count * (len(table) - 1))
        both += interaction_variance(table, folds)
    of_images = _images_variance(best, control, folds)
    parts.append(max(0.0, of_images - both))
    freedoms.append(images - count)
    variance = sum(parts)
    if math.sqrt(max(variance, of_images)) < _NOTHING:
        return None, None, None
    if variance <= 0:
        return math.sqrt(of_images), float(images - count), math.sqrt(of_images)
    spread = sum((part / variance) ** 2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
    return math.sqrt(variance), 1 / spread, math.sqrt(of_images)


def _images_variance(best: Floats, control: Floats, folds: Folds) -> float:
    """Returns the variance of the mean difference over images alone.

    Half an image is added in each direction if few images distinguish the arms and the tables hold right and
    wrong.

    Args:
        best: (S, N).
        control: (S2, N).
        folds: Number of each image's fold, (N,).
    """
    gains = best.mean(axis=0) - control.mean(axis=0)
    images = len(gains)
    variance = images_variance(gains, folds)
    # Equal shares may differ by rounding, if they are means over different numbers of seeds.
    if (np.abs(gains) > _NOTHING).sum() >= FEW_DISCORDANT or not (_is_binary(best) and _is_binary(control)):
        return variance
    added = (np.square(gains).sum() + 1 - gains.sum() ** 2 / (images + 2)) / (images + 2) ** 2
    return max(variance, float(added))


def _is_binary(table: Floats) -> bool:
    return bool(((table == 0) | (table == 1)).all())


def _candidates(comparison: Comparison) -> list[tuple[float, float]]:
    """Returns (standard error, degrees of freedom) over seeds and images, and over images alone.

    The list is empty without an interval.
    """
    error, freedom, of_images = comparison.standard_error, comparison.degrees_of_freedom, comparison.images_error
    if error is None or freedom is None or of_images is None:
        return []
    both = [(error, freedom), (of_images, float(comparison.images - comparison.folds))]
    return [(each, df) for each, df in both if each > 0]


def _note(best: Floats, control: Floats, error: float | None, paired: bool) -> str | None:
    """Returns why there is no interval, or that networks seem to be the same; None if neither holds.

    Args:
        best: (S, N).
        control: (S2, N).
        error: Standard error over seeds and images, or None.
        paired: Whether row s of both tables is the same seed.
    """
    if min(len(best), len(control)) < 2:
        return "with one seed in an arm there is no interval, because nothing shows how much the seed alone changes"
    if error is None:
        return "neither seeds nor images show any variation in the difference, so no interval can be given"
    for name, arm in (("best", best), ("control", control)):
        if (arm == arm[0]).all() and not (arm == 1).all():
            return f"all seeds of the {name} arm score the same on every image; check that they are different networks"
    if paired and (best == control).all() and not (best == 1).all():
        return "both arms score the same on every image with every seed; check that they are different networks"
    return None


def _checked(name: str, scores: ArrayLike) -> Floats:
    """Returns a table of scores (S, N) as float64.

    Raises:
        ValueError: If the table has another shape, no row, or fewer than two images.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise ValueError(f"{name} must have shape (seeds, images), at least 1 by 2, got {table.shape}")
    return table


def _deviation(arm: Floats) -> float | None:
    return float(arm.mean(axis=1).std(ddof=1)) if len(arm) > 1 else None


def t_quantile(probability: float, freedom: float) -> float:
    """Returns a quantile of Student's t.

    Args:
        probability: Probability below the quantile.
        freedom: Degrees of freedom.
    """
    return float(stdtrit(freedom, probability))


def least_enough(is_enough: Callable[[int], bool], start: int, most: int, *, rough: bool = False) -> int | None:
    """Returns the least number that is enough, given that all larger ones are; None if none is.

    Args:
        is_enough: Returns whether a number is enough.
        start: Least number that is tried.
        most: Largest number that is tried.
        rough: Whether the number may be too large by half a percent.
    """
    low, high = start - 1, start
    while not is_enough(high):
        if high >= most:
            return None
        low, high = high, min(most, 2 * high)
    while high - low > max(1, low // 200 if rough else 1):
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high

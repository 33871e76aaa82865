"""Is one arm better than the other, and how sure can we be with this few seeds and images?

An arm is one configuration retrained with several seeds and tested on the same images as the other arm. The primary
analysis is fixed here, beforehand: the difference of the two arms' seed means, with an interval that covers both
sources of chance, the training (another seed gives another network) and the test set (other images give another
accuracy). Comparing one network of each arm on the images alone ignores the first and calls 8 to 41 % of equal arms
different.

The usual tool is a two-way bootstrap: seeds resampled within each arm, images resampled once for both. With three to
ten seeds it is too narrow, twice over: resampling S values gives (S - 1)/S of the variance of their mean, and quantiles
of the resamples know nothing of how uncertain a variance from S values is. So the variance that the bootstrap estimates
is taken in closed form here, without those losses and without the noise of resampling, and the second is made good by
Student's t in place of the normal quantile:

    V_seeds  = sum over arms of var_s(accuracy of seed s) / S        on S - 1 degrees of freedom an arm
    V_both   = sum over arms of MS / (S N)                           MS: mean square of what is left of an arm's S x N
                                                                     table after its row and column means
    V_images = var_i(mean over seeds best - control) / N - V_both    at least 0, on N - 1 degrees of freedom
    V        = V_seeds + V_images

Both other terms hold V_both once, hence the subtraction. That is the variance of a difference in a layout of crossed
random effects. The degrees of freedom are Satterthwaite's (1946), V^2 / sum(V_k^2 / df_k), and the interval is
difference +- t * sqrt(V). It is never narrower than the interval from the images alone: a few seeds that agree by luck
do not make the test set larger.

In simulations (360 images of uneven difficulty, accuracies of .5 to .97, seed deviations of 0.2 to 2 points) the 95 %
interval covers 94 to 98 % with 3, 5 and 8 seeds. Where all images are equally hard it errs on the wide side with 3
seeds, up to 99 %.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import ArrayLike, NDArray

from pipeline.console.format import format_interval, format_points

Floats = NDArray[np.float64]

POWER = 0.8

# Below this an interval is rounding, not variation: a share of one image in a thousand million.
_NOTHING = 1e-9


@dataclass(frozen=True)
class Comparison:
    """Two arms compared. Accuracies, differences and deviations are fractions of 1, not points.

    `difference` is best minus control; `low` and `high` are its interval, None where there is none, and `note` then
    says why. `best_sd` and `control_sd` are deviations over seeds, None with one seed. `seeds` counts those of
    (best, control).

    `detectable_difference` is the smallest true difference that an experiment with this noise would have shown, its
    interval excluding 0, with a chance of 0.8.

    `paired_*` is the secondary analysis: a paired t-test of seed s against seed s. It speaks of these very test images
    and not of others, and exists only for arms with equally many seeds, at least two.
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
    standard_error: float | None
    degrees_of_freedom: float | None
    detectable_difference: float | None
    paired_t_p: float | None
    paired_t_low: float | None
    paired_t_high: float | None
    note: str | None


def compare_arms(best_correct: ArrayLike, control_correct: ArrayLike, *, confidence: float = 0.95) -> Comparison:
    """Compare two arms from what each seed got right: (S, N) and (S2, N), 0/1 or bool, on the same images in one order.

    See the module's docstring for the formula. Raises ValueError for other shapes, fewer than two images, values
    outside 0..1 and a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    best, control = _checked("best_correct", best_correct), _checked("control_correct", control_correct)
    if best.shape[1] != control.shape[1]:
        raise ValueError(f"both arms must be tested on the same images, got {best.shape[1]} and {control.shape[1]}")
    error, freedom, half, detectable = _uncertainty(best, control, confidence)
    difference = float(best.mean() - control.mean())
    p, paired_low, paired_high = _paired_t(best.mean(axis=1), control.mean(axis=1), confidence)
    return Comparison(
        difference=difference,
        low=None if half is None else difference - half,
        high=None if half is None else difference + half,
        confidence=confidence,
        best_mean=float(best.mean()),
        best_sd=_deviation(best),
        control_mean=float(control.mean()),
        control_sd=_deviation(control),
        seeds=(len(best), len(control)),
        images=best.shape[1],
        standard_error=error,
        degrees_of_freedom=freedom,
        detectable_difference=detectable,
        paired_t_p=p,
        paired_t_low=paired_low,
        paired_t_high=paired_high,
        note=_note(best, control, half),
    )


def comparison_from(content: Mapping[str, Any]) -> Comparison:
    """Read back a comparison that was written to JSON with `dataclasses.asdict`."""
    return Comparison(**{**content, "seeds": tuple(content["seeds"])})


def verdict(comparison: Comparison, *, what: str = "SAR", margin: float = 0.01, against: str = "") -> str:
    """Say in one sentence what the comparison shows, in points of test accuracy.

    An interval that excludes 0 is a difference. One that includes 0 shows the absence of a difference only if it lies
    inside +-`margin` (a fraction); otherwise the data do not tell. against: what the control is, in words. Raises
    ValueError for a margin that is not positive.
    """
    if margin <= 0:
        raise ValueError(f"margin must be above 0, got {margin}")
    low, high, difference = comparison.low, comparison.high, comparison.difference
    if low is None or high is None:
        return f"{what} and its control differ by {format_points(difference)} of test accuracy; {comparison.note}."
    # An end of the interval that rounds to 0 would hide which side of 0 it lies on.
    digits = 1 if min(abs(low), abs(high), abs(difference)) >= 0.0005 else 2
    best, control = comparison.seeds
    against = f"; against {against}" if against else ""
    seeds = f"{best} seeds each" if best == control else f"{best} seeds against {control}"
    basis = (
        f"{100 * comparison.confidence:.4g} % {format_interval(low, high, digits)}; "
        f"{seeds}, on {comparison.images:,} test images{against}"
    )
    change = format_points(difference, digits)
    if low > 0 or high < 0:
        word = "raised" if difference > 0 else "lowered"
        return f"{what} {word} test accuracy by {change.lstrip('+-')} ({basis})."
    if -margin < low and high < margin:
        within = format_points(margin).lstrip("+")
        shown = f"{what} changed test accuracy by {change}, within the margin of {within}"
        return f"No difference shown: {shown} ({basis})."
    found = format_points(comparison.detectable_difference or 0.0).lstrip("+")
    return (
        f"Not enough data to tell whether {what} changes test accuracy: {change} ({basis}), where a true difference of "
        f"{found} would be found four times out of five."
    )


def _uncertainty(
    best: Floats, control: Floats, confidence: float
) -> tuple[float | None, float | None, float | None, float | None]:
    """Standard error, degrees of freedom, half the interval's width, and the detectable difference."""
    images = best.shape[1]
    if min(len(best), len(control)) < 2:
        return None, None, None, None
    parts, freedoms, both = [], [], 0.0
    for arm in (best, control):
        left = arm - arm.mean(axis=1, keepdims=True) - arm.mean(axis=0) + arm.mean()
        parts.append(float(arm.mean(axis=1).var(ddof=1)) / len(arm))
        freedoms.append(len(arm) - 1)
        both += float(np.square(left).sum()) / ((len(arm) - 1) * (images - 1)) / (len(arm) * images)
    of_images = float((best.mean(axis=0) - control.mean(axis=0)).var(ddof=1)) / images
    parts.append(max(0.0, of_images - both))
    freedoms.append(images - 1)
    variance = sum(parts)
    # Each candidate is (variance, degrees of freedom); the wider interval is used.
    candidates = [(of_images, float(images - 1))]
    if variance > 0:
        spread = sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
        candidates.append((variance, variance**2 / spread))
    quantile = (1 + confidence) / 2
    halves = [_t(quantile, freedom) * math.sqrt(value) for value, freedom in candidates]
    half = max(halves)
    if half < _NOTHING:
        return None, None, None, None
    value, freedom = candidates[halves.index(half)]
    error = math.sqrt(value)
    # Found means: estimate - half > 0. The estimate scatters around the truth with the same error and t.
    return error, freedom, half, half + _t(POWER, freedom) * error


def _paired_t(best: Floats, control: Floats, confidence: float) -> tuple[float | None, float | None, float | None]:
    gains = best - control if len(best) == len(control) else np.empty(0)
    if len(gains) < 2 or gains.std() < _NOTHING:
        return None, None, None
    freedom, error = len(gains) - 1, float(gains.std(ddof=1)) / math.sqrt(len(gains))
    mean = float(gains.mean())
    half = _t((1 + confidence) / 2, freedom) * error
    return 2 * float(scipy.stats.t.sf(abs(mean) / error, freedom)), mean - half, mean + half


def _note(best: Floats, control: Floats, half: float | None) -> str | None:
    if min(len(best), len(control)) < 2:
        return "with one seed in an arm there is no interval, because nothing shows how much the seed alone changes"
    if half is None:
        return "neither seeds nor images show any variation in the difference, so no interval can be given"
    for name, arm in (("best", best), ("control", control)):
        if (arm == arm[0]).all():
            return f"all seeds of the {name} arm are right on the same images; check that they are different networks"
    return None


def _checked(name: str, correct: ArrayLike) -> Floats:
    table = np.asarray(correct, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise ValueError(f"{name} must have shape (seeds, images), at least 1 by 2, got {table.shape}")
    if not ((table >= 0) & (table <= 1)).all():
        raise ValueError(f"{name} must hold 0 (wrong) to 1 (right) only")
    return table


def _deviation(arm: Floats) -> float | None:
    return float(arm.mean(axis=1).std(ddof=1)) if len(arm) > 1 else None


def _t(probability: float, freedom: float) -> float:
    return float(scipy.stats.t.ppf(probability, freedom))

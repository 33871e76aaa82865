"""Forecast of the interval's half-width and of the power, by the numbers of seeds and test images.

A search has trained several configurations and controls, each with the same further seeds. It has the score
of each validation image by each of these networks, whether it was right or its pseudo-value: Y[c, s, i], of C
configurations, S seeds and N images. The residual of Y, after the effects of configurations, seeds, images
and their pairs, shows how much the difference of two arms that share their seeds will vary. This is a layout
of crossed random effects, with the mean squares of a three-way analysis of variance:

    MS_cs    mean square of configuration x seed of the accuracies, on (C - 1)(S - 1) degrees of freedom;
             estimates  var_cs + var_csi / N
    MS_csi   mean square of the residual of single images; estimates  var_csi
    MS_ci    mean square of configuration x image; estimates  var_csi + S var_ci

With R seeds on M test images, the variance behind the verdict's interval (`pipeline.score.comparison`) is
expected to be

    V = 2 (var_cs + var_csi / M) / R  +  2 var_ci / M

The first term shrinks with every seed. The second shrinks with test images alone: it is the floor. Effects of
seeds and of images that all configurations share cancel, since arms are compared seed by seed and image by
image.

In K folds (`pipeline.score.fold_variance`) a seed is K networks of either arm, so var_cs / K replaces var_cs,
on K times the degrees of freedom.

If fewer than ten images distinguish the arms, the verdict's interval gets half an image in each direction, which
adds 1 / M^2 to the second term. Half-width and power are means over both cases, with the probability of either. The
number of these images is taken as binomial: M images, each with the chance u(R) that the arms differ on it with any
of R seeds. Disagreements recur on the same images, so u(R) grows more slowly than 1 - (1 - d)^R, where
d = 2 (var_csi + var_ci) is the chance with one seed. An image's own chance is taken as beta distributed, with mean d
and the correlation r between two seeds' disagreements on an image, which the search measures too:

    1 - u(R)  =  product over k = 0 .. R - 1 of  ((1 - d)(1 - r) + k r) / ((1 - r) + k r)

The values of the further seeds are used, not the search's own. A candidate was chosen because its own value
was high, so its mistakes on these images are too few. Validation images stand for test images, and training
without them for training with them. So a forecast errs on the wide side where more training images make
networks agree more.

Intervals and power are those at the whole alpha, 1 - confidence. If attention is tested beside accuracy,
Holm's rule gives accuracy the whole alpha if attention is shown to be better, else half of it. It mostly is
shown where the configuration was chosen by its attention. Seeds are chosen for the whole alpha, and the power
at half of it is reported beside that.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # type: ignore[import-untyped, unused-ignore]

from pipeline.score.comparison import FEW_DISCORDANT, POWER, least_enough, t_quantile
from pipeline.score.pooled_error import interaction

Floats = NDArray[np.float64]

LEAST_DEGREES_OF_FREEDOM = 4
"""Fewest degrees of freedom of a usable mean square; on 3, the ends of its 80 % interval differ tenfold."""
RANGE = 0.8
"""Level of the interval of V, from which the ranges of half-width and power follow."""

ASSUMED_CONFIG_SEED = 0.003
"""Assumed root of var_cs, .3 points, if no search has measured it.

`search_spaces/sar.yaml` on digits gave .14 points at most. All three assumptions are at least twice the value
measured on digits, since most data sets are harder.
"""
ASSUMED_DISCORDANCE = 0.02
"""Assumed share of images on which two networks of one seed differ; digits gave 1 %."""
ASSUMED_IMAGE_SHARE = 0.1
"""Assumed share of this discordance that recurs with every seed; digits gave nearly none."""
ASSUMED_RECURRENCE = 0.2
"""Assumed correlation between two seeds' disagreements of two networks on an image; digits gave .1."""
ASSUMED_IMAGES = 287
"""Number of validation images of digits."""

PLANNED_LEVEL = 0.7
"""Probability that the true V is below the V for which seeds are chosen."""
LEAST_GAIN = 0.05
"""Share by which a further seed must narrow the expected half-width; else no more seeds are taken."""
LEAST_SEEDS = 2
"""Fewest seeds; with one there is no interval."""

REACHED, FLAT, LIMITED, UNAFFORDABLE, UNTESTABLE = "reached", "flat", "max_seeds", "budget", "test_images"
UNFORETOLD = "unforetold"
"""Reasons for not taking more seeds.

REACHED: the margin is within reach. FLAT: a further seed gains too little. LIMITED: `retrain.max_seeds`.
UNAFFORDABLE: the budget. UNTESTABLE: too few test images for an interval. UNFORETOLD: there is no forecast.
"""

_POINTS = 200  # equally likely values of a chi-square, over which half-width and power are averaged
_MOST_IMAGES = 10**9
_NOTHING = 1e-12


@dataclass(frozen=True)
class Components:
    """Components of the variance of single networks' results, as variances of fractions of 1.

    Attributes:
        config_seed: MS_cs on `images` images.
        residual: var_csi of one image.
        config_image: var_ci of one image.
        residual_error: Standard error of `residual`, over these images.
        image_error: Standard error of `config_image`, over these images.
        images: Number of images.
        configurations: Number of configurations.
        seeds: Number of seeds.
        assumed: Why the components are assumptions and not measurements; None if they were measured.
        binary: Whether scores are 0 or 1.
        recurrence: Correlation between two seeds' disagreements of two networks on an image, in [0, 1], for binary
            scores; None if it was not measured, as by earlier versions.
    """

    config_seed: float
    residual: float
    config_image: float
    residual_error: float
    image_error: float
    images: int
    configurations: int
    seeds: int
    assumed: str | None = None
    binary: bool = True
    recurrence: float | None = None

    @property
    def degrees_of_freedom(self) -> int:
        """Degrees of freedom of MS_cs."""
        return (self.configurations - 1) * (self.seeds - 1)


def assumed_components(why: str, *, configurations: int = 0, seeds: int = 0) -> Components:
    """Returns the assumed variance components (`ASSUMED_*`), for results from which none can be estimated.

    Args:
        why: Reason why they were not estimated, as a clause.
        configurations: Number of configurations with results; 0 if there are none.
        seeds: Number of seeds of these results.
    """
    one = ASSUMED_DISCORDANCE / 2  # the difference of two networks has twice the variance of one
    residual = (1 - ASSUMED_IMAGE_SHARE) * one
    return Components(
        config_seed=ASSUMED_CONFIG_SEED**2 + residual / ASSUMED_IMAGES,
        residual=residual,
        config_image=ASSUMED_IMAGE_SHARE * one,
        residual_error=0.0,
        image_error=0.0,
        images=ASSUMED_IMAGES,
        configurations=configurations,
        seeds=seeds,
        assumed=why,
    )


def estimate_components(tables: Mapping[str, ArrayLike]) -> Components:
    """Estimates the components from the scores of images.

    Args:
        tables: Scores such as 0/1, (S, N), by configuration. All have the same seeds as rows and images as
            columns.

    Returns:
        The estimates, or the assumptions with the reason, if there are too few tables or they do not differ.

    Raises:
        ValueError: If the tables have different shapes or are not (S, N).
    """
    if not tables:
        return assumed_components("no configuration has been confirmed yet")
    shapes = {np.shape(table) for table in tables.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"tables must all have one shape (seeds, images), got {sorted(shapes)}")
    cube = np.stack([np.asarray(table, dtype=np.float64) for table in tables.values()])
    configurations, seeds, images = cube.shape
    freedom = (configurations - 1) * (seeds - 1)
    if freedom < LEAST_DEGREES_OF_FREEDOM or images < 2:
        count = (
            f"{configurations} configuration{'s' * (configurations != 1)} with {seeds} further seed{'s' * (seeds != 1)}"
        )
        few = f"give {freedom} degrees of freedom, fewer than {LEAST_DEGREES_OF_FREEDOM}"
        few = few if freedom < LEAST_DEGREES_OF_FREEDOM else f"on {images} validation image give nothing to measure"
        return assumed_components(f"{count} {few}", configurations=configurations, seeds=seeds)
    left = cube - _means(cube, 2) - _means(cube, 1) - _means(cube, 0)
    left += _means(cube, 1, 2) + _means(cube, 0, 2) + _means(cube, 0, 1) - cube.mean()
    # Per image, (N,); their sums divided by N - 1 are the mean squares.
    residuals = np.square(left).sum(axis=(0, 1)) / freedom
    by_image = np.square(interaction(cube.mean(axis=1))).sum(axis=0) / (configurations - 1)
    residual = float(residuals.sum()) / (images - 1)
    config_images = by_image - residuals / seeds
    config_image = max(0.0, float(config_images.sum()) / (images - 1))
    by_seed = interaction(cube.mean(axis=2))  # (C, S)
    binary = bool(((cube == 0) | (cube == 1)).all())
    found = Components(
        config_seed=float(np.square(by_seed).sum()) / freedom,
        residual=residual,
        config_image=config_image,
        residual_error=math.sqrt(float(residuals.var(ddof=1)) / images),
        image_error=math.sqrt(float(config_images.var(ddof=1)) / images),
        images=images,
        configurations=configurations,
        seeds=seeds,
        binary=binary,
        recurrence=_recurrence(cube) if binary else None,
    )
    if found.residual + found.config_image < _NOTHING:
        do = "are right on the same of" if found.binary else "do the same on"
        why = f"the networks of each seed {do} {images} validation images, whatever configuration"
        return assumed_components(why, configurations=configurations, seeds=seeds)
    return found


def _recurrence(cube: Floats) -> float | None:
    """Returns the correlation between two seeds' disagreements on an image, pooled over all pairs of configurations.

    It is None if no pair disagrees on any image.

    Args:
        cube: Scores 0 or 1 by configuration, seed and image, (C, S, N), of at least two configurations and seeds.
    """
    seeds = cube.shape[1]
    of_pairs = [np.abs(one - other).sum(axis=0) for one, other in combinations(cube, 2)]
    differing = np.stack(of_pairs)  # seeds with which a pair differs on an image, (pairs, N)
    once = float(differing.mean()) / seeds
    twice = float((differing * (differing - 1)).mean()) / (seeds * (seeds - 1))
    spread = once * (1 - once)
    return min(1.0, max(0.0, (twice - once**2) / spread)) if spread > _NOTHING else None


def _means(cube: Floats, *axes: int) -> Floats:
    """Returns means over some axes, with these axes kept."""
    return np.asarray(cube.mean(axis=axes, keepdims=True), dtype=np.float64)


@dataclass(frozen=True)
class Expected:
    """A forecast figure with its range.

    Attributes:
        value: The figure for the estimated V.
        low: Lower end of the range by the 80 % interval of V; None if V was assumed.
        high: Upper end of that range; None if V was assumed.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Forecast:
    """Forecast for the comparison of two arms with equal numbers of seeds.

    Methods take `level`, the probability with which the true V is below the V that is used; None: the
    estimate of V.

    Attributes:
        components: Components of the variance.
        test_images: Number of test images, over all folds.
        confidence: Confidence of the deciding interval.
        folds: Number of folds, each tested by networks of its own, so that a seed is one run in every fold; 1
            without folds.
    """

    components: Components
    test_images: int
    confidence: float = 0.95
    folds: int = 1

    def standard_error(self, seeds: int, level: float | None = None) -> float:
        """Returns the root of V, for the difference of the arms, without the half image that an interval may get."""
        return math.sqrt(sum(self._variance_parts(seeds, level)))

    def expected_half_width(self, seeds: int) -> Expected:
        """Returns the expected half-width with its range; infinite if there is no interval."""
        return self._expected(lambda level: self.half_width(seeds, level))

    def half_width(self, seeds: int, level: float | None = None) -> float:
        """Returns the expected half-width; infinite if there is no interval."""
        return self._half_and_power(seeds, 0.0, level)[0]

    def power(self, seeds: int, margin: float) -> Expected:
        """Returns the power to show a loss of at most `margin`, for equally good arms, with its range."""
        return self._expected(lambda level: self._half_and_power(seeds, margin, level)[1])

    @property
    def floor(self) -> float:
        """Half-width that remains with any number of seeds; infinite with too few test images."""
        return self._half_of_images(few=False)

    def floor_up_to(self, seeds: int) -> float:
        """Returns the half-width that test images alone leave with so many seeds; infinite with too few test images.

        It is above `floor` if fewer than ten images may distinguish the arms.
        """
        few = self.chance_of_few(seeds)
        return (1 - few) * self._half_of_images(few=False) + few * self._half_of_images(few=True)

    def chance_of_few(self, seeds: int) -> float:
        """Returns the probability that fewer than ten images distinguish the arms; 0 if scores are not 0 or 1."""
        parts = self.components
        if not parts.binary:
            return 0.0
        if self.test_images < FEW_DISCORDANT:
            return 1.0
        once = min(1.0, 2 * (parts.residual + parts.config_image))
        again = min(ASSUMED_RECURRENCE if parts.recurrence is None else parts.recurrence, 1 - _NOTHING)
        steps = np.arange(seeds) * again
        alike = np.prod(((1 - once) * (1 - again) + steps) / (1 - again + steps))
        return float(special.bdtr(FEW_DISCORDANT - 1, self.test_images, 1 - alike))

    def _half_of_images(self, *, few: bool) -> float:
        """Returns the half-width by var_ci alone.

        Args:
            few: Whether half an image is added in each direction.
        """
        images = self.test_images
        if images < 2 * self.folds:
            return math.inf
        variance = 2 * self.components.config_image / images + few / images**2
        return t_quantile(self._quantile, images - self.folds) * math.sqrt(variance)

    def images_needed(self, margin: float, seeds: int | None = None) -> int | None:
        """Returns the number of test images for a power of 0.8, to half a percent.

        Args:
            margin: Largest loss that counts as none.
            seeds: Number of seeds; None: any number.

        Returns:
            None if no number of images is enough.
        """
        if seeds is None:
            both = float(special.ndtri(self._quantile) + special.ndtri(POWER))
            return max(2, math.ceil(2 * self.components.config_image * (both / margin) ** 2))

        return least_enough(
            lambda images: replace(self, test_images=images).power(seeds, margin).value >= POWER,
            2 * self.folds,
            _MOST_IMAGES,
            rough=True,
        )

    def reaches(self, seeds: int, margin: float, level: float | None = None) -> bool:
        """Returns whether (t(.975) + t(.8)) SE <= margin.

        t(.975) stands for the quantile at the confidence, and t is on Satterthwaite's degrees of freedom. SE^2 is the
        mean of V with and without the half image in each direction.

        Args:
            seeds: Number of seeds.
            margin: Largest loss that counts as none.
            level: As in the class's docstring.
        """
        if self.test_images < 2 * self.folds or seeds < LEAST_SEEDS:
            return False
        by_seed, by_image = self._variance_parts(seeds, level)
        by_image += self.chance_of_few(seeds) / self.test_images**2
        freedom = self._satterthwaite(by_seed, by_image, seeds)
        return (t_quantile(self._quantile, freedom) + t_quantile(POWER, freedom)) * math.sqrt(
            by_seed + by_image
        ) <= margin

    @property
    def _quantile(self) -> float:
        return (1 + self.confidence) / 2

    def _expected(self, figure: Callable[[float | None], float]) -> Expected:
        """Returns a figure, as a function of `level`, with its range."""
        if self.components.assumed:
            return Expected(figure(None))
        # With two seeds, a smaller part of the images leaves fewer degrees of freedom, and so a wider interval. Hence
        # the ends are not always in order.
        ends = [figure(None), figure((1 - RANGE) / 2), figure((1 + RANGE) / 2)]
        return Expected(ends[0], min(ends), max(ends))

    def _variance_parts(self, seeds: int, level: float | None) -> tuple[float, float]:
        """Returns the parts of V that belong to seeds and to images, without the half image in each direction.

        MS_cs has a chi-square distribution, and the estimates of var_csi and var_ci have standard errors. The
        deviation of the sum from its estimate is the root of the sum of both squares (Graybill and Wang,
        Journal of the American Statistical Association 75, 1980). Each part takes its share of that
        deviation.
        """
        parts, images = self.components, self.test_images
        residual = parts.residual / images
        between = max(0.0, parts.config_seed - parts.residual / parts.images)
        by_seed = 2 * (between / self.folds + residual) / seeds
        by_image = 2 * parts.config_image / images
        if level is None or parts.assumed:
            return by_seed, by_image
        scale = parts.degrees_of_freedom / float(special.chdtri(parts.degrees_of_freedom, level))
        other = max(0.0, parts.config_seed * scale - parts.residual / parts.images)
        seed_step = 2 * (other - between) / self.folds / seeds
        normal = float(special.ndtri(level))
        residual_step, image_step = (2 * normal * error / images for error in (parts.residual_error, parts.image_error))
        residual_step /= seeds
        # The last two depend on the same images and are not independent, so they are added before squaring.
        both = abs(seed_step) + abs(residual_step + image_step)
        share = math.hypot(seed_step, residual_step + image_step) / both if both else 0.0
        return max(0.0, by_seed + share * (seed_step + residual_step)), max(0.0, by_image + share * image_step)

    def _satterthwaite(self, by_seed: Any, by_image: float, seeds: int) -> Any:
        """Returns the degrees of freedom of the sum of both parts of V.

        Args:
            by_seed: Part of the seeds, a number or an array.
            by_image: Part of the images.
            seeds: Number of seeds.
        """
        total = by_seed + by_image
        spread = by_seed**2 / (self.folds * (seeds - 1)) + by_image**2 / (self.test_images - self.folds)
        return total**2 / np.maximum(spread, np.finfo(np.float64).tiny)

    def _half_and_power(self, seeds: int, margin: float, level: float | None) -> tuple[float, float]:
        """Computes half-width and power, averaged over the estimate of the variance between seeds.

        They are also averaged over whether few images distinguish the arms. The variance between seeds has a chi-square
        distribution on R - 1 degrees of freedom for R seeds, or K (R - 1) in K folds. The part of the images has enough
        degrees of freedom to be taken as fixed. The interval is the verdict's: that of the images alone where it is
        wider.

        Args:
            seeds: Number of seeds, R.
            margin: Largest loss that counts as none.
            level: As in the class's docstring.

        Returns:
            Half-width and power; infinity and 0 if there is no interval.
        """
        if seeds < LEAST_SEEDS or self.test_images < 2 * self.folds:
            return math.inf, 0.0
        by_seed, by_image = self._variance_parts(seeds, level)
        found = by_seed * _chi_square_points(self.folds * (seeds - 1))
        # What is added to the interval does not move the estimate itself, so it has no part in this error.
        error = max(math.sqrt(by_seed + by_image), _NOTHING)
        few = self.chance_of_few(seeds)
        mean_half = mean_power = 0.0
        for chance, added in ((1 - few, 0.0), (few, 1 / self.test_images**2)):
            of_images = by_image + added
            freedom = self._satterthwaite(found, of_images, seeds)
            half = special.stdtrit(freedom, self._quantile) * np.sqrt(found + of_images)
            alone = of_images + 2 * self.components.residual / (seeds * self.test_images)
            half = np.maximum(half, t_quantile(self._quantile, self.test_images - self.folds) * math.sqrt(alone))
            mean_half += chance * float(half.mean())
            mean_power += chance * float(special.ndtr((margin - half) / error).mean())
        return mean_half, mean_power


@dataclass(frozen=True)
class SeedPlan:
    """A choice of the number of seeds.

    Attributes:
        seeds: Number of seeds per arm.
        reason: Why not more: REACHED, FLAT, LIMITED, UNAFFORDABLE, UNTESTABLE or UNFORETOLD.
    """

    seeds: int
    reason: str


def choose_seeds(forecast: Forecast, margin: float, *, max_seeds: int, affordable: int | None = None) -> SeedPlan:
    """Chooses the least number of seeds that shows a loss of at most `margin` with probability 0.8.

    No further seed is taken if it narrows the half-width by less than `LEAST_GAIN`, if `max_seeds` forbids
    it, or if it cannot be afforded. There are never fewer than two, since with one there is no interval.

    Args:
        forecast: The forecast.
        margin: Largest loss that counts as none.
        max_seeds: Largest number of seeds.
        affordable: Number of seeds that the budget allows; None: any number.
    """
    most, limit, level = max_seeds, LIMITED, PLANNED_LEVEL
    if affordable is not None and affordable < max_seeds:
        most, limit = max(LEAST_SEEDS, affordable), UNAFFORDABLE
    if forecast.test_images < 2 * forecast.folds:
        return SeedPlan(LEAST_SEEDS, UNTESTABLE)
    width = forecast.half_width(LEAST_SEEDS, level)
    for seeds in range(LEAST_SEEDS, most + 1):
        if forecast.reaches(seeds, margin, level):
            return SeedPlan(seeds, REACHED)
        width, before = forecast.half_width(seeds + 1, level), width
        if width > (1 - LEAST_GAIN) * before:
            return SeedPlan(seeds, FLAT)
    return SeedPlan(most, limit)


@cache
def _chi_square_points(freedom: int) -> Floats:
    """Returns equally likely values of a chi-square, divided by its degrees of freedom."""
    chances = (np.arange(_POINTS) + 0.5) / _POINTS
    return np.asarray(special.chdtri(freedom, 1 - chances) / freedom, dtype=np.float64)

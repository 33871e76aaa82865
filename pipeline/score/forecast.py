"""How narrow an interval, and how much power, so many seeds and test images will give: a forecast, not a promise.

A search has trained several configurations and controls, each with the same further seeds, and knows what each
validation image counts for with each of these networks, whether it was right or its pseudo-value: Y[c, s, i], of C
configurations, S seeds and N images. What is left of Y after the effects of configurations, seeds, images and the pairs
of them says how much the difference of two arms that share their seeds will vary (crossed random effects; the mean
squares are those of a three-way analysis of variance):

    MS_cs    mean square of configuration x seed of the accuracies, on (C - 1)(S - 1) degrees of freedom;
             estimates  var_cs + var_csi / N
    MS_csi   mean square of the residual of single images; estimates  var_csi
    MS_ci    mean square of configuration x image; estimates  var_csi + S var_ci

With R seeds on M test images, the verdict's interval (`pipeline.score.comparison`) then has to expect

    V = 2 (var_cs + var_csi / M) / R  +  2 var_ci / M

The first term becomes smaller with every seed, the second with test images alone: it is the floor. Effects of seeds and
of images that all configurations share drop out, since arms are compared seed by seed and image by image.

In K folds (`pipeline.score.fold_variance`) a seed is K networks of either arm, so var_cs / K stands in the place of
var_cs, on K times the degrees of freedom.

Where fewer than ten images are to be expected of which one arm alone is right, the second has half an image each way
beside it, 1 / M^2, as the verdict's interval then has.

The values of the further seeds are used, not the search's own: a candidate was chosen because its own value was high,
and its mistakes on these images are too few. Validation images stand for test images, and training without them for
training with them, so a forecast errs on the wide side where more images to train on make networks agree more.

Intervals and power are those at the whole alpha, 1 - confidence. Where attention is tested beside accuracy, Holm gives
accuracy the whole alpha if attention is shown to be better, as it mostly is where the configuration was chosen by its
attention, and half of it if not; seeds are chosen for the whole, and what the half leaves is told beside it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # type: ignore[import-untyped, unused-ignore]

from pipeline.score.comparison import FEW_DISCORDANT
from pipeline.score.pooled_error import interaction

Floats = NDArray[np.float64]

POWER = 0.8
"""What seeds are chosen for: no loss is shown in so many of the experiments in which there is none."""
LEAST_DEGREES_OF_FREEDOM = 4
"""A mean square on fewer tells next to nothing: on 3, the ends of its 80 % interval differ tenfold."""
RANGE = 0.8
"""Level of the interval of V that becomes the ranges of half-width and power."""

ASSUMED_CONFIG_SEED = 0.003
"""Root of var_cs where no search has measured it: .3 points. `search_spaces/sar.yaml` on digits gave .14 at most."""
ASSUMED_DISCORDANCE = 0.02
"""Share of images on which two networks of one seed differ, where no search has measured it. The digits gave 1 %."""
ASSUMED_IMAGE_SHARE = 0.1
"""Share of this discordance that comes back with every seed, as the images' own. The digits gave next to none. All
three are taken at twice that or more, since most sets are harder."""
ASSUMED_IMAGES = 287
"""Validation images of the digits."""

PLANNED_LEVEL = 0.7
"""Seeds are chosen for the V that the true one is below with this probability."""
LEAST_GAIN = 0.05
"""A further seed must narrow the expected half-width by this share, or no more are taken."""
LEAST_SEEDS = 2
"""With fewer there is no interval."""

REACHED, FLAT, LIMITED, UNAFFORDABLE, UNTESTABLE = "reached", "flat", "max_seeds", "budget", "test_images"
UNFORETOLD = "unforetold"
"""Why no more seeds are taken: the margin is within reach; a further one gains too little; `retrain.max_seeds`; the
budget; one test image, which gives no interval; nothing is known."""

_POINTS = 200  # equally likely values of a chi-square, over which half-width and power are averaged
_MOST_IMAGES = 10**9
_NOTHING = 1e-12


@dataclass(frozen=True)
class Components:
    """What single networks' results vary by. Variances of shares of 1.

    config_seed: MS_cs on `images` images. residual, config_image: var_csi, var_ci of one image. residual_error,
    image_error: standard errors of the latter, by these images. configurations, seeds: of the tables. assumed: why
    these are assumptions and no measurement; None where they were measured. binary: whether what an image counts for is
    0 or 1.
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

    @property
    def degrees_of_freedom(self) -> int:
        """Those of MS_cs."""
        return (self.configurations - 1) * (self.seeds - 1)


def assumed_components(why: str, *, configurations: int = 0, seeds: int = 0) -> Components:
    """The stated assumptions. why: a clause; configurations, seeds: what there was to measure."""
    one = ASSUMED_DISCORDANCE / 2  # a difference of two has twice the variance of one
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
    """Take the components from what images count for: (S, N), such as 0/1, by configuration, rows and columns of all
    alike.

    The assumptions, with the reason, where there are too few tables or they do not differ.

    Raises:
        ValueError: tables of other or of different shapes.
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
    # Of each image, (N,); their means over N - 1 degrees are the mean squares.
    residuals = np.square(left).sum(axis=(0, 1)) / freedom
    by_image = np.square(interaction(cube.mean(axis=1))).sum(axis=0) / (configurations - 1)
    residual = float(residuals.sum()) / (images - 1)
    config_images = by_image - residuals / seeds
    config_image = max(0.0, float(config_images.sum()) / (images - 1))
    by_seed = interaction(cube.mean(axis=2))  # (C, S)
    found = Components(
        config_seed=float(np.square(by_seed).sum()) / freedom,
        residual=residual,
        config_image=config_image,
        residual_error=math.sqrt(float(residuals.var(ddof=1)) / images),
        image_error=math.sqrt(float(config_images.var(ddof=1)) / images),
        images=images,
        configurations=configurations,
        seeds=seeds,
        binary=bool(((cube == 0) | (cube == 1)).all()),
    )
    if found.residual + found.config_image < _NOTHING:
        do = "are right on the same of" if found.binary else "do the same on"
        why = f"the networks of each seed {do} {images} validation images, whatever configuration"
        return assumed_components(why, configurations=configurations, seeds=seeds)
    return found


def _means(cube: Floats, *axes: int) -> Floats:
    return np.asarray(cube.mean(axis=axes, keepdims=True), dtype=np.float64)


@dataclass(frozen=True)
class Expected:
    """A figure, and its range by the 80 % interval of V; without a range (None) where V was assumed."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Forecast:
    """What the comparison of two arms of as many seeds will be able to show.

    test_images: on which they will be compared. confidence: of the interval that decides. folds: in which these images
    are tested, each by networks of its own; a seed is then one of every fold.

    level, where a method takes it: a probability with which V is below what is reckoned with; None for its estimate.
    """

    components: Components
    test_images: int
    confidence: float = 0.95
    folds: int = 1

    def standard_error(self, seeds: int, level: float | None = None) -> float:
        """Root of V, of the difference of both arms."""
        return math.sqrt(sum(self._variance_parts(seeds, level)))

    def expected_half_width(self, seeds: int) -> Expected:
        """Half the interval that is to be expected; infinite where there will be none."""
        return self._expected(lambda level: self.half_width(seeds, level))

    def half_width(self, seeds: int, level: float | None = None) -> float:
        """The half-width that is to be expected."""
        return self._half_and_power(seeds, 0.0, level)[0]

    def power(self, seeds: int, margin: float) -> Expected:
        """The chance to show that no more than `margin` is lost, where the arms are equally good."""
        return self._expected(lambda level: self._half_and_power(seeds, margin, level)[1])

    @property
    def floor(self) -> float:
        """The half-width that any number of seeds leaves."""
        if self.test_images < 2 * self.folds:
            return math.inf
        return _t(self._quantile, self.test_images - self.folds) * math.sqrt(
            2 * self.components.config_image / self.test_images
        )

    def images_needed(self, margin: float, seeds: int | None = None) -> int | None:
        """Test images with which no loss would be shown four times out of five, by so many seeds (None: by any number);
        to half a percent. None where no number of images does.
        """
        if seeds is None:
            both = float(special.ndtri(self._quantile) + special.ndtri(POWER))
            return max(2, math.ceil(2 * self.components.config_image * (both / margin) ** 2))

        def suffice(images: int) -> bool:
            return replace(self, test_images=images).power(seeds, margin).value >= POWER

        high = 2 * self.folds
        while not suffice(high):
            high *= 2
            if high > _MOST_IMAGES:
                return None
        low = high // 2
        while high - low > max(1, low // 200):
            middle = (low + high) // 2
            low, high = (low, middle) if suffice(middle) else (middle, high)
        return high

    def reaches(self, seeds: int, margin: float, level: float | None = None) -> bool:
        """Whether (t(.975) + t(.8)) SE <= margin: t at the confidence asked for, on Satterthwaite's degrees."""
        if self.test_images < 2 * self.folds or seeds < LEAST_SEEDS:
            return False
        by_seed, by_image = self._variance_parts(seeds, level)
        freedom = self._satterthwaite(by_seed, by_image, seeds)
        return (_t(self._quantile, freedom) + _t(POWER, freedom)) * math.sqrt(by_seed + by_image) <= margin

    @property
    def _quantile(self) -> float:
        return (1 + self.confidence) / 2

    def _expected(self, figure: Callable[[float | None], float]) -> Expected:
        if self.components.assumed:
            return Expected(figure(None))
        # With two seeds, little variance of the images' part leaves fewer degrees of freedom, and a wider interval.
        ends = [figure(None), figure((1 - RANGE) / 2), figure((1 + RANGE) / 2)]
        return Expected(ends[0], min(ends), max(ends))

    def _variance_parts(self, seeds: int, level: float | None) -> tuple[float, float]:
        """The seeds' and the images' part of V.

        MS_cs has its chi-square, var_ci its standard error. How far their sum may be from its estimate is the root of
        both squares (Graybill and Wang, Journal of the American Statistical Association 75, 1980); each part takes its
        share of that.
        """
        parts, images = self.components, self.test_images
        residual = parts.residual / images
        between = max(0.0, parts.config_seed - parts.residual / parts.images)
        discordance = min(1.0, 2 * (parts.residual + parts.config_image))
        few = parts.binary and images * (1 - (1 - discordance) ** seeds) < FEW_DISCORDANT
        by_seed = 2 * (between / self.folds + residual) / seeds
        by_image = 2 * parts.config_image / images + few / images**2
        if level is None or parts.assumed:
            return by_seed, by_image
        scale = parts.degrees_of_freedom / float(special.chdtri(parts.degrees_of_freedom, level))
        other = max(0.0, parts.config_seed * scale - parts.residual / parts.images)
        seed_step = 2 * (other - between) / self.folds / seeds
        normal = float(special.ndtri(level))
        residual_step, image_step = (2 * normal * error / images for error in (parts.residual_error, parts.image_error))
        residual_step /= seeds
        # The same images make the last two large or small, so these are added up.
        both = abs(seed_step) + abs(residual_step + image_step)
        share = math.hypot(seed_step, residual_step + image_step) / both if both else 0.0
        return max(0.0, by_seed + share * (seed_step + residual_step)), max(0.0, by_image + share * image_step)

    def _satterthwaite(self, by_seed: Any, by_image: float, seeds: int) -> Any:
        """Degrees of freedom of the sum of both parts of V."""
        total = by_seed + by_image
        spread = by_seed**2 / (self.folds * (seeds - 1)) + by_image**2 / (self.test_images - self.folds)
        return total**2 / np.maximum(spread, np.finfo(np.float64).tiny)

    def _half_and_power(self, seeds: int, margin: float, level: float | None) -> tuple[float, float]:
        """Average over what the variance between seeds will be found to be: a chi-square on S - 1 degrees of freedom.

        The images' part has degrees enough to be taken as known. The interval is the verdict's, that of the images
        alone where this is wider.
        """
        if seeds < LEAST_SEEDS or self.test_images < 2 * self.folds:
            return math.inf, 0.0
        by_seed, by_image = self._variance_parts(seeds, level)
        found = by_seed * _chi_square_points(self.folds * (seeds - 1))
        freedom = self._satterthwaite(found, by_image, seeds)
        half = special.stdtrit(freedom, self._quantile) * np.sqrt(found + by_image)
        alone = by_image + 2 * self.components.residual / (seeds * self.test_images)
        half = np.maximum(half, _t(self._quantile, self.test_images - self.folds) * math.sqrt(alone))
        error = max(math.sqrt(by_seed + by_image), _NOTHING)
        return float(half.mean()), float(special.ndtr((margin - half) / error).mean())


@dataclass(frozen=True)
class SeedPlan:
    """Seeds an arm, and why not more: REACHED, FLAT, LIMITED, UNAFFORDABLE, UNTESTABLE or UNFORETOLD."""

    seeds: int
    reason: str


def choose_seeds(forecast: Forecast, margin: float, *, max_seeds: int, affordable: int | None = None) -> SeedPlan:
    """Take the least number of seeds by which no loss of more than `margin` will be shown four times out of five.

    No further seed is taken that narrows the half-width by less than `LEAST_GAIN`, that `max_seeds` does not allow, or
    that cannot be afforded; never fewer than two, since with one there is no interval. affordable: None for any number.
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
    """Equally likely values of a chi-square over its degrees of freedom."""
    chances = (np.arange(_POINTS) + 0.5) / _POINTS
    return np.asarray(special.chdtri(freedom, 1 - chances) / freedom, dtype=np.float64)


def _t(probability: float, freedom: float) -> float:
    return float(special.stdtrit(freedom, probability))

"""The number of seeds, or of test images, that would be enough, from the parts of a difference's variance.

The variance of `pipeline.score.comparison` has three parts: one that shrinks with seeds alone, one that
shrinks with images alone, and one that shrinks with either. The last is from the residual of the tables of
seeds and images after their means. If row s of both arms is the same seed, the parts are those of one table,
D = best - control, else those of two:

    seeds  = sum over tables of max(0, var_s(mean of row s) / S - MS / (S N))    falls with 1 / S
    both   = sum over tables of MS / (S N), at most the whole of either          falls with 1 / (S N)
    images = max(0, var_i(mean over seeds best - control) / N - both)            falls with 1 / N

For images that were tested in folds, each by networks of its own, these are sums over folds, weighed as in
`pipeline.score.fold_variance`. A further seed is then a further seed in every fold.

So the images' part remains however many seeds there are, and the seeds' part however many images. A sample is
enough if a true difference at some distance from the bound is found with probability 0.8: (t(1 - alpha / 2) +
t(0.8)) SE is at most the distance. These are forecasts from parts that few seeds estimate badly. Only their
order of magnitude is reliable.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipeline.score.comparison import POWER, least_enough, t_quantile
from pipeline.score.fold_variance import (
    check_fold_numbers,
    count_folds,
    images_variance,
    interaction_variance,
    seeds_variance,
)

MOST_SEEDS = 1000
MOST_IMAGES = 100_000_000


@dataclass(frozen=True)
class VarianceParts:
    """Measured parts of the variance of a difference, each a square of a fraction of 1.

    Attributes:
        seeds: Seeds' part of each table.
        both: Part of each table that shrinks with seeds and with images.
        seed_counts: Number of rows of each table.
        images: Images' part.
        images_both: Part that shrinks with either, as contained in the interval of the images alone.
        image_count: N.
        folds: Number of folds in which the images were tested; 1 without folds.
    """

    seeds: tuple[float, ...]
    both: tuple[float, ...]
    seed_counts: tuple[int, ...]
    images: float
    images_both: float
    image_count: int
    folds: int = 1

    def detectable(self, seeds: float, images: float, confidence: float) -> float:
        """Returns the true difference that is found with probability 0.8 in a larger experiment.

        Args:
            seeds: Factor of the number of each table's rows.
            images: Factor of the number of images.
            confidence: Confidence of the interval.
        """
        freedoms = [self.folds * max(1, round(count * seeds) - 1) for count in self.seed_counts]
        parts = [one / seeds + other / (seeds * images) for one, other in zip(self.seeds, self.both, strict=True)] + [
            self.images / images
        ]
        of_images = self.images / images + self.images_both / (seeds * images)
        freedoms.append(max(1, round(self.image_count * images) - self.folds))
        candidates = [(of_images, float(freedoms[-1]))]
        if (variance := sum(parts)) > 0:
            spread = sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
            candidates.append((variance, variance**2 / spread))
        quantile = (1 + confidence) / 2
        # As in the comparison, the wider interval decides.
        half, error, freedom = max(
            (t_quantile(quantile, freedom) * math.sqrt(value), math.sqrt(value), freedom)
            for value, freedom in candidates
        )
        return float(half + t_quantile(POWER, freedom) * error)


def variance_parts(
    best: ArrayLike, control: ArrayLike, *, shared_seeds: bool = False, folds: ArrayLike | None = None
) -> VarianceParts | None:
    """Returns the parts of the variance of a difference; None with one row in an arm.

    Args:
        best: Whether each seed got each image right, (S, N).
        control: The same for the control, (S2, N).
        shared_seeds: Whether row s of both tables is the same seed.
        folds: Number of each image's fold, (N,); None without folds.

    Raises:
        ValueError: If the numbers of images differ, or those of seeds although they are shared.
    """
    first, second = np.asarray(best, dtype=np.float64), np.asarray(control, dtype=np.float64)
    if first.shape[1] != second.shape[1] or (shared_seeds and len(first) != len(second)):
        raise ValueError(f"tables that do not fit together: {first.shape} and {second.shape}")
    if min(len(first), len(second)) < 2:
        return None
    images = first.shape[1]
    numbers = check_fold_numbers(folds, images)
    tables = [first - second] if shared_seeds else [first, second]
    rows = [seeds_variance(table, numbers) for table in tables]
    left = [interaction_variance(table, numbers) for table in tables]
    of_images = images_variance(first.mean(axis=0) - second.mean(axis=0), numbers)
    return VarianceParts(
        seeds=tuple(max(0.0, row - both) for row, both in zip(rows, left, strict=True)),
        both=tuple(min(row, both) for row, both in zip(rows, left, strict=True)),
        seed_counts=tuple(len(table) for table in tables),
        images=max(0.0, of_images - sum(left)),
        images_both=min(of_images, sum(left)),
        image_count=images,
        folds=count_folds(numbers),
    )


def describe_enough(parts: VarianceParts, distance: float, confidence: float) -> str:
    """Returns a clause that says how many seeds or images would be enough; each alone, if that is possible.

    Args:
        parts: Parts of the variance.
        distance: Distance of the true difference from the bound.
        confidence: Confidence of the interval.
    """

    def is_found(seeds: float, images: float) -> bool:
        return parts.detectable(seeds, images, confidence) <= distance

    if is_found(1, 1):
        return (
            "as many seeds and images again, since chance alone, or a true difference, has brought the measured "
            "difference near its bound"
        )
    ways, rows, count = [], min(parts.seed_counts), parts.image_count
    if (seeds := least_enough(lambda each: is_found(each / rows, 1), rows, MOST_SEEDS)) is not None:
        ways.append(f"about {seeds:,} seeds an arm on as many images (retrain.seeds)")
    if (images := least_enough(lambda each: is_found(1, each / count), count, MOST_IMAGES)) is not None:
        ways.append(f"about {images:,} test images with as many seeds")
    if ways:
        stays = ""
        if seeds is None:
            stays = "; more seeds alone would not do: the images' part of the variance stays"
        elif images is None:
            stays = "; more images alone would not do: the seeds' part of the variance stays"
        return ", or ".join(ways) + stays
    if (seeds := least_enough(lambda each: is_found(each / rows, each / rows), rows, MOST_SEEDS)) is None:
        return (
            "more seeds and images than can be had: neither more seeds nor more images alone would be enough, nor "
            "1,000 seeds with more images"
        )
    images = math.ceil(count * seeds / rows)
    return f"about {seeds:,} seeds an arm and {images:,} test images together; neither would do alone"

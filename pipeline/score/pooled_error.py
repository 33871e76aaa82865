"""How far the values of configurations lie apart by chance alone, from the scores of each image, seed by seed.

A score is whether an image was right, whose mean is the accuracy, or the pseudo-value of another metric
(`pipeline.score.metrics.jackknife`), whose mean is that metric.

Configurations that are trained with the same seeds and scored on the same images are compared by differences within
seeds and images. Of a table Y[c, s, i] of C configurations, S seeds and N images, the variance of the difference of two
configurations' means is, pooled over all of them,

    2 MS(c x s) / S + max(0, 2 (MS(c x i) - MS(c x s x i) / S) / N)

with MS(c x s) the mean square of what is left of the (C, S) values after their row and column means, on (C - 1)(S -
1) degrees of freedom; MS(c x i) likewise of the (C, N) means over seeds; MS(c x s x i) of what is left of Y after both,
which MS(c x i) holds once by chance. One seed shows no variation over seeds: of it the second term is 2 MS(c x i) / N.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def pooled_error(scores: ArrayLike) -> float:
    """Standard error of the difference of two configurations' values, pooled over all configurations.

    Args:
        scores: (C, S, N), at least two configurations and two images: of each image with each seed, the same seeds and
            images in the same order for all.

    Raises:
        ValueError: another shape.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 3 or table.shape[0] < 2 or table.shape[1] < 1 or table.shape[2] < 2:
        raise ValueError(f"scores must have shape (configurations, seeds, images), at least 2 by 1 by 2: {table.shape}")
    configs, seeds, images = table.shape
    by_seed = interaction(table.mean(axis=2))
    by_image = interaction(table.mean(axis=1))
    of_images = float(np.square(by_image).sum()) / ((configs - 1) * (images - 1))
    if seeds == 1:
        return math.sqrt(2 * of_images / images)
    of_seeds = float(np.square(by_seed).sum()) / ((configs - 1) * (seeds - 1))
    # What is left after every mean over two of the three; means of one of the three alone cancel in differences.
    rest = table - table.mean(axis=0) - by_seed[:, :, None] - by_image[:, None, :]
    rest -= (table.mean(axis=(1, 2)) - table.mean())[:, None, None]
    of_rest = float(np.square(rest).sum()) / ((configs - 1) * (seeds - 1) * (images - 1))
    return math.sqrt(2 * of_seeds / seeds + max(0.0, 2 * (of_images - of_rest / seeds) / images))


def discordance_error(first: ArrayLike, second: ArrayLike) -> float:
    """Standard error of the difference of two networks' accuracies on the same images.

    With b and c of N images on which one alone is right, half an image added to either: sqrt(b + c + 1 - (b - c)^2 /
    (N + 2)) / (N + 2), which does not collapse where they differ on none (Agresti and Min, Statistics in Medicine 24,
    2005).

    Args:
        first, second: (N,), which images each was right on.
    """
    one, other = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    alone, beside, images = int((one & ~other).sum()), int((other & ~one).sum()), len(one) + 2
    return math.sqrt(alone + beside + 1 - (alone - beside) ** 2 / images) / images


def difference_error(first: ArrayLike, second: ArrayLike) -> float:
    """Standard error of the difference of two networks' values on the same images.

    Of rights and wrongs that of `discordance_error`; of other scores the root of var_i(first - second) / N.

    Args:
        first, second: (N,), N > 1, bool or numbers.
    """
    one, other = np.asarray(first), np.asarray(second)
    if one.dtype == other.dtype == np.bool_:
        return discordance_error(one, other)
    difference = one.astype(np.float64) - other
    return math.sqrt(float(difference.var(ddof=1)) / len(difference))


def interaction(table: Floats) -> Floats:
    """What is left of a table (R, K) after its row and column means: the interaction of its rows and columns."""
    rest: Floats = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    return rest

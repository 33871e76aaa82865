"""Standard error of the differences of configurations, from the scores of each image with each seed.

A score is whether an image was right, and its mean is the accuracy. Or it is the pseudo-value of another
metric (`pipeline.score.metrics.jackknife`), and its mean is that metric.

Configurations trained with the same seeds and scored on the same images are compared by differences within
seeds and images. For a table Y[c, s, i] of C configurations, S seeds and N images, the variance of the
difference of two configurations' means, pooled over all of them, is

    2 MS(c x s) / S + max(0, 2 (MS(c x i) - MS(c x s x i) / S) / N)

MS(c x s) is the mean square of the residual of the (C, S) values after their row and column means, on (C -
1)(S - 1) degrees of freedom. MS(c x i) is the same for the (C, N) means over seeds. MS(c x s x i) is that of
the residual of Y after both, which MS(c x i) contains once by chance. With one seed there is no variation
over seeds to estimate, and the variance is 2 MS(c x i) / N.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def pooled_error(scores: ArrayLike) -> float:
    """Returns the standard error of the difference of two configurations' values.

    It is pooled over all configurations.

    Args:
        scores: Score of each image with each seed, (C, S, N), with at least two configurations and two
            images. Seeds and images are the same, in the same order, for all configurations.

    Raises:
        ValueError: If the shape is another one.
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
    # The residual after all pairwise effects. Effects of one factor alone cancel in differences.
    rest = table - table.mean(axis=0) - by_seed[:, :, None] - by_image[:, None, :]
    rest -= (table.mean(axis=(1, 2)) - table.mean())[:, None, None]
    of_rest = float(np.square(rest).sum()) / ((configs - 1) * (seeds - 1) * (images - 1))
    return math.sqrt(2 * of_seeds / seeds + max(0.0, 2 * (of_images - of_rest / seeds) / images))


def discordance_error(first: ArrayLike, second: ArrayLike) -> float:
    """Returns the standard error of the difference of two networks' accuracies on the same images.

    With b and c of N images on which one network alone is right, and half an image added to either, it is

        sqrt(b + c + 1 - (b - c)^2 / (N + 2)) / (N + 2)

    which does not collapse where they differ on none (Agresti and Min, Statistics in Medicine 24, 2005).

    Args:
        first: Whether the first network got each image right, (N,).
        second: The same for the second network.
    """
    one, other = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    alone, beside, images = int((one & ~other).sum()), int((other & ~one).sum()), len(one) + 2
    return math.sqrt(alone + beside + 1 - (alone - beside) ** 2 / images) / images


def difference_error(first: ArrayLike, second: ArrayLike) -> float:
    """Returns the standard error of the difference of two networks' values on the same images.

    For bool it is that of `discordance_error`; for other scores the root of var_i(first - second) / N.

    Args:
        first: Scores of the first network, (N,), N > 1, bool or numbers.
        second: Scores of the second network, (N,).
    """
    one, other = np.asarray(first), np.asarray(second)
    if one.dtype == other.dtype == np.bool_:
        return discordance_error(one, other)
    difference = one.astype(np.float64) - other
    return math.sqrt(float(difference.var(ddof=1)) / len(difference))


def interaction(table: Floats) -> Floats:
    """Returns the residual of a table after its row and column means: the interaction of rows and columns.

    Args:
        table: (R, K).
    """
    rest: Floats = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    return rest

"""Variance of a difference tested fold by fold, where each fold has its own search and trainings.

In an outer cross-validation every image is tested by networks that have not seen it: those of its fold, whose
configuration was chosen by the fold's own search, and which were trained with the fold's own seeds. So the
table D[s, i] = best - control of S seeds and N images consists of K tables side by side: row s is another
network in every fold. Fold k has n_k of the N images, so the mean of D weighs the fold's mean with w_k = n_k
/ N. The parts of `pipeline.score.comparison`'s layout are sums over folds:

    V_seeds  = sum_k w_k^2  var_s(D_k[s, .]) / S                     on K (S - 1) degrees of freedom
    images   = sum_k w_k^2  var_i(D_k[., i]) / n_k                   on N - K degrees of freedom
    both     = sum_k w_k^2  MS_k / (S n_k)
    V_images = max(0, images - both)

var_i is taken around the fold's own mean. With K = 1 this is the layout without folds.

V is the variance for these K searches, tested on other images (Bayle, Bayle, Janson and Mackey, NeurIPS 2020:
the interval of a K-fold test error is one of the mean error of the K fitted rules). V does not contain the
effect of another sample of images to search and train on. No unbiased estimate of that exists (Bengio and
Grandvalet, Journal of Machine Learning Research 5, 2004).

A score of each image (accuracy, log loss, an AUROC of its attention) is averaged over images directly. For
another metric, pseudo-values take the place of scores, (S, N) for either arm. If the metric is computed from
counts (F1), they are those of all folds' predictions together. An F1 of a fold's few images is biased, and so
is the mean over folds. If the metric ranks images by their scores (AUROC), they are those of each fold's
predictions separately. Scores of different networks cannot be ranked together (Forman and Scholz, SIGKDD
Explorations 12, 2010).
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.score.pooled_error import interaction

Floats = NDArray[np.float64]
Folds = NDArray[np.int64]


def check_fold_numbers(folds: ArrayLike | None, images: int) -> Folds:
    """Returns the number of every image's fold, (N,); 0 for all images without folds.

    Args:
        folds: Number of each image's fold, (N,); None without folds.
        images: N.

    Raises:
        ValueError: If the shape is not (N,), or a fold has a single image, from which no variance can be
            estimated.
    """
    if folds is None:
        return np.zeros(images, dtype=np.int64)
    numbers = np.asarray(folds, dtype=np.int64)
    if numbers.shape != (images,):
        raise ValueError(f"folds must have the shape ({images},), got {numbers.shape}")
    if has_single_image(numbers):
        raise ValueError("no variance can be estimated from a fold with a single image")
    return numbers


def has_single_image(folds: Folds) -> bool:
    """Returns whether any fold that occurs has a single image.

    Args:
        folds: Number of each image's fold, (N,).
    """
    return bool((np.unique(folds, return_counts=True)[1] == 1).any())


def can_be_compared(folds: Folds, left: Folds) -> bool:
    """Returns whether every fold still has at least two images after some were left out.

    Args:
        folds: Number of each image's fold, (N,).
        left: The same for the remaining images.
    """
    return len(np.unique(left)) == len(np.unique(folds)) and not has_single_image(left)


def count_folds(folds: Folds) -> int:
    """Returns the number of folds."""
    return len(np.unique(folds))


def seeds_variance(table: Floats, folds: Folds) -> float:
    """Returns V_seeds of a table (S, N) with at least two rows."""
    return math.fsum(weight * part.mean(axis=1).var(ddof=1) / len(part) for part, weight in _parts(table, folds))


def images_variance(gains: Floats, folds: Folds) -> float:
    """Returns the variance of the mean of gains (N,), over images alone."""
    return math.fsum(weight * part.var(ddof=1) / part.size for part, weight in _parts(gains[None], folds))


def interaction_variance(table: Floats, folds: Folds) -> float:
    """Returns the part of the variance that shrinks with seeds and with images.

    The table (S, N) has at least two rows.
    """
    return math.fsum(weight * _mean_square(part) / part.size for part, weight in _parts(table, folds))


def _mean_square(table: Floats) -> float:
    """Returns the mean square of the residual of a table after its row and column means."""
    return float(np.square(interaction(table)).sum() / ((table.shape[0] - 1) * (table.shape[1] - 1)))


def _parts(table: Floats, folds: Folds) -> Iterator[tuple[Floats, float]]:
    """Yields each fold's own table, with the square of its weight."""
    for number in np.unique(folds):
        part = table[:, folds == number]
        yield part, (part.shape[1] / table.shape[1]) ** 2

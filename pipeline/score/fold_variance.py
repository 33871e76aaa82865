"""The variance of a difference that is tested fold by fold, by networks of each fold's own searches and trainings.

In an outer cross-validation every image is tested by networks that have not seen it: those of its fold, which a search
of its own chose and its own seeds trained. So the table D[s, i] = best - control of S seeds and N images is K tables,
side by side: row s is another network in every fold. With n_k of the N images in fold k, the mean of D weighs the
fold's mean with w_k = n_k / N, and the parts of `pipeline.score.comparison`'s layout are sums over folds:

    V_seeds  = sum_k w_k^2  var_s(D_k[s, .]) / S                     on K (S - 1) degrees of freedom
    images   = sum_k w_k^2  var_i(D_k[., i]) / n_k                   on N - K degrees of freedom
    both     = sum_k w_k^2  MS_k / (S n_k)
    V_images = max(0, images - both)

var_i is taken around the fold's own mean. With K = 1 all of this is the layout without folds.

What is said by it: V is of these K searches, tested on other images (Bayle, Bayle, Janson and Mackey, NeurIPS 2020:
the interval of a K-fold test error is of the mean error of the K fitted rules). How much another sample of images to
search and train on would change is not in it, and no unbiased estimate of that exists (Bengio and Grandvalet, Journal
of Machine Learning Research 5, 2004).

A score of each image (accuracy, log loss, an AUROC of its attention) is averaged over images as it is. Of another
metric, pseudo-values take the scores' place, (S, N) for either arm: where the metric is made of counts (F1), those of
all folds' predictions together, since an F1 of a fold's few images is biased and its mean too; where it ranks images by
their scores (AUROC), those of each fold's predictions by themselves, since scores of different networks cannot be
ranked together (Forman and Scholz, SIGKDD Explorations 12, 2010).
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.score.pooled_error import interaction

Floats = NDArray[np.float64]
Folds = NDArray[np.int64]


def check_fold_numbers(folds: ArrayLike | None, images: int) -> Folds:
    """The number of every image's fold, (N,); all are of one fold where none are given.

    Raises:
        ValueError: numbers of other images, or a fold of a single image, which tells no variance.
    """
    if folds is None:
        return np.zeros(images, dtype=np.int64)
    numbers = np.asarray(folds, dtype=np.int64)
    if numbers.shape != (images,):
        raise ValueError(f"folds must have the shape ({images},), got {numbers.shape}")
    if has_single_image(numbers):
        raise ValueError("a fold with a single image tells no variance")
    return numbers


def has_single_image(folds: Folds) -> bool:
    """Whether a fold that occurs at all has one image alone."""
    return bool((np.unique(folds, return_counts=True)[1] == 1).any())


def can_be_compared(folds: Folds, left: Folds) -> bool:
    """Whether of images in folds, of which some are left, every fold has two at least."""
    return len(np.unique(left)) == len(np.unique(folds)) and not has_single_image(left)


def count_folds(folds: Folds) -> int:
    """How many folds there are."""
    return len(np.unique(folds))


def seeds_variance(table: Floats, folds: Folds) -> float:
    """V_seeds of a table (S, N), of two rows at least."""
    return math.fsum(weight * part.mean(axis=1).var(ddof=1) / len(part) for part, weight in _parts(table, folds))


def images_variance(gains: Floats, folds: Folds) -> float:
    """The variance over images alone of the mean of gains (N,)."""
    return math.fsum(weight * part.var(ddof=1) / part.size for part, weight in _parts(gains[None], folds))


def interaction_variance(table: Floats, folds: Folds) -> float:
    """What either more seeds or more images shrink, of a table (S, N) of two rows at least."""
    return math.fsum(weight * _mean_square(part) / part.size for part, weight in _parts(table, folds))


def _mean_square(table: Floats) -> float:
    """Of what is left after the means of rows and columns."""
    return float(np.square(interaction(table)).sum() / ((table.shape[0] - 1) * (table.shape[1] - 1)))


def _parts(table: Floats, folds: Folds) -> Iterator[tuple[Floats, float]]:
    """Each fold's own table, with the square of its weight."""
    for number in np.unique(folds):
        part = table[:, folds == number]
        yield part, (part.shape[1] / table.shape[1]) ** 2

"""Table of configurations over the seeds that they share: their means, and how far equal ones would lie apart
by chance.

There are K configurations, S seeds and N validation images. The value of the first objective is x[k, s], and an
image's score in it is c[k, s, i]: whether it was classified correctly, or its pseudo-value. Two parts make
equal configurations differ.

The seeds' part is MS(configuration x seed) / S. Its numerator is the mean square of x[k, s] - x[k, .] - x[., s]
+ x[., .] on (K-1)(S-1) degrees of freedom, pooled over all configurations.

The images' part is computed from D[s, i] = c[a, s, i] - c[b, s, i]. It is the variance over images of D's mean
over seeds, divided by N, less the contribution of seeds to it, MS(seed x image) / (S N).

Seeds that are alike for all configurations, and images that are hard for all, cancel.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.score.comparison import FEW_DISCORDANT
from pipeline.score.pooled_error import interaction
from pipeline.tune.journal.image_scores import ImageScores
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, VAL_ACCURACY, TrialRecord

Seed = TypeVar("Seed", int, int | None)


@dataclass(frozen=True)
class SeedTable:
    """Values of configurations over the seeds that they share.

    Attributes:
        ids: Ids of the configurations, K > 1.
        values: The objective, (K, S), S > 1.
        scores: Scores of the images, (K, S, N), booleans or pseudo-values; None if a run has none.
    """

    ids: Sequence[str]
    values: NDArray[np.float64]
    scores: NDArray[np.bool_] | NDArray[np.float32] | None

    @property
    def means(self) -> NDArray[np.float64]:
        """Means over seeds, (K,)."""
        return np.asarray(self.values.mean(axis=1))

    @property
    def seeds(self) -> int:
        """Number of seeds, S."""
        return int(self.values.shape[1])

    @property
    def degrees_of_freedom(self) -> int:
        """Degrees of freedom of `seed_variance`."""
        return degrees_of_freedom(self.ids, range(self.seeds))

    def seed_variance(self) -> float:
        """Returns MS(configuration x seed) / S: the seeds' part of the variance of a configuration's mean."""
        return float((interaction(self.values) ** 2).sum() / self.degrees_of_freedom / self.seeds)

    def image_variance(self, one: int, other: int) -> float | None:
        """Returns the images' part of the variance of a difference of two configurations' means; None if it is
        not available.

        If fewer than ten images are right for one of them alone, half an image is added each way, since the
        variance of no such image would be 0.
        """
        if self.scores is None or self.scores.shape[2] < 2:
            return None
        difference = self.scores[one].astype(np.float64) - self.scores[other]
        seeds, images = difference.shape
        mean = difference.mean(axis=0)
        square = float(((mean - mean.mean()) ** 2).sum())
        if self.scores.dtype == np.bool_ and (mean != 0).sum() < FEW_DISCORDANT:
            square += 1.0
        mean_square = float((interaction(difference) ** 2).sum()) / ((seeds - 1) * (images - 1))
        return float(max(0.0, square / (images - 1) / images - mean_square / (seeds * images)))

    def mean_image_variance(self, rows: Sequence[int]) -> float | None:
        """Returns the mean of `image_variance` over all pairs of these rows; None if it is not available."""
        found = [self.image_variance(*pair) for pair in itertools.combinations(rows, 2)]
        known = [value for value in found if value is not None]
        return float(np.mean(known)) if known else None


def seed_table(
    trials: Sequence[TrialRecord],
    of: Sequence[str],
    scores: ImageScores,
    *,
    epoch: int | None = None,
    metric: str = VAL_ACCURACY,
) -> SeedTable | None:
    """Returns the table of configurations over the seeds with which all of them ran in full.

    A configuration with too few seeds, since a confirmation failed or was not started, is left out if the
    others then leave more degrees of freedom.

    Args:
        trials: Every record, confirmations included.
        of: Ids of the trials and controls to compare.
        scores: Scores of the validation images, by run.
        epoch: Epoch at which they are compared; None for their last one.
        metric: Metric by which they are compared.

    Returns:
        The table; None if fewer than two configurations, or fewer than two seeds, are left.
    """
    runs: dict[str, dict[int | None, TrialRecord]] = {name: {} for name in of}
    for trial in trials:
        name = trial.of if trial.role == CONFIRMATION else trial.id
        if name in runs and trial.state == COMPLETE and math.isfinite(trial.metric(metric, epoch)):
            runs[name][trial.seed] = trial
    names, shared = max(
        shared_seeds(runs),
        key=lambda found: (degrees_of_freedom(*found), len(found[1])),
        default=([], set[int | None]()),
    )
    if len(names) < 2 or len(shared) < 2:
        return None
    seeds = sorted(shared, key=lambda seed: (seed is not None, seed or 0))  # None is base.seed, the search's own
    whole = {name: runs[name] for name in names}
    values = np.array([[found[seed].metric(metric, epoch) for seed in seeds] for found in whole.values()])
    table = scores.table([[(of[seed].id, epoch or of[seed].last_epoch) for seed in seeds] for of in whole.values()])
    return SeedTable(names, values, table)


def shared_seeds(runs: Mapping[str, Mapping[Seed, object]]) -> Iterator[tuple[list[str], set[Seed]]]:
    """Yields the configurations that have at least so many seeds, with the seeds that all of them have.

    The configurations become fewer with every step. Configurations that share no seed are left out.

    Args:
        runs: Runs by configuration and seed.
    """
    for least in sorted({len(found) for found in runs.values()}):
        names = [name for name, found in runs.items() if len(found) >= least]
        if shared := set.intersection(*(set(runs[name]) for name in names)):
            yield names, shared


def degrees_of_freedom(configurations: Collection[str], seeds: Collection[Any]) -> int:
    """Returns the degrees of freedom of the interaction of configurations and seeds."""
    return (len(configurations) - 1) * (len(seeds) - 1)

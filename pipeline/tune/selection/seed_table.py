"""Configurations side by side, over the seeds that they share: means, and what seeds and images alone would do to them.

Of K configurations, S seeds and N validation images, x[k, s] is the value of the first objective, and c[k, s, i] what
an image counts for in it: whether it was right, or its pseudo-value.
Two parts make configurations differ that are equal. One is the seeds': MS(configuration x seed) / S, the mean square of
x[k, s] - x[k, .] - x[., s] + x[., .] on (K-1)(S-1) degrees of freedom, pooled over all of them. The other is the
images': of D[s, i] = c[a, s, i] - c[b, s, i], the variance of its mean over seeds from image to image, over N, less
what seeds put into it, MS(seed x image) / (S N). Seeds that are alike for all configurations, and images that are hard
for all, cancel.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.score.comparison import FEW_DISCORDANT
from pipeline.score.pooled_error import interaction
from pipeline.tune.journal.image_scores import ImageScores
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, VAL_ACCURACY, TrialRecord


@dataclass(frozen=True)
class SeedTable:
    """ids: of the configurations, K > 1. values: the objective, (K, S), S > 1. scores: of the images, (K, S, N); None
    where they are not known of every run.
    """

    ids: Sequence[str]
    values: NDArray[np.float64]
    scores: NDArray[np.bool_] | NDArray[np.float64] | None

    @property
    def means(self) -> NDArray[np.float64]:
        """Over seeds, (K,)."""
        return np.asarray(self.values.mean(axis=1))

    @property
    def seeds(self) -> int:
        return int(self.values.shape[1])

    @property
    def degrees_of_freedom(self) -> int:
        """Of `seed_variance`."""
        return (len(self.ids) - 1) * (self.seeds - 1)

    def seed_variance(self) -> float:
        """MS(configuration x seed) / S: the seeds' part of the variance of a configuration's mean."""
        return float((interaction(self.values) ** 2).sum() / self.degrees_of_freedom / self.seeds)

    def image_variance(self, one: int, other: int) -> float | None:
        """The images' part of the variance of a difference of two configurations' means; None where it is not known.

        Fewer than ten images that one of them alone gets right get half of one more each way: the variance of none
        would be 0.
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
        """`image_variance` as the mean over all pairs of these rows."""
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
    """The table of these configurations (ids of trials and controls) over the seeds that all of them ran in full with,
    by a metric as it was at an epoch; None: at their last.

    One of too few seeds, since a confirmation failed or was not started, is left out where more degrees of freedom are
    left without it. None if fewer than two configurations, or no two seeds, are left.
    """
    runs: dict[str, dict[int | None, TrialRecord]] = {name: {} for name in of}
    for trial in trials:
        name = trial.of if trial.role == CONFIRMATION else trial.id
        if name in runs and trial.state == COMPLETE and math.isfinite(_value(trial, metric, epoch)):
            runs[name][trial.seed] = trial
    chosen: tuple[int, int, dict[str, dict[int | None, TrialRecord]], list[int | None]] | None = None
    for least in sorted({len(found) for found in runs.values()}):
        whole = {name: found for name, found in runs.items() if len(found) >= least}
        shared = set.intersection(*(set(found) for found in whole.values()))
        seeds = sorted(shared, key=lambda seed: (seed is not None, seed or 0))  # None is base.seed, the search's own
        freedom = (len(whole) - 1) * (len(seeds) - 1) if seeds else 0
        if freedom > 0 and (chosen is None or (freedom, len(seeds)) > chosen[:2]):
            chosen = freedom, len(seeds), whole, seeds
    if chosen is None:
        return None
    _, _, whole, seeds = chosen
    values = np.array([[_value(found[seed], metric, epoch) for seed in seeds] for found in whole.values()])
    return SeedTable(list(whole), values, _scores(whole, seeds, scores, epoch))


def _value(trial: TrialRecord, metric: str, epoch: int | None) -> float:
    return trial.metric(metric) if epoch is None else trial.epochs.get(epoch, {}).get(metric, math.nan)


def _scores(
    runs: Mapping[str, Mapping[int | None, TrialRecord]],
    seeds: Sequence[int | None],
    scores: ImageScores,
    epoch: int | None,
) -> NDArray[np.bool_] | None:
    found = [[scores.at(of[seed].id, epoch or of[seed].last_epoch) for seed in seeds] for of in runs.values()]
    lengths = {None if flags is None else len(flags) for row in found for flags in row}
    return None if None in lengths or len(lengths) != 1 else np.array(found, dtype=bool)

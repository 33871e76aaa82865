"""The seeds of each arm as one ensemble: the mean of their probabilities, scored beside the single networks.

The verdict is about single networks, because a single network is registered. Two ensembles are two fixed
classifiers. Their difference has an interval over images only (`pipeline.score.paired_test`), because other seeds
would make other ensembles.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.artifacts.evaluation import Ensembles, EnsembleScores
from pipeline.score.classify import classification_scores
from pipeline.score.metrics.metric import ACCURACY, Metric
from pipeline.score.paired_test import paired_difference, paired_score_difference


def compare_ensembles(
    best: ArrayLike, control: ArrayLike, labels: NDArray[np.int64], *, confidence: float, metric: Metric = ACCURACY
) -> Ensembles | None:
    """Returns the part of evaluation.json on the ensembles; None if an arm has a single network.

    Args:
        best: Probabilities of the best configuration's networks, (S, N, C).
        control: Probabilities of the control's networks, (S2, N, C).
        labels: Class of each test image, (N,).
        confidence: Confidence of the interval.
        metric: Metric by which the ensembles are compared, with its margin.
    """
    arms = [np.asarray(arm, dtype=np.float64) for arm in (best, control)]
    if min(len(arm) for arm in arms) < 2:
        return None
    first, second = (arm.mean(axis=0) for arm in arms)
    found = [classification_scores(mean, labels) for mean in (first, second)]
    rows = [
        EnsembleScores(seeds=len(arm), accuracy=each.accuracy, nll=each.nll, ece=each.ece)
        for arm, each in zip(arms, found, strict=True)
    ]
    if metric.name == ACCURACY.name:
        right = [mean.argmax(axis=1) == labels for mean in (first, second)]
        pair = paired_difference(*right, confidence=confidence)
        return Ensembles(
            best=rows[0],
            control=rows[1],
            difference=pair.difference,
            low=pair.low,
            high=pair.high,
            confidence=confidence,
            only_best=pair.only_first,
            only_control=pair.only_second,
        )
    values = [metric.value_of(mean, labels) for mean in (first, second)]
    tables, low, high = metric.tables({"best": first[None], "control": second[None]}, labels), None, None
    if tables is not None:
        scores = paired_score_difference(tables["best"][0], tables["control"][0], confidence=confidence)
        low, high = scores.low, scores.high
    return Ensembles(
        best=rows[0].with_values({metric.key: values[0]}),
        control=rows[1].with_values({metric.key: values[1]}),
        difference=values[0] - values[1],
        low=low,
        high=high,
        confidence=confidence,
        metric=metric.words,
    )

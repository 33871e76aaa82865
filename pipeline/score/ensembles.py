"""The seeds of each arm as one ensemble, the mean of their probabilities: a row beside the single networks.

The verdict is of single networks, since one network is what is registered. Two ensembles are two fixed classifiers, and
their difference has an interval of the images alone (`pipeline.score.paired_test`): other seeds would make two others.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.console.format import format_interval, format_points
from pipeline.score.classify import classification_scores
from pipeline.score.paired_test import paired_difference


def compare_ensembles(
    best: ArrayLike, control: ArrayLike, labels: NDArray[np.int64], *, confidence: float
) -> dict[str, Any] | None:
    """What evaluation.json says of both ensembles; None where an arm has a single network.

    Args:
        best: Probabilities of the best configuration's networks, (S, N, C).
        control: Those of the control's, (S2, N, C).
        labels: (N,).
        confidence: The interval's level.
    """
    arms = {"best": np.asarray(best, dtype=np.float64), "control": np.asarray(control, dtype=np.float64)}
    if min(len(arm) for arm in arms.values()) < 2:
        return None
    means = {name: arm.mean(axis=0) for name, arm in arms.items()}
    scores = {name: classification_scores(mean, labels) for name, mean in means.items()}
    right = {name: mean.argmax(axis=1) == labels for name, mean in means.items()}
    pair = paired_difference(right["best"], right["control"], confidence=confidence)
    rows = {
        name: {"seeds": len(arms[name]), "accuracy": found.accuracy, "nll": found.nll, "ece": found.ece}
        for name, found in scores.items()
    }
    interval = {"difference": pair.difference, "low": pair.low, "high": pair.high, "confidence": confidence}
    alone = {"only_best": pair.only_first, "only_control": pair.only_second}
    return {**rows, **interval, **alone}


def describe_ensembles(ensembles: Mapping[str, Any]) -> str:
    """What `compare_ensembles` found, in two sentences."""
    low, high = float(ensembles["low"]), float(ensembles["high"])
    level = f"{100 * ensembles['confidence']:.4g} %"
    return (
        f"These two ensembles (each the mean of its seeds' probabilities) differ by "
        f"{format_points(ensembles['difference'])} ({level} {format_interval(low, high)}, of the images alone: other "
        "seeds would make two others). The verdict is of single networks."
    )

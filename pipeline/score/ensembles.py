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
from pipeline.score.metrics.metric import ACCURACY, Metric
from pipeline.score.metrics.wording import words_from
from pipeline.score.paired_test import paired_difference, paired_score_difference


def compare_ensembles(
    best: ArrayLike, control: ArrayLike, labels: NDArray[np.int64], *, confidence: float, metric: Metric = ACCURACY
) -> dict[str, Any] | None:
    """What evaluation.json says of both ensembles; None where an arm has a single network.

    Args:
        best: Probabilities of the best configuration's networks, (S, N, C).
        control: Those of the control's, (S2, N, C).
        labels: (N,).
        confidence: The interval's level.
        metric: That they are compared by, with its margin.
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
    if metric.name != ACCURACY.name:
        return _by_metric(rows, means, labels, metric, confidence)
    interval = {"difference": pair.difference, "low": pair.low, "high": pair.high, "confidence": confidence}
    alone = {"only_best": pair.only_first, "only_control": pair.only_second}
    return {**rows, **interval, **alone}


def _by_metric(
    rows: Mapping[str, dict[str, Any]],
    means: Mapping[str, NDArray[np.float64]],
    labels: NDArray[np.int64],
    metric: Metric,
    confidence: float,
) -> dict[str, Any]:
    values = {name: metric.value_of(mean, labels) for name, mean in means.items()}
    low = high = None
    tables = metric.tables({name: mean[None] for name, mean in means.items()}, labels)
    if tables is not None:
        pair = paired_score_difference(tables["best"][0], tables["control"][0], confidence=confidence)
        low, high = pair.low, pair.high
    valued = {name: {**row, metric.key: values[name]} for name, row in rows.items()}
    difference = values["best"] - values["control"]
    interval = {"difference": difference, "low": low, "high": high, "confidence": confidence}
    return {**valued, **interval, "metric": metric.words.content()}


def describe_ensembles(ensembles: Mapping[str, Any]) -> str:
    """What `compare_ensembles` found, in two sentences."""
    if (told := ensembles.get("metric")) is not None:
        words = words_from(told)
        said = f"by {words.format_difference(ensembles['difference'])} in {words.label}"
        if ensembles["low"] is None or ensembles["high"] is None:
            return (
                f"These two ensembles (each the mean of its seeds' probabilities) differ {said}. The verdict is of "
                "single networks."
            )
        level = f"{100 * ensembles['confidence']:.4g} %"
        span = words.format_interval(float(ensembles["low"]), float(ensembles["high"]))
        return (
            f"These two ensembles (each the mean of its seeds' probabilities) differ {said} ({level} {span}, of the "
            "images alone: other seeds would make two others). The verdict is of single networks."
        )
    low, high = float(ensembles["low"]), float(ensembles["high"])
    level = f"{100 * ensembles['confidence']:.4g} %"
    return (
        f"These two ensembles (each the mean of its seeds' probabilities) differ by "
        f"{format_points(ensembles['difference'])} ({level} {format_interval(low, high)}, of the images alone: other "
        "seeds would make two others). The verdict is of single networks."
    )

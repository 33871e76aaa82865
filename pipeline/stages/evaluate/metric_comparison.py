"""Comparison of two arms by a metric: with its pseudo-values if it has them, else by one value a seed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import UserError
from pipeline.score.comparison import Comparison, compare_scores, compare_values
from pipeline.score.fold_variance import Folds
from pipeline.score.metrics.metric import Metric

BEST, CONTROL = "best", "control"


@dataclass(frozen=True)
class MetricComparison:
    """Two arms compared by a metric.

    Attributes:
        comparison: Best minus control.
        values: The metric's value of every seed, (S,) by arm.
        tables: Pseudo-values (S, N) by arm; None if the metric has none.
    """

    comparison: Comparison
    values: Mapping[str, NDArray[np.float64]]
    tables: Mapping[str, NDArray[np.float64]] | None


def compare_metric(
    metric: Metric,
    best: ArrayLike,
    control: ArrayLike,
    labels: ArrayLike,
    *,
    confidence: float = 0.95,
    shared_seeds: bool = True,
    folds: Folds | None = None,
) -> MetricComparison:
    """Compares the probabilities of two arms on the same images by a metric.

    Args:
        metric: Metric by which the arms are compared.
        best: Probabilities of the best configuration's networks, (S, N, C).
        control: Probabilities of the control's networks, (S2, N, C).
        labels: Class of each image, (N,).
        confidence: Confidence of the interval.
        shared_seeds: Whether row s of both arms is the same seed.
        folds: Number of each image's fold, (N,); None without folds.

    Raises:
        UserError: The metric has no value on these images, or a user's function fails.
        ValueError: As in `Metric.value_of` and in `compare_scores`.
    """
    arms = {BEST: np.asarray(best), CONTROL: np.asarray(control)}
    truth = np.asarray(labels)
    values = {arm: np.array([metric.value_of(run, truth, folds) for run in runs]) for arm, runs in arms.items()}
    if not all(np.isfinite(each).all() for each in values.values()):
        raise UserError(
            f"params.yaml: evaluate.metric: {metric.name} has no value on these {len(truth):,} images, which are all "
            "of one class."
        )
    tables = metric.tables(arms, truth, folds)
    if tables is None:
        note = f"{metric.label} is declared not smooth, so that no interval can be given"
    elif all(np.isfinite(table).all() for table in tables.values()):
        found = compare_scores(
            tables[BEST], tables[CONTROL], confidence=confidence, shared_seeds=shared_seeds, folds=folds
        )
        return MetricComparison(found, values, tables)
    else:
        note = f"a class has a single image, without which {metric.label} has no value, so no interval can be given"
    plain = compare_values(
        values[BEST],
        values[CONTROL],
        images=len(truth),
        note=note,
        confidence=confidence,
        shared_seeds=shared_seeds,
    )
    return MetricComparison(plain, values, None)

"""Two arms compared by a metric: from pseudo-values where it has them, else by its values alone."""

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
    """comparison: best minus control. values: of every seed, (S,) by arm. tables: pseudo-values (S, N) by arm, None
    where there are none.
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
    """Compare probabilities (S, N, C) and (S2, N, C) of the same images by a metric.

    folds: (N,), the number of each image's fold; None without folds.

    Raises:
        UserError: the metric has no value on these images, or a user's function fails.
        ValueError: as `Metric.value_of`, and as `compare_scores`.
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

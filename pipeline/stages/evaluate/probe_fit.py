"""A probe: multinomial logistic regression on fixed features, scikit-learn's, with its strength chosen on validation
images.

scikit-learn minimises  C * (sum over images of w_y * cross-entropy) + |W|^2 / 2,  biases not penalised. Features are
standardised by the training images' mean and deviation. C is that of `STRENGTHS` whose validation images have the best
metric; among equals the least log loss, then the least C. The probe is then fitted anew on train and val, as networks
are retrained on both. Shape letters: N images, D features, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.score.metrics.metric import LOG_LOSS, Metric

STRENGTHS: tuple[float, ...] = tuple(float(f"{strength:.4g}") for strength in np.logspace(-4, 4, 17))
"""The values of C that are tried, from the strongest penalty to the weakest: two a decade."""

MOST_STEPS, TOLERANCE = 5000, 1e-6
"""Of scikit-learn's L-BFGS. Each fit begins where the one before ended, from which a weak penalty would not
move at all at scikit-learn's own tolerance, 1e-4."""

Labelled = tuple[ArrayLike, ArrayLike]
"""Features (N, D) and labels (N,)."""


@dataclass(frozen=True)
class Probe:
    """probabilities: (N, C) of the test images. strength: the C that was chosen. values: the metric of the validation
    images by each C that was tried. converged: whether the last fit did within `MOST_STEPS`.
    """

    probabilities: NDArray[np.float64]
    strength: float
    values: Mapping[float, float]
    converged: bool


def fit_probe(
    train: Labelled,
    val: Labelled,
    test: ArrayLike,
    *,
    num_classes: int,
    metric: Metric,
    class_weights: ArrayLike | None = None,
) -> Probe:
    """Choose C on val, fit on train and val, and predict test, (N, D).

    class_weights: what an image of each class weighs, (C,); None: all the same. Where the metric has no value on the
    validation images, the log loss decides.

    Raises:
        ValueError: training images of a single class, or what the metric refuses.
    """
    features, labels = np.asarray(train[0], dtype=np.float64), np.asarray(train[1])
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation < 1e-6 * np.abs(mean) + 1e-12] = 1.0  # a feature that all training images share
    known, held, tested = ((np.asarray(each) - mean) / deviation for each in (features, val[0], test))
    truth, weights = np.asarray(val[1]), None if class_weights is None else np.asarray(class_weights, dtype=np.float64)
    path = _regression(weights, num_classes)
    values, rank = dict[float, float](), dict[float, tuple[float, float, float]]()
    for strength in STRENGTHS:
        path.set_params(C=strength, warm_start=True).fit(known, labels)
        shares = _predict(path, held, num_classes)
        values[strength], loss = metric.value_of(shares, truth), LOG_LOSS.value_of(shares, truth)
        gain = metric.sign * values[strength]
        rank[strength] = (gain if np.isfinite(gain) else -np.inf, -loss, -strength)
    chosen = max(rank, key=lambda strength: rank[strength])
    last = _regression(weights, num_classes).set_params(C=chosen)
    last.fit(np.concatenate([known, held]), np.concatenate([labels, truth]))
    return Probe(_predict(last, tested, num_classes), chosen, values, bool(np.max(last.n_iter_) < MOST_STEPS))


def _regression(weights: NDArray[np.float64] | None, num_classes: int) -> Any:
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped, unused-ignore]  # takes a second

    by_label = None if weights is None else {label: float(weights[label]) for label in range(num_classes)}
    return LogisticRegression(max_iter=MOST_STEPS, tol=TOLERANCE, class_weight=by_label)


def _predict(fitted: Any, features: NDArray[np.float64], num_classes: int) -> NDArray[np.float64]:
    """Probabilities (N, C): 0 of a class that it was fitted without."""
    shares = np.zeros((len(features), num_classes))
    shares[:, fitted.classes_] = fitted.predict_proba(features)
    return shares

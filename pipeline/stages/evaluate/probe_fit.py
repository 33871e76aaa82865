"""Probe: scikit-learn's multinomial logistic regression on fixed features, with its strength chosen on val images.

scikit-learn minimises  C * (sum over images of w_y * cross-entropy) + |W|^2 / 2,  biases not penalised. Features are
standardised by the training images' mean and deviation. C is the value of `STRENGTHS` with the best metric on the
validation images. Ties go to the smallest log loss, then to the smallest C. The probe is then fitted anew on train
and val, as networks are retrained on both. Shape letters: N images, D features, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.score.metrics.metric import LOG_LOSS, Metric

STRENGTHS: tuple[float, ...] = tuple(float(f"{strength:.4g}") for strength in np.logspace(-4, 4, 17))
"""Values of C that are tried, from the strongest penalty to the weakest: two a decade."""

MOST_STEPS, TOLERANCE = 5000, 1e-6
"""Maximum iterations and tolerance of scikit-learn's L-BFGS.

Each fit starts from the solution of the previous one. With scikit-learn's default tolerance, 1e-4, a fit with a weak
penalty would stop there at once.
"""

Labelled = tuple[ArrayLike, ArrayLike]
"""Features (N, D) and labels (N,)."""


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        probabilities: Probabilities of the test images, (N, C).
        strength: The chosen C.
        values: Metric of the validation images by each C that was tried.
        converged: Whether the last fit converged within `MOST_STEPS`.
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
    """Chooses C on val, fits the probe on train and val, and predicts the test images.

    If the metric has no value on the validation images, the log loss decides.

    Args:
        train: Features and labels of the training images.
        val: Features and labels of the validation images.
        test: Features of the test images, (N, D).
        num_classes: Number of classes, C.
        metric: Metric by which C is chosen.
        class_weights: Weight of an image of each class, (C,); None for equal weights.

    Raises:
        ValueError: The training images are all of one class, or the metric rejects its input.
    """
    features, labels = np.asarray(train[0], dtype=np.float64), np.asarray(train[1])
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation < 1e-6 * np.abs(mean) + 1e-12] = 1.0  # a feature that is constant over the training images
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
    """Returns probabilities (N, C), 0 for a class that the probe was fitted without.

    Args:
        fitted: Fitted logistic regression.
        features: Standardised features, (N, D).
        num_classes: Number of classes, C.
    """
    shares = np.zeros((len(features), num_classes))
    shares[:, fitted.classes_] = fitted.predict_proba(features)
    return shares

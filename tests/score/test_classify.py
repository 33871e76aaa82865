"""Claims about the scores of class probabilities, against hand-counted cases and scikit-learn."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import (  # type: ignore[import-untyped, unused-ignore]
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
)

from pipeline.score.classify import classification_scores, reliability_bins

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def predictions(images: int = 500, classes: int = 7, *, seed: int = 0) -> tuple[Floats, Ints]:
    """Probabilities that are right more often than by chance, as float64 rows that sum to 1, with their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=images)
    logits = rng.normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels]
    weight = np.exp(logits)
    return weight / weight.sum(axis=1, keepdims=True), labels


def slow_ece(probabilities: Floats, labels: Ints, bins: int) -> float:
    total = 0.0
    for m in range(1, bins + 1):
        members = [
            (row.max(), row.argmax() == label)
            for row, label in zip(probabilities, labels, strict=True)
            if (m - 1) / bins < row.max() <= m / bins
        ]
        if members:
            confidence = sum(c for c, _ in members) / len(members)
            accuracy = sum(hit for _, hit in members) / len(members)
            total += len(members) / len(labels) * abs(accuracy - confidence)
    return total


def test_scores_agree_with_scikit_learn() -> None:
    probabilities, labels = predictions()
    scores = classification_scores(probabilities, labels)
    predicted = probabilities.argmax(axis=1)
    assert scores.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert scores.nll == pytest.approx(log_loss(labels, probabilities))
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(labels, predicted))
    np.testing.assert_allclose(
        scores.per_class_accuracy, confusion_matrix(labels, predicted, normalize="true").diagonal()
    )


def test_calibration_error_is_that_of_the_definition() -> None:
    probabilities, labels = predictions()
    assert classification_scores(probabilities, labels).ece == pytest.approx(slow_ece(probabilities, labels, 15))
    assert reliability_bins(probabilities, labels, bins=4).ece == pytest.approx(slow_ece(probabilities, labels, 4))


def test_confusion_has_the_truth_in_its_rows() -> None:
    scores = classification_scores([[0.1, 0.9], [0.2, 0.8], [0.7, 0.3]], [0, 0, 0])
    np.testing.assert_array_equal(scores.confusion, [[1, 2], [0, 0]])


def test_absent_class_is_nan_and_does_not_count() -> None:
    scores = classification_scores([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.5, 0.1, 0.4]], [0, 0, 2])
    np.testing.assert_allclose(scores.per_class_accuracy, [1.0, np.nan, 0.0])
    assert scores.balanced_accuracy == 0.5


def test_a_probability_of_zero_for_the_truth_costs_much_but_not_everything() -> None:
    scores = classification_scores([[0.0, 1.0], [1.0, 0.0]], [0, 0])
    assert scores.nll == pytest.approx(-math.log(np.finfo(np.float32).tiny) / 2)


def test_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    binned = reliability_bins([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]], [0, 1, 0], bins=4)
    np.testing.assert_array_equal(binned.edges, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(binned.count, [0, 1, 1, 1])
    np.testing.assert_allclose(binned.accuracy, [np.nan, 1, 0, 1])
    np.testing.assert_allclose(binned.confidence, [np.nan, 0.5, 0.75, 1])
    assert binned.ece == pytest.approx((0.5 + 0.75 + 0) / 3)


def test_half_precision_probabilities_are_accepted() -> None:
    probabilities, labels = predictions()
    rounded = classification_scores(probabilities.astype(np.float16), labels.astype(np.int32))
    assert rounded.nll == pytest.approx(classification_scores(probabilities, labels).nll, abs=1e-3)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([0.5, 0.5], [0], r"shape \(images, classes\)"),
        (np.zeros((0, 3)), np.zeros(0, dtype=int), r"shape \(images, classes\)"),
        ([[1.0]], [0], "at least 1 by 2"),
        ([[0.5, 0.5]], [0, 1], r"labels must have shape \(1,\)"),
        ([[0.5, 0.5]], [0.0], "labels must be integers"),
        ([[0.5, 0.5]], [2], r"labels must lie in 0\.\.1"),
        ([[0.5, 0.5]], [-1], r"labels must lie in 0\.\.1"),
        ([[0.5, math.nan]], [0], "1 of 1 images are not finite"),
        ([[2.0, -1.0]], [0], "logits"),
        ([[0.9, 0.9]], [0], "logits"),
    ],
)
def test_unusable_input_is_refused_by_name(probabilities: Floats, labels: Ints, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_scores(probabilities, labels)
    with pytest.raises(ValueError, match=message):
        reliability_bins(probabilities, labels)


def test_no_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="bins"):
        reliability_bins([[0.5, 0.5]], [0], bins=0)

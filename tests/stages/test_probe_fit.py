"""Claims about the probe: its choice and its answers are those of a slow restatement by another optimiser."""

from typing import Any

import numpy as np
import pytest
import scipy.optimize  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import NDArray
from support.partial_results import filled

from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.evaluation_words import describe_probe
from pipeline.score.metrics.metric import ACCURACY, AUROC, LOG_LOSS, MACRO_F1, Metric
from pipeline.stages.evaluate.probe_fit import STRENGTHS, fit_probe

CLASSES = 3


def drawn(
    count: int, seed: int, *, noise: float = 1.5, width: int = 6
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features (count, width) of three classes that overlap; one feature is constant, another one large."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    centres = np.random.default_rng(0).normal(size=(CLASSES, width))
    features = centres[labels] + noise * rng.normal(size=(count, width))
    features[:, 0], features[:, 1] = 7.0, 1000 * features[:, 1] + 5000
    return features, labels


def restated(
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    others: list[NDArray[np.float64]],
    strength: float,
    weights: NDArray[np.float64],
) -> list[NDArray[np.float64]]:
    """Probabilities of a penalised softmax regression, its loss minimised as it is written down."""
    width = features.shape[1]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        matrix, biases = flat[: CLASSES * width].reshape(CLASSES, width), flat[CLASSES * width :]
        shares = shares_of(features, matrix, biases)
        scale = weights[labels]
        value = -strength * float(scale @ np.log(shares[np.arange(len(labels)), labels])) + 0.5 * float(
            (matrix**2).sum()
        )
        wrong = strength * scale[:, None] * (shares - np.eye(CLASSES)[labels])
        return value, np.concatenate([(wrong.T @ features + matrix).ravel(), wrong.sum(axis=0)])

    start = np.zeros(CLASSES * (width + 1))
    found = scipy.optimize.minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-7, "maxiter": 5000}).x
    matrix, biases = found[: CLASSES * width].reshape(CLASSES, width), found[CLASSES * width :]
    return [shares_of(other, matrix, biases) for other in others]


def shares_of(features: Any, matrix: Any, biases: Any) -> NDArray[np.float64]:
    logits = features @ matrix.T + biases
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return shares


@pytest.mark.parametrize("metric", [ACCURACY, MACRO_F1, LOG_LOSS, AUROC], ids=lambda metric: str(metric.name))
@pytest.mark.parametrize("weights", [None, np.array([0.5, 1.0, 3.0])], ids=["alike", "weighed"])
def test_choice_and_answers_are_those_of_an_exhaustive_restatement(metric: Metric, weights: Any) -> None:
    (train, labels), (val, truth), (test, _) = drawn(48, 1), drawn(36, 2), drawn(30, 3)
    found = fit_probe((train, labels), (val, truth), test, num_classes=CLASSES, metric=metric, class_weights=weights)
    deviation = np.array([column.std() or 1.0 for column in train.T])
    known, held, tested = ((each - train.mean(axis=0)) / deviation for each in (train, val, test))
    scale = np.ones(CLASSES) if weights is None else weights
    ranked = []
    for strength in STRENGTHS:
        (shares,) = restated(known, labels, [held], strength, scale)
        value, loss = metric.value_of(shares, truth), LOG_LOSS.value_of(shares, truth)
        # What the two optimisers leave open may move a loss in its sixth digit, and here moves no image.
        assert found.values[strength] == pytest.approx(value, rel=2e-3)
        ranked.append((metric.sign * value, -loss, -strength))
    assert found.strength == -max(ranked)[2]
    both = np.concatenate([known, held]), np.concatenate([labels, truth])
    (expected,) = restated(*both, [tested], found.strength, scale)
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-3)
    assert found.converged


def test_strengths_span_eight_decades() -> None:
    assert (STRENGTHS[0], STRENGTHS[-1], len(STRENGTHS)) == (1e-4, 1e4, 17)
    np.testing.assert_allclose(np.diff(np.log10(STRENGTHS)), 0.5, atol=1e-3)


def test_class_without_an_image_gets_no_probability() -> None:
    (train, labels), (val, truth), (test, _) = drawn(30, 1), drawn(30, 2), drawn(9, 3)
    shares = fit_probe((train, 2 * labels), (val, 2 * truth), test, num_classes=6, metric=ACCURACY).probabilities
    assert shares.shape == (9, 6)
    assert not shares[:, [1, 3, 5]].any()
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)


def test_where_the_metric_has_no_value_the_log_loss_decides() -> None:
    (train, labels), (val, _), (test, _) = drawn(48, 1), drawn(36, 2), drawn(9, 3)
    single = (val, np.zeros(len(val), np.int64))
    ranked, lossy = (
        fit_probe((train, labels), single, test, num_classes=CLASSES, metric=each) for each in (AUROC, LOG_LOSS)
    )
    assert np.isnan(list(ranked.values.values())).all()
    assert ranked.strength == lossy.strength


def test_training_images_of_one_class_are_told() -> None:
    train, val = drawn(12, 1)[0], drawn(12, 2)
    with pytest.raises(ValueError, match="class"):
        fit_probe((train, np.zeros(12, np.int64)), val, val[0], num_classes=CLASSES, metric=ACCURACY)


def test_sentences_say_what_it_is_and_what_the_interval_is_of() -> None:
    assert describe_probe(filled(Evaluation)) is None
    beside = {"difference": 0.012, "low": -0.001, "high": 0.025, "confidence": 0.95}
    probe = {"C": 0.1, "weights": "vit.safetensors", "converged": True, "best_minus_probe": beside}
    assert describe_probe(filled(Evaluation, probe=probe)) == (
        "The probe is a logistic regression (C = 0.1, chosen on validation images) on frozen features of "
        "vit.safetensors: no network was trained, so there are no seeds, and the verdict is not of it. The best "
        "configuration's seeds minus the probe: +1.2 points of accuracy, in the mean (95 % interval -0.1 to +2.5 points, of the "
        "images alone: other seeds would make other networks)."
    )
    probe |= {"converged": False, "best_minus_probe": beside | {"low": None, "high": None}}
    said = describe_probe(filled(Evaluation, probe=probe)) or ""
    assert "interval" not in said
    assert said.endswith("in the mean. Its fit had not converged.")

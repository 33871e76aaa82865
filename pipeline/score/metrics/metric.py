"""The metrics that are known by name: a value, its pseudo-values, its direction, its margin.

accuracy           the share of images that are right
balanced_accuracy  the mean of that share over classes
macro_f1           the mean over classes of the harmonic mean of precision and recall
auroc              of each class against the rest, the mean over classes; of two classes that of the second one
log_loss           the mean negative log likelihood of the true class, in nats; lower is better

Shape letters: N images, C classes. Means over classes are of those that occur among the labels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.score.classify import check_predictions, log_losses
from pipeline.score.metrics.jackknife import (
    Floats,
    auroc,
    auroc_pseudo_values,
    balanced_accuracy_pseudo_values,
    macro_f1,
    macro_f1_pseudo_values,
)
from pipeline.score.metrics.wording import MetricWords

USER_KEY = "metric"
"""What a user's own function is called in files, in MLflow, and as an objective: val/metric."""

FEWEST_OF_A_CLASS = 5
"""Test images of each class, below which a metric that weighs classes alike gets no interval."""


@dataclass(frozen=True)
class Metric:
    """A metric of class probabilities (N, C) and labels (N,).

    name: as `evaluate.metric` has it. key: in files and in names of MLflow, `metric` for a user's own. label: in
    sentences. margin: the least difference that matters; None where a user's function declares none. value,
    pseudo_values: see `value_of` and `pseudo_values_of`; no pseudo-values where the metric is not smooth, so that no
    interval can be given. in_points: a share of 1, whose differences are told in points. by_class: every class weighs
    the same, however few images it has. within_folds: where images were tested in folds, each by networks of its own,
    it is had of every fold by itself and averaged by images, as what ranks images must be, since scores of different
    networks cannot be ranked together; else of all of them at once, as counts can be (Forman and Scholz, SIGKDD
    Explorations 12, 2010).
    """

    name: str
    key: str
    label: str
    margin: float | None
    value: Callable[[Floats, NDArray[np.int64]], float]
    pseudo_values: Callable[[Floats, NDArray[np.int64]], Floats] | None
    lower_is_better: bool = False
    in_points: bool = False
    by_class: bool = False
    within_folds: bool = False

    @property
    def words(self) -> MetricWords:
        """It in words, by its margin.

        Raises:
            ValueError: it has no margin.
        """
        if self.margin is None:
            raise ValueError(f"{self.name} has no margin")
        return MetricWords(self.name, self.key, self.label, self.margin, self.lower_is_better, self.in_points)

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return -1 if self.lower_is_better else 1

    def value_of(self, probabilities: ArrayLike, labels: ArrayLike, folds: ArrayLike | None = None) -> float:
        """The metric of a set of images; NaN where it has none, as an AUROC of images of one class.

        folds: (N,), the number of each image's fold; None without folds.

        Raises:
            ValueError: as `pipeline.score.classify.classification_scores` does.
        """
        shares, truth = check_predictions(probabilities, labels)
        parts = self._parts(truth, folds)
        return float(sum(self.value(shares[part], truth[part]) * part.sum() for part in parts) / len(truth))

    def pseudo_values_of(self, probabilities: ArrayLike, labels: ArrayLike, folds: ArrayLike | None = None) -> Floats:
        """(N,) whose mean is the metric, and whose variance says how far other images would move it.

        folds: as of `value_of`.

        Raises:
            ValueError: as above; one image; or a metric that is not smooth.
        """
        shares, truth = check_predictions(probabilities, labels)
        if self.pseudo_values is None:
            raise ValueError(f"{self.name} is not smooth, so that it has no pseudo-values")
        if len(truth) < 2:
            raise ValueError("pseudo-values take at least two images")
        found = np.empty(len(truth))
        for part in self._parts(truth, folds):
            found[part] = self.pseudo_values(shares[part], truth[part])
        return found

    def tables(
        self, arms: Mapping[str, ArrayLike], labels: ArrayLike, folds: ArrayLike | None = None
    ) -> dict[str, NDArray[np.float64]] | None:
        """Pseudo-values (S, N) by arm of probabilities (S, N, C); None where the metric is not smooth. folds: as of
        `value_of`.
        """
        if self.pseudo_values is None:
            return None
        return {
            arm: np.stack([self.pseudo_values_of(run, labels, folds) for run in np.asarray(runs)])
            for arm, runs in arms.items()
        }

    def _parts(self, truth: NDArray[np.int64], folds: ArrayLike | None) -> list[NDArray[np.bool_]]:
        """Which images it is had of at once, (N,) each."""
        if folds is None or not self.within_folds:
            return [np.ones(len(truth), np.bool_)]
        numbers = np.asarray(folds)
        return [numbers == number for number in np.unique(numbers)]


def _right(shares: Floats, truth: NDArray[np.int64]) -> Floats:
    return np.asarray(shares.argmax(axis=1) == truth, dtype=np.float64)


def _confusion(shares: Floats, truth: NDArray[np.int64]) -> NDArray[np.int64]:
    classes = shares.shape[1]
    return np.bincount(truth * classes + shares.argmax(axis=1), minlength=classes**2).reshape(classes, classes)


def _balanced_accuracy(shares: Floats, truth: NDArray[np.int64]) -> float:
    confusion = _confusion(shares, truth)
    count = confusion.sum(axis=1)
    return float((np.diag(confusion)[count > 0] / count[count > 0]).mean())


ACCURACY = Metric(
    "accuracy",
    "accuracy",
    "accuracy",
    margin=0.01,
    value=lambda shares, truth: float(_right(shares, truth).mean()),
    pseudo_values=_right,
    in_points=True,
)
BALANCED_ACCURACY = Metric(
    "balanced_accuracy",
    "balanced_accuracy",
    "balanced accuracy",
    margin=0.02,
    value=_balanced_accuracy,
    pseudo_values=lambda shares, truth: balanced_accuracy_pseudo_values(shares.argmax(axis=1), truth, shares.shape[1]),
    in_points=True,
    by_class=True,
)
MACRO_F1 = Metric(
    "macro_f1",
    "macro_f1",
    "macro-F1",
    margin=0.02,
    value=lambda shares, truth: macro_f1(_confusion(shares, truth)),
    pseudo_values=lambda shares, truth: macro_f1_pseudo_values(shares.argmax(axis=1), truth, shares.shape[1]),
    in_points=True,
    by_class=True,
)
AUROC = Metric(
    "auroc",
    "class_auroc",  # beside the AUROC of attention
    "AUROC",
    margin=0.01,
    value=auroc,
    pseudo_values=auroc_pseudo_values,
    by_class=True,
    within_folds=True,
)
LOG_LOSS = Metric(
    "log_loss",
    "log_loss",
    "log loss",
    margin=0.02,
    value=lambda shares, truth: float(log_losses(shares, truth).mean()),
    pseudo_values=log_losses,
    lower_is_better=True,
)

METRICS: Mapping[str, Metric] = {each.name: each for each in (ACCURACY, BALANCED_ACCURACY, MACRO_F1, AUROC, LOG_LOSS)}
"""By the names of `evaluate.metric`."""

"""The metrics that are known by name: value, pseudo-values, direction and margin.

    accuracy           the share of images that are right
    balanced_accuracy  the mean of that share over classes
    macro_f1           the mean over classes of the harmonic mean of precision and recall
    auroc              each class against the rest, the mean over classes; for two classes that of the second one
    log_loss           the mean negative log likelihood of the true class, in nats; lower is better

Means over classes are over the classes that occur among the labels. Shapes: N images, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.score.classify import check_predictions, count_confusion, log_losses
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
"""Key of a user's own function in files, in MLflow, and as an objective: val/metric."""

FEWEST_OF_A_CLASS = 5
"""Fewest test images of each class for an interval of a metric that weighs classes alike."""


@dataclass(frozen=True)
class Metric:
    """A metric of class probabilities (N, C) and labels (N,).

    Attributes:
        name: Value of `evaluate.metric`.
        key: Key in files and in names of MLflow; `metric` for a user's own.
        label: Name in sentences.
        margin: Least difference that matters; None if a user's function declares none.
        value: Computes the value; see `value_of`.
        pseudo_values: Computes pseudo-values; see `pseudo_values_of`. None if the metric is not smooth, so
            that there is no interval.
        lower_is_better: Whether lower values are better.
        in_points: Whether it is a share of 1, whose differences are shown in points.
        by_class: Whether every class weighs the same, however few images it has.
        within_folds: Whether it is computed for every fold separately and averaged by images, if images were
            tested in folds, each by networks of its own. Metrics that rank images need this, since scores of
            different networks cannot be ranked together (Forman and Scholz, SIGKDD Explorations 12, 2010).
            Otherwise it is computed on the images of all folds together, as suits metrics from counts.
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
        """The metric in words, with its margin.

        Raises:
            ValueError: If it has no margin.
        """
        if self.margin is None:
            raise ValueError(f"{self.name} has no margin")
        return MetricWords(self.name, self.key, self.label, self.margin, self.lower_is_better, self.in_points)

    @property
    def sign(self) -> int:
        """1 if higher values are better, else -1."""
        return -1 if self.lower_is_better else 1

    def value_of(self, probabilities: ArrayLike, labels: ArrayLike, folds: ArrayLike | None = None) -> float:
        """Returns the metric of a set of images; NaN if it is undefined, as an AUROC of images of one class.

        Args:
            probabilities: Class probabilities, (N, C).
            labels: True classes, (N,).
            folds: Number of each image's fold, (N,); None without folds.

        Raises:
            ValueError: As `pipeline.score.classify.classification_scores`.
        """
        shares, truth = check_predictions(probabilities, labels)
        parts = self._parts(truth, folds)
        return float(sum(self.value(shares[part], truth[part]) * part.sum() for part in parts) / len(truth))

    def pseudo_values_of(self, probabilities: ArrayLike, labels: ArrayLike, folds: ArrayLike | None = None) -> Floats:
        """Returns pseudo-values (N,).

        Their mean is the metric, and their variance shows how far the metric varies with other images.

        Args:
            probabilities: Class probabilities, (N, C).
            labels: True classes, (N,).
            folds: Number of each image's fold, (N,); None without folds.

        Raises:
            ValueError: As `value_of`; or if there is a single image, or the metric is not smooth.
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
        """Returns tables of pseudo-values (S, N) by arm; None if the metric is not smooth.

        Args:
            arms: Class probabilities (S, N, C) by arm.
            labels: True classes, (N,).
            folds: Number of each image's fold, (N,); None without folds.
        """
        if self.pseudo_values is None:
            return None
        return {
            arm: np.stack([self.pseudo_values_of(run, labels, folds) for run in np.asarray(runs)])
            for arm, runs in arms.items()
        }

    def _parts(self, truth: NDArray[np.int64], folds: ArrayLike | None) -> list[NDArray[np.bool_]]:
        """Returns masks (N,) of the images on which the metric is computed at once."""
        if folds is None or not self.within_folds:
            return [np.ones(len(truth), np.bool_)]
        numbers = np.asarray(folds)
        return [numbers == number for number in np.unique(numbers)]


def _right(shares: Floats, truth: NDArray[np.int64]) -> Floats:
    return np.asarray(shares.argmax(axis=1) == truth, dtype=np.float64)


def _confusion(shares: Floats, truth: NDArray[np.int64]) -> NDArray[np.int64]:
    return count_confusion(shares.argmax(axis=1), truth, shares.shape[1])


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
    "class_auroc",  # distinct from the AUROC of attention
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
"""Metrics by their names in `evaluate.metric`."""

"""Results of `evaluate` in results/evaluate: the scores of both arms, their comparison, and the scores beside them."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import AliasChoices, ConfigDict, Field, model_validator

from pipeline.artifacts.stage_results import BEST, Artifact, Number, Record
from pipeline.config import Values
from pipeline.score.comparison import Comparison
from pipeline.score.endpoints import Endpoint
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords, words_of
from pipeline.score.sample_size import VarianceParts


class MetricScores(Record):
    """Scores that may include a further metric. Its values follow the other fields, under keys of the metric's own."""

    model_config = ConfigDict(extra="allow")

    def value(self, metric: MetricWords, suffix: str = "") -> Any:
        """Returns the value by a metric.

        Args:
            metric: The metric in words.
            suffix: `_sd` for the standard deviation over seeds, `_by_seed` for the value of each seed, "" for the mean.
        """
        return getattr(self, f"{metric.key}{suffix}")

    def with_values(self, values: Values) -> Self:
        """Returns a copy with the values of a further metric, by their keys."""
        return self.model_copy(update=dict(values))


class Location(Record):
    """Scores of attention against masks, as means over runs and images; `pipeline.score.locate` defines each."""

    jaccard_best_head: Number
    jaccard_fixed_head: Number
    auroc: Number
    average_precision: Number
    pointing_game_best_head: Number
    pointing_game: Number
    energy_best_head: Number
    energy: Number


class ArmScores(MetricScores):
    """Scores of an arm over its seeds.

    Attributes:
        seeds: Seeds of the arm's networks.
        accuracies: Accuracy of each seed.
        accuracy: Mean accuracy over seeds.
        accuracy_sd: Standard deviation over seeds; None with one seed.
        nll: Log loss in nats.
        ece: Expected calibration error.
        per_class_accuracy: Accuracy of each class; None for a class without test images.
        confusion: (classes, classes) counts, summed over the seeds.
        location: Scores of the attention against masks; None without masks.
        left_out: Number of images without a usable mask.
    """

    seeds: Sequence[int]
    accuracies: Sequence[Number]
    accuracy: Number
    accuracy_sd: Number | None
    nll: Number
    ece: Number
    per_class_accuracy: Sequence[Number | None]
    confusion: Sequence[Sequence[int]]
    location: Location | None
    left_out: int


class Difference(Record):
    """A difference with its interval, which is None if there is none. All fields are None if nothing was comparable."""

    difference: Number | None
    low: Number | None
    high: Number | None


class EnsembleScores(MetricScores):
    """Scores of the ensemble of an arm's seeds."""

    seeds: int
    accuracy: Number
    nll: Number
    ece: Number


class Ensembles(Record):
    """Scores of both ensembles, and their difference.

    Attributes:
        best: Ensemble of the best configuration's seeds.
        control: Ensemble of the control's seeds.
        difference: Best minus control, by `metric`.
        low: Lower end of the interval; None if there is none.
        high: Upper end of the interval; None if there is none.
        confidence: Confidence of the interval, such as 0.95.
        only_best: Number of images that only the ensemble `best` classifies correctly, if the metric is accuracy.
        only_control: The same for `control`.
        metric: Metric of the difference in words; None for accuracy.
    """

    best: EnsembleScores
    control: EnsembleScores
    difference: Number
    low: Number | None
    high: Number | None
    confidence: Number
    only_best: int = 0
    only_control: int = 0
    metric: MetricWords | None = None


class ProbeDifference(Record):
    """Mean score of an arm's seeds minus the probe's. The interval covers images alone; None if there is none."""

    difference: Number
    low: Number | None
    high: Number | None
    confidence: Number


class ProbeScores(Record):
    """Scores of the probe: a logistic regression on frozen features.

    Attributes:
        weights: Specification of the pretrained weights.
        resolved: The file or version that the specification stood for; "" if it is that file itself.
        sha256: SHA-256 of the weights.
        features: Number of features of an image.
        features_file: Name of the file with the features.
        C: Inverse strength of the regularisation, chosen on validation images.
        validation: Value of the metric on validation images for each C that was tried.
        trained_on: Roles of the images of the final fit, such as `train+val`.
        images: Number of images of the final fit.
        converged: Whether the final fit has converged.
        accuracy: Accuracy on the test images.
        nll: Log loss on the test images, in nats.
        ece: Expected calibration error on the test images.
        value: Value by the metric of the evaluation. In the file it has the metric's own key.
        best_minus_probe: Difference between the best configuration and the probe.
        control_minus_probe: Difference between the control and the probe.
        mlflow_run: Id of the probe's run in MLflow; "" if there is none.
    """

    weights: str
    resolved: str
    sha256: str
    features: int
    features_file: str
    C: Number
    validation: Sequence[Mapping[str, Number]]
    trained_on: str
    images: int
    converged: bool
    accuracy: Number
    nll: Number
    ece: Number
    value: Number
    best_minus_probe: ProbeDifference
    control_minus_probe: ProbeDifference
    mlflow_run: str = ""


class FoldScores(Record):
    """Comparison of the arms on one fold, and the configuration that the search outside of it has chosen.

    Attributes:
        fold: Number of the fold, from 1.
        images: Number of its test images.
        fingerprint: Fingerprint of the search.
        setting: The chosen configuration in words.
        difference: Best minus control, by the metric.
        low: Lower end of the interval; None if there is none.
        high: Upper end of the interval; None if there is none.
        best: Mean value of the best configuration.
        control: Mean value of the control.
    """

    fold: int
    images: int
    fingerprint: str
    setting: str
    difference: Number
    low: Number | None
    high: Number | None
    best: Number
    control: Number


class HoldoutScores(Record):
    """Scores of the registered network on the images that belong to no fold."""

    images: int
    accuracy: Number
    nll: Number
    ece: Number


class ArmsCompared(Record):
    """Comparison of both arms on the test images.

    Attributes:
        test_images: Number of test images.
        arms: Scores by the name of the arm.
        metric: Metric of the comparison in words; None in results of earlier versions, for accuracy.
        comparison: Comparison by the metric.
        attention_comparison: Comparison by the AUROC of attention; None without masks.
        endpoints: Endpoints in the order of their tests.
        verdict: The verdict in sentences.
        variance_parts: Components of the variance of one network's score; None if the metric has no values by image.
        ensembles: Comparison of the arms' ensembles; None with one seed.
        attention_differences: Differences of the attention scores, by score.
        baselines: Attention scores of maps that do not look at the image, by name; None without masks.
    """

    test_images: int
    arms: Mapping[str, ArmScores]
    metric: MetricWords | None = None
    comparison: Comparison
    attention_comparison: Comparison | None = None
    endpoints: Sequence[Endpoint] = ()
    verdict: str
    variance_parts: VarianceParts | None = None
    ensembles: Ensembles | None = None
    attention_differences: Mapping[str, Difference] = Field({})
    baselines: Mapping[str, Location] | None = None


class Evaluation(ArmsCompared, Artifact):
    """Content of evaluation.json.

    Attributes:
        control: Name of the control.
        fingerprint: Fingerprint of the search.
        data_hash: Hash of the prepared set.
        look: Number of the look at these test images; in results of earlier versions, of the reading.
        first_look: Number of the look at which these networks were first tested, if a comparison of methods tests them
            again at its own look; else None.
        networks: Hash of the networks that were judged.
        margin: Difference that counts, in units of the metric.
        metric_hash: Hash of the user's function that computes the metric; "" for other metrics.
        method: Methods that are compared with the control, in words.
        p: Two-sided p-value of the comparison; None if there is none.
        folds: Scores of each fold; empty without folds.
        holdout: Scores on the images that belong to no fold; None without such images.
        folds_hash: Hash of the folds' test images; "" without folds.
        probe: Scores of the probe; None without one.
        mlflow_run: Id of the evaluation's run in MLflow; "" if there is none.
    """

    FILE: ClassVar[str] = "evaluation.json"
    MADE_BY: ClassVar[str] = "evaluate"

    control: str
    fingerprint: str
    data_hash: str
    look: int | None = Field(None, validation_alias=AliasChoices("look", "test_reads"))
    first_look: int | None = None
    networks: str = ""
    margin: Number | None = None
    metric_hash: str = ""
    method: str = "the best configuration"
    p: Number | None = None
    folds: Sequence[FoldScores] = ()
    holdout: HoldoutScores | None = None
    folds_hash: str = ""
    probe: ProbeScores | None = None
    mlflow_run: str = ""

    @property
    def words(self) -> MetricWords:
        """Metric by which the arms are compared, in words."""
        return words_of(self.metric, self.margin)

    @property
    def other_metric(self) -> MetricWords | None:
        """Metric by which the arms are compared; None if it is accuracy."""
        return None if self.words.key == ACCURACY_WORDS.key else self.words

    @property
    def best(self) -> ArmScores:
        """Scores of the arm of the best configuration."""
        return self.arms[BEST]

    def with_runs(self, run: str, probe_run: str | None) -> "Evaluation":
        """Returns a copy with the id of its run in MLflow, and the id of the probe's run, if there is a probe."""
        probe = self.probe and {"probe": self.probe.model_copy(update={"mlflow_run": probe_run})}
        return self.model_copy(update={**(probe or {}), "mlflow_run": run})

    def content(self) -> dict[str, Any]:
        """Returns the content of the file. The probe's value by the metric has the metric's key there."""
        content = super().content()
        if self.probe is not None:
            keys = {"value": self.words.key}
            content["probe"] = {keys.get(key, key): value for key, value in content["probe"].items()}
        return content

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, content: Any) -> Any:
        """Renames the metric's key of the probe to `value`."""
        if not isinstance(content, Mapping) or not isinstance(probe := content.get("probe"), Mapping):
            return content
        key = (content.get("metric") or {}).get("key", ACCURACY_WORDS.key)
        return {**content, "probe": {**probe, "value": probe.get(key)}}


class TestMetrics(Artifact):
    """Content of metrics.json: the few numbers that `dvc metrics` and MLflow show, by group and name."""

    FILE: ClassVar[str] = "metrics.json"
    MADE_BY: ClassVar[str] = "evaluate"
    __test__ = False

    test: Mapping[str, Mapping[str, Number]]

"""What `evaluate` leaves in results/evaluate: both arms by their scores, compared, and what stands beside them."""

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
    """Scores that may be by a further metric, whose values have keys of the metric's own after all others."""

    model_config = ConfigDict(extra="allow")

    def value(self, metric: MetricWords, suffix: str = "") -> Any:
        """The value by a metric. suffix: `_sd` of its deviation over seeds, `_by_seed` of each seed's value."""
        return getattr(self, f"{metric.key}{suffix}")

    def with_values(self, values: Values) -> Self:
        """The same with values by a further metric, by their keys."""
        return self.model_copy(update=dict(values))


class Location(Record):
    """Attention against masks, means over runs and images; `pipeline.score.locate` says what each is."""

    jaccard_best_head: Number
    jaccard_fixed_head: Number
    auroc: Number
    average_precision: Number
    pointing_game_best_head: Number
    pointing_game: Number
    energy_best_head: Number
    energy: Number


class ArmScores(MetricScores):
    """An arm over its seeds. accuracies: of each seed. confusion: of all, summed. location: None without masks, of
    which `left_out` images have none that can be used.
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
    """A difference with its interval, None where there is none; nothing at all where nothing could be compared."""

    difference: Number | None
    low: Number | None
    high: Number | None


class EnsembleScores(MetricScores):
    """The seeds of an arm as one ensemble."""

    seeds: int
    accuracy: Number
    nll: Number
    ece: Number


class Ensembles(Record):
    """Both ensembles and their difference, by accuracy with the images that one alone has right, else by `metric`."""

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
    """The mean of an arm's seeds minus the probe; the interval is of the images alone, None where there is none."""

    difference: Number
    low: Number | None
    high: Number | None
    confidence: Number


class ProbeScores(Record):
    """The probe: a logistic regression on frozen features. validation: the metric by each C that was tried. value: by
    the metric, which has the metric's key in the file.
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
    """A fold's own comparison by the metric, and the configuration that its search has chosen."""

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
    """The registered network on the images that were kept apart from the folds."""

    images: int
    accuracy: Number
    nll: Number
    ece: Number


class ArmsCompared(Record):
    """Both arms on the test images, compared. arms: by name. metric: that they are compared by, in words; None in
    results of earlier versions, of accuracy.
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
    """evaluation.json. look: which look at these test images it was, or in earlier versions which reading. networks: a
    hash of those that were judged. p: of the comparison. folds, holdout, folds_hash: of an evaluation in folds.
    mlflow_run: its own run.
    """

    FILE: ClassVar[str] = "evaluation.json"
    MADE_BY: ClassVar[str] = "evaluate"

    control: str
    fingerprint: str
    data_hash: str
    look: int | None = Field(None, validation_alias=AliasChoices("look", "test_reads"))
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
        """The metric that the arms are compared by."""
        return words_of(self.metric, self.margin)

    @property
    def other_metric(self) -> MetricWords | None:
        """The same, where it is not accuracy."""
        return None if self.words.key == ACCURACY_WORDS.key else self.words

    @property
    def best(self) -> ArmScores:
        """The arm of the best configuration."""
        return self.arms[BEST]

    def with_runs(self, run: str, probe_run: str | None) -> "Evaluation":
        """The same with the ids of its run in MLflow, and of the probe's, if there is one."""
        probe = self.probe and {"probe": self.probe.model_copy(update={"mlflow_run": probe_run})}
        return self.model_copy(update={**(probe or {}), "mlflow_run": run})

    def content(self) -> dict[str, Any]:
        """As JSON has it: the probe's value by the metric has the metric's key."""
        content = super().content()
        if self.probe is not None:
            keys = {"value": self.words.key}
            content["probe"] = {keys.get(key, key): value for key, value in content["probe"].items()}
        return content

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, content: Any) -> Any:
        """Names the probe's value."""
        if not isinstance(content, Mapping) or not isinstance(probe := content.get("probe"), Mapping):
            return content
        key = (content.get("metric") or {}).get("key", ACCURACY_WORDS.key)
        return {**content, "probe": {**probe, "value": probe.get(key)}}


class TestMetrics(Artifact):
    """metrics.json: the few numbers that `dvc metrics` and MLflow show, by group and name."""

    FILE: ClassVar[str] = "metrics.json"
    MADE_BY: ClassVar[str] = "evaluate"
    __test__ = False

    test: Mapping[str, Mapping[str, Number]]

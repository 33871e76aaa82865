"""Sections of params.yaml about the steps after a search: retraining, evaluation, report, registry and tracking."""

import difflib
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.config.schema.section import Section

METRIC_NAMES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "log_loss")
"""Metrics of `evaluate.metric` that have a name (`pipeline.score.metrics.metric`)."""

SHARE_MARGIN_LIMIT = 0.1
"""Margins of a share are below it. Whoever writes 0.5 or 1 means points, of which 0.1 is ten."""

USER_METRIC = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""Pattern of a user's own function, by its module and name."""


def is_share(metric: str) -> bool:
    """Returns whether a metric that has a name lies between 0 and 1; False for a user's own function.

    Args:
        metric: Value of `evaluate.metric`.
    """
    return metric in METRIC_NAMES and metric != "log_loss"


class RetrainParams(Section):
    seeds: Literal["auto"] | Annotated[int, Field(ge=1, le=1000)] = Field(
        5,
        description="Number of runs of the best configuration and of its control, on train + val; auto: as many as "
        "the search's confirmation runs show to be needed for evaluate.margin.",
    )
    max_seeds: int = Field(20, ge=2, le=1000, description="Largest number of runs of each arm if seeds is auto.")
    control: str = Field(
        "baseline", min_length=1, description="The control of the search space against which the verdict is."
    )
    max_concurrent_runs: int | None = Field(
        None, ge=1, le=1000, description="Number of runs at the same time; null: as many as fit."
    )
    workers_per_run: int = Field(
        1,
        ge=1,
        le=1024,
        description="Number of workers that train one run together, each on its share of every batch, on any nodes "
        "with free resources. For networks that are slow on one GPU; the steps are those of one worker "
        "(docs/cluster/retraining.md).",
    )
    seeds_per_worker: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Number of seeds of an arm that one worker trains together. A small network leaves a GPU time for "
        "that; each run is that of a single seed, within rounding. null: the fastest number, measured on a GPU, and 1 "
        "on a CPU (docs/cluster/retraining.md).",
    )
    cpus_per_run: int = Field(1, ge=1, le=1024, description="CPU cores, and threads, of one run, or of each worker.")
    gpus_per_run: float | None = Field(
        None, ge=0, le=64, description="GPUs of one run, or of each worker, as in search.gpus_per_trial."
    )

    @property
    def seed_bounds(self) -> tuple[int, int]:
        """Fewest and most seeds that an arm may get."""
        return (2, self.max_seeds) if self.seeds == "auto" else (self.seeds, self.seeds)


class EvaluateParams(Section):
    confidence: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        description="Confidence of intervals, 0.95 being 95 %; the rest to 1 is the largest chance of any false claim "
        "in a verdict.",
    )
    metric: str = Field(
        "accuracy",
        min_length=1,
        max_length=1000,
        description="Metric by which the arms are compared: accuracy, balanced_accuracy, macro_f1, auroc, log_loss, "
        "or a function of yours as my_package.my_module:my_metric; docs/report/metrics.md.",
    )
    margin: float | None = Field(
        None,
        gt=0,
        description="Loss in evaluate.metric that an endpoint must rule out, and the most that the choice among "
        "configurations of equal accuracy may give up. Of a metric between 0 and 1 it is a share, below 0.1: 0.01 is "
        "one point; null: the metric's own margin, for accuracy 0.01.",
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=100,
        description="Number of parts into which all images are divided. Each part is tested once, by a search and "
        "retraining on the other parts, so that the verdict is about this procedure; it takes one search "
        "more than there are parts (docs/folds.md). Choose 5 or more; null: one test role, of "
        "split.test_fraction.",
    )
    holdout: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="With folds: share of all images that belong to no fold, to test the registered network.",
    )
    probe: bool = Field(
        False,
        description="Whether a model without training is tested too: a logistic regression on the frozen features of "
        "model.pretrained, or of guided transfer's source; docs/report/probe.md.",
    )

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, name: str) -> str:
        if name not in METRIC_NAMES and not USER_METRIC.fullmatch(name):
            nearest = difflib.get_close_matches(name, METRIC_NAMES, n=1)
            meant = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ValueError(
                f"needed: one of {', '.join(METRIC_NAMES)}, or my_package.my_module:my_metric, a function of "
                f"yours{meant}"
            )
        return name


class ReportParams(Section):
    attention_images: int = Field(6, ge=1, le=64, description="Number of test images whose attention is shown.")


class RegisterParams(Section):
    name: str | None = Field(
        None, min_length=1, max_length=200, description="Name in the MLflow registry; null: sar- and the set's name."
    )


class PromoteParams(Section):
    min_accuracy: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Least test accuracy of a champion, as a share: 0.9 is 90 %; null: above the share of the most "
        "frequent class if evaluate.metric is accuracy, else any.",
    )
    min_metric: float | None = Field(
        None,
        description="Least value of another evaluate.metric (largest, if lower is better) of a champion on the test "
        "images, a share (0.9 is 90 %) if the metric lies between 0 and 1; null: better than "
        "predicting the classes' shares for every image.",
    )
    margin: float | None = Field(
        None,
        gt=0,
        description="Loss in evaluate.metric against the champion that is accepted, on the same test images. Of a "
        "metric between 0 and 1 it is a share, below 0.1: 0.01 is one point; null: the metric's own margin, for "
        "accuracy 0.01.",
    )
    confidence: float = Field(
        0.95, gt=0.5, lt=1, description="Confidence of the interval against the champion: 0.95 is 95 %."
    )
    control: Literal["not_worse", "better", "any"] = Field(
        "not_worse",
        description="Claim about the configuration and its control that must have been shown; not_worse: not worse "
        "by more than the evaluate.margin of its evaluation; better: better than the control; any: none.",
    )
    first_undecided: Literal["accept", "refuse"] = Field(
        "accept",
        description="Answer if there is no champion yet and the evaluation cannot decide whether more than "
        "evaluate.margin is lost against the control (not_worse). A loss that is shown is refused in any "
        "case.",
    )
    max_ece: float | None = Field(
        0.1,
        ge=0,
        le=1,
        description="Largest expected calibration error of a champion, as a share: 0.1 is 10 %; null: any.",
    )
    max_latency_ms: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Most milliseconds for predicting one image alone, on the machine that promotes; null: any.",
    )


class TrackingParams(Section):
    uri: str | None = Field(
        None,
        max_length=1000,
        description="Address of MLflow; null: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the checkout.",
    )
    experiment: str | None = Field(
        None, min_length=1, max_length=200, description="MLflow experiment; null: sar-search/ and the set's name."
    )
    attention_images: int = Field(4, ge=0, le=64, description="Number of validation images whose attention is logged.")
    system_metrics: bool = Field(
        True,
        description="Whether each epoch's use of CPU, memory and GPU, and its wait for data, is measured; "
        "docs/performance/machine-use.md.",
    )
    on_finished: str | None = Field(
        None,
        min_length=1,
        max_length=2000,
        description="Command for the shell, run when a search has finished; results are in its environment (SAR_...).",
    )
    on_failed: str | None = Field(
        None,
        min_length=1,
        max_length=2000,
        description="Command for the shell, run when a search has failed; SAR_REASON is the reason.",
    )
    on_promoted: str | None = Field(
        None, min_length=1, max_length=2000, description="Command for the shell, run when a model has become champion."
    )

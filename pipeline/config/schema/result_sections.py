"""Sections of params.yaml about what comes of a search: retraining, evaluation, report, registry and tracking."""

import difflib
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.config.schema.section import Section

METRIC_NAMES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "log_loss")
"""The metrics of `evaluate.metric` that are known by name (`pipeline.score.metrics.metric`)."""

USER_METRIC = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""A function of the user's own, by its module and name."""


class RetrainParams(Section):
    seeds: Literal["auto"] | Annotated[int, Field(ge=1, le=1000)] = Field(
        5,
        description="Runs of the best configuration and of its control, on train + val; auto: as many as the search's "
        "confirmed runs say that evaluate.margin takes.",
    )
    max_seeds: int = Field(20, ge=2, le=1000, description="Most runs of either arm where seeds is auto.")
    control: str = Field("baseline", min_length=1, description="The control of the space that the verdict is against.")
    max_concurrent_runs: int | None = Field(None, ge=1, le=1000, description="Runs at a time; null: as many as fit.")
    workers_per_run: int = Field(
        1,
        ge=1,
        le=1024,
        description="Workers that train one run together, each on its share of every batch, on whatever nodes have "
        "room: for networks that are slow on one GPU. The steps are those of one worker; docs/cluster.md.",
    )
    cpus_per_run: int = Field(1, ge=1, le=1024, description="CPU cores, and threads, of one run, or of each worker.")
    gpus_per_run: float | None = Field(
        None, ge=0, le=64, description="As search.gpus_per_trial, of one run, or of each worker."
    )

    @property
    def seed_bounds(self) -> tuple[int, int]:
        """The fewest and the most seeds that an arm may get."""
        return (2, self.max_seeds) if self.seeds == "auto" else (self.seeds, self.seeds)


class EvaluateParams(Section):
    confidence: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        description="Level of intervals; the rest of 1 is the chance of any false claim in a verdict.",
    )
    metric: str = Field(
        "accuracy",
        min_length=1,
        max_length=1000,
        description="What the arms are compared by: accuracy, balanced_accuracy, macro_f1, auroc, log_loss, or a "
        "function of yours as my_package.my_module:my_metric; docs/report.md.",
    )
    margin: float | None = Field(
        None,
        gt=0,
        description="Loss in evaluate.metric that an endpoint must rule out, and the most that the choice among "
        "configurations of equal accuracy may give up (0.01: one point); null: the metric's own, of accuracy 0.01.",
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=100,
        description="Parts into which all images are divided, each tested once by a search and retraining on the "
        "others: the verdict is then of this procedure, at the cost of as many searches and one (docs/folds.md). "
        "null: one test role, of split.test_fraction; else 5 or more.",
    )
    holdout: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="With folds: share of all images that is kept apart from them, to test the registered network.",
    )
    probe: bool = Field(
        False,
        description="Whether what needs no training is tested too: a logistic regression on the frozen features of "
        "model.pretrained, or of guided transfer's source; docs/report.md.",
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
    attention_images: int = Field(6, ge=1, le=64, description="Test images whose attention is shown.")


class RegisterParams(Section):
    name: str | None = Field(
        None, min_length=1, max_length=200, description="Name in the MLflow registry; null: sar- and the set's name."
    )


class PromoteParams(Section):
    min_accuracy: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Test accuracy of a champion; null: where evaluate.metric is accuracy, above the share of the most "
        "frequent class, else any.",
    )
    min_metric: float | None = Field(
        None,
        description="Of another evaluate.metric, the least value (the most, where lower is better) of a champion on "
        "the test images; null: better than the classes' shares as the answer to every image.",
    )
    margin: float | None = Field(
        None,
        gt=0,
        description="What may be lost in evaluate.metric against the champion, on the same test images; null: the "
        "metric's own margin, of accuracy 0.01.",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the interval against the champion.")
    control: Literal["not_worse", "better", "any"] = Field(
        "not_worse",
        description="What the configuration must have shown against its control, not_worse: by no more than the "
        "evaluate.margin of its evaluation; any: nothing.",
    )
    first_undecided: Literal["accept", "refuse"] = Field(
        "accept",
        description="Where there is no champion and the evaluation cannot tell whether more than evaluate.margin is "
        "lost against the control (not_worse). A loss that is shown is refused all the same.",
    )
    max_ece: float | None = Field(0.1, ge=0, le=1, description="Expected calibration error; null: any.")
    max_latency_ms: float | None = Field(
        None, gt=0, le=1e6, description="Milliseconds for one image by itself, on the machine that promotes; null: any."
    )


class TrackingParams(Section):
    uri: str | None = Field(
        None,
        max_length=1000,
        description="MLflow's address; null: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the checkout.",
    )
    experiment: str | None = Field(
        None, min_length=1, max_length=200, description="MLflow experiment; null: sar-search/ and the set's name."
    )
    attention_images: int = Field(4, ge=0, le=64, description="Validation images whose attention is logged.")
    system_metrics: bool = Field(
        True,
        description="Whether it is measured what each epoch uses of CPU, memory and GPU, and how long it waits for "
        "data; docs/performance.md.",
    )
    on_finished: str | None = Field(
        None,
        min_length=1,
        max_length=2000,
        description="Command for the shell, run when a search has finished; facts are in its environment (SAR_...).",
    )
    on_failed: str | None = Field(
        None, min_length=1, max_length=2000, description="The same, when a search has failed; SAR_REASON says why."
    )
    on_promoted: str | None = Field(
        None, min_length=1, max_length=2000, description="The same, when a model has become champion."
    )

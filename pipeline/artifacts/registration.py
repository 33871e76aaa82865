"""What `register` leaves: the version that was registered, and what its tags say for the gate."""

from dataclasses import asdict
from typing import ClassVar

from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.stage_results import Artifact, Number, Record
from pipeline.score.endpoints import Endpoint
from pipeline.score.metrics.wording import MetricWords
from pipeline.score.sample_size import VarianceParts


class Registration(Artifact):
    """registered.json."""

    FILE: ClassVar[str] = "registered.json"
    MADE_BY: ClassVar[str] = "register"

    name: str
    version: int
    model_hash: str


class ArmsTag(Record):
    """What a version's tag `sar.comparison` says of its configuration against the control: the fields of a
    `pipeline.score.comparison.Comparison`, and how it was decided.

    margin: that must not be lost. look: at the test images. variance_parts: None of one by an earlier version. metric:
    by which it is compared, where that is not accuracy. endpoint: that it is not worse than the control, the first of
    the evaluation's endpoints, if it has any.
    """

    control: str
    difference: Number
    low: Number | None
    high: Number | None
    confidence: Number
    best_mean: Number | None = None
    best_sd: Number | None = None
    control_mean: Number | None = None
    control_sd: Number | None = None
    seeds: tuple[int, int]
    images: int
    layout: str = ""
    standard_error: Number | None = None
    degrees_of_freedom: Number | None = None
    images_error: Number | None = None
    detectable_difference: Number | None
    note: str | None
    folds: int = 1
    margin: Number | None = None
    look: int | None = None
    variance_parts: VarianceParts | None = None
    metric: MetricWords | None = None
    endpoint: Endpoint | None = None


def arms_tag(evaluation: Evaluation) -> ArmsTag:
    """What the rule `control` of the gate reads: the comparison of the arms, and how it was decided."""
    other = evaluation.other_metric
    return ArmsTag(
        control=evaluation.control,
        **asdict(evaluation.comparison) | ({} if other is None else {"metric": other}),
        margin=evaluation.margin,
        look=evaluation.look,
        variance_parts=evaluation.variance_parts,
        endpoint=next(iter(evaluation.endpoints), None),
    )

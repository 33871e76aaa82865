"""Results of `register`: the registered version, and the tags of it that the gate reads."""

from dataclasses import asdict
from typing import ClassVar

from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.stage_results import Artifact, Number, Record
from pipeline.score.endpoints import Endpoint
from pipeline.score.metrics.wording import MetricWords
from pipeline.score.sample_size import VarianceParts


class Registration(Artifact):
    """Content of registered.json."""

    FILE: ClassVar[str] = "registered.json"
    MADE_BY: ClassVar[str] = "register"

    name: str
    version: int
    model_hash: str


class ArmsTag(Record):
    """Content of a version's tag `sar.comparison`: the comparison of its configuration with the control.

    The fields include those of `pipeline.score.comparison.Comparison`.

    Attributes:
        margin: Loss from which on the configuration counts as worse than the control.
        look: Number of the look at the test images.
        variance_parts: Components of variance; None for a version that an earlier version of the project registered.
        metric: Metric of the comparison in words; None for accuracy.
        endpoint: The first endpoint of the evaluation, that the configuration is not worse than the control. None if
            the evaluation has no endpoints.
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
    """Returns the comparison of the arms as the gate's rule `control` reads it.

    Args:
        evaluation: Evaluation of the registered version.
    """
    other = evaluation.other_metric
    return ArmsTag(
        control=evaluation.control,
        **asdict(evaluation.comparison) | ({} if other is None else {"metric": other}),
        margin=evaluation.margin,
        look=evaluation.look,
        variance_parts=evaluation.variance_parts,
        endpoint=next(iter(evaluation.endpoints), None),
    )

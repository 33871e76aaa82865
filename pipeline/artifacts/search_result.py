"""What `search` says of itself in results/search/summary.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from pipeline.artifacts.stage_results import Artifact, Number, Record
from pipeline.score.forecast import Components
from pipeline.score.metrics.wording import MetricWords

ALARM, REMARK, UNKNOWN = "alarm", "remark", "unknown"


class Epochs(Record):
    """Epochs that a search trained; that its budget allows, None without one; that stopping early saved."""

    spent: int
    budget: int | None = None
    saved_by_stopping: int


class SpentTime(Record):
    """Hours, by what they went into. hours: by the clock; guide_hours: of these, the guide's. cost: None without a
    price. usage: of the machine, by name (`pipeline.compute.usage_summary`), where it was measured.
    """

    hours: Number
    worker_hours: Number
    training_hours: Number
    guide_hours: Number = 0
    worker_hours_saved_by_stopping: Number
    gpu_hours: Number
    cost: Number | None
    usage: Mapping[str, Number] = Field({})


class ConfigResult(Record):
    """What is known of a configuration; further_seeds, further_mean: of the first objective. trial: "" of a control.

    The values of the objectives and of what is constrained stand after all others, by their names.
    """

    model_config = ConfigDict(extra="allow")

    trial: str = ""
    val_accuracy: Number | None
    val_loss: Number | None
    further_seeds: Sequence[Number | None]
    further_mean: Number | None

    def value(self, metric: str) -> Any:
        """The value by a metric, of every trial val/accuracy and val/loss."""
        extra = self.model_extra or {}
        return extra[metric] if metric in extra else getattr(self, metric.replace("/", "_"), None)


class ChoiceResult(Record):
    """How the best configuration was chosen among those that were confirmed (`pipeline.tune.selection.choice`)."""

    then: str | None
    within: Number
    margin: Number
    metric: MetricWords | None = None
    standard_error: Number | None
    confirmed: Sequence[str]
    equal: Sequence[str]
    decided_by: str
    value: Number | None
    further_value: Number | None
    further_seeds: int
    why: str


class RungCorrelation(Record):
    """Rank correlation of the first objective at a rung with that at the last epoch, over so many trials."""

    correlation: Number
    trials: int


@dataclass(frozen=True)
class Finding:
    """What speaks against a search. name: one of the list in `pipeline.tune.selection.health`. seen: a sentence with
    figures. advice: what to do, in a sentence; empty where there is nothing to do. kind: `alarm`, `remark`, or
    `unknown`: what could not be examined, as part of a sentence.
    """

    name: str
    seen: str
    advice: str = ""
    kind: str = ALARM


@dataclass(frozen=True)
class SearchForecast(Components):
    """The components of variance that a search has measured, and how its trials shared the machine."""

    max_concurrent: int = field(kw_only=True)
    gpus: Number = field(kw_only=True)


class FrontTrial(Record):
    """A trial on the Pareto front; the values of the objectives stand after its id, by their names."""

    model_config = ConfigDict(extra="allow")

    trial: str


class SearchSummary(Artifact):
    """summary.json. trials: of the method's study, by state. stopped_by: why it ended early, None otherwise. against:
    what the control is, in words. tuned_control, control_choice: of the control's own study. constraints: those that
    were set. objectives: of several, the direction of each; front: their Pareto front.
    """

    FILE: ClassVar[str] = "summary.json"
    MADE_BY: ClassVar[str] = "search"

    fingerprint: str
    trials: Mapping[str, int]
    all_settings_tried: bool = False
    confirmations: int
    stopped_by: str | None
    trials_asked: int | None = None
    epochs: Epochs
    spent: SpentTime
    objective: str = "val/accuracy"
    best: ConfigResult
    choice: ChoiceResult
    controls: Mapping[str, ConfigResult]
    against: str
    tuned_control: ConfigResult | None = None
    control_choice: ChoiceResult | None = None
    rung_correlations: Mapping[str, RungCorrelation] = Field({})
    health: Sequence[Finding] | None = None
    importances: Mapping[str, Number] = Field({})
    logarithmic: Sequence[str] = ()
    forecast: SearchForecast | None = None
    constraints: Mapping[str, Number] = Field({})
    objectives: Mapping[str, str] = Field({})
    front: Sequence[FrontTrial] = ()

    def with_against(self, against: str) -> "SearchSummary":
        """The same against another control."""
        return self.model_copy(update={"against": against})

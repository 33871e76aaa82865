"""Content of results/search/summary.json, which `search` writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from pipeline.artifacts.stage_results import Artifact, Number, Record
from pipeline.score.forecast import Components
from pipeline.score.metrics.wording import MetricWords

ALARM, REMARK, UNKNOWN = "alarm", "remark", "unknown"


class Epochs(Record):
    """Epochs of a search.

    Attributes:
        spent: Epochs that were trained.
        budget: Epochs that the budget allows; None without a budget.
        saved_by_stopping: Epochs that early stopping saved.
    """

    spent: int
    budget: int | None = None
    saved_by_stopping: int


class SpentTime(Record):
    """Hours and money that a search has spent.

    Attributes:
        hours: Hours by the clock.
        worker_hours: Hours of all workers together.
        training_hours: Hours of training.
        guide_hours: Hours by the clock that the guide took, which `hours` includes.
        worker_hours_saved_by_stopping: Estimated worker-hours that early stopping saved.
        gpu_hours: GPU-hours.
        cost: Cost by the configured prices; None without a price.
        usage: Use of the machine by name (`pipeline.compute.usage_summary`); empty if it was not measured.
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
    """Results of a configuration.

    Values of objectives and of constrained metrics follow the other fields, by their names.

    Attributes:
        trial: Id of its trial; "" for a control.
        val_accuracy: Validation accuracy with the search's seed.
        val_loss: Validation loss with the search's seed.
        further_seeds: First objective of each confirmation.
        further_mean: Mean of the first objective over the confirmations; None without any.
    """

    model_config = ConfigDict(extra="allow")

    trial: str = ""
    val_accuracy: Number | None
    val_loss: Number | None
    further_seeds: Sequence[Number | None]
    further_mean: Number | None

    def value(self, metric: str) -> Any:
        """Returns the value by a metric. Every trial has val/accuracy and val/loss."""
        extra = self.model_extra or {}
        return extra[metric] if metric in extra else getattr(self, metric.replace("/", "_"), None)


class ChoiceResult(Record):
    """Rule and result of choosing the best among the confirmed configurations (`pipeline.tune.selection.choice`).

    Attributes:
        then: Metric that decides among equal configurations (`search.choose.then`); None without one.
        within: Standard errors behind the best within which configurations count as equal.
        margin: Difference in the first objective within which configurations may count as equal.
        metric: First objective in words; None in results of earlier versions.
        standard_error: Standard error of a difference of two configurations; None if it cannot be estimated.
        confirmed: Ids of the confirmed trials, the best by the first objective first.
        equal: Ids of those that count as equal to the first.
        decided_by: Metric that decided.
        value: Mean of `then` over all seeds of the chosen configuration; None without `then`.
        further_value: The same over the confirmations alone.
        further_seeds: Number of confirmations of the chosen configuration.
        why: Reason for the choice in words.
    """

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
    """Rank correlation between the first objective at a rung and at the last epoch, and the number of trials."""

    correlation: Number
    trials: int


@dataclass(frozen=True)
class Finding:
    """Evidence against a search.

    Attributes:
        name: One of the names listed in `pipeline.tune.selection.health`.
        seen: Sentence with figures; of an `unknown`, part of a sentence about what could not be examined.
        advice: What to do, in a sentence; empty if there is nothing to do.
        kind: `alarm`, `remark` or `unknown`.
    """

    name: str
    seen: str
    advice: str = ""
    kind: str = ALARM


@dataclass(frozen=True)
class SearchForecast(Components):
    """Components of variance that a search has measured.

    Attributes:
        max_concurrent: Number of trials that ran at the same time.
        gpus: GPUs of a trial.
    """

    # Left out if it was not measured, so that a file of an earlier version stays the same.
    recurrence: Annotated[Number | None, Field(exclude_if=lambda value: value is None)] = None
    max_concurrent: int = field(kw_only=True)
    gpus: Number = field(kw_only=True)


class FrontTrial(Record):
    """A trial on the Pareto front. The values of the objectives follow its id, by their names."""

    model_config = ConfigDict(extra="allow")

    trial: str


class SearchSummary(Artifact):
    """Content of summary.json.

    Attributes:
        fingerprint: Fingerprint of the search.
        trials: Number of trials of the method's study, by state.
        all_settings_tried: Whether every configuration of a finite space has been tried.
        confirmations: Number of confirmations.
        stopped_by: Reason for which the search ended early; None if it did not.
        trials_asked: Number of trials that `search.trials` asks for; None if it is not set.
        epochs: Epochs that were trained and saved.
        spent: Hours and money spent.
        objective: First objective.
        best: Results of the best configuration.
        choice: How the best configuration was chosen.
        controls: Results by the name of the control.
        against: Description of the control in words.
        tuned_control: Results of the best configuration of the control study; None without such a study.
        control_choice: How the best configuration of the control study was chosen; None without such a study.
        rung_correlations: Rank correlation with the last epoch, by rung.
        health: Findings about the search; None in results of earlier versions.
        importances: Importance of each parameter by dotted path.
        logarithmic: Dotted paths of the parameters on a logarithmic scale.
        forecast: Components of variance; None if they could not be measured.
        constraints: Limits that were set, by constraint.
        objectives: Direction of each objective; empty with one objective.
        front: Pareto front; empty with one objective.
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
        """Returns a copy with another control in words."""
        return self.model_copy(update={"against": against})

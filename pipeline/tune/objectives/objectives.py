"""Objectives of a search, and the constraints that the best configuration must meet.

They are made of these metrics of a trial:

    val/accuracy, val/loss   at a trial's last epoch
    val/balanced_accuracy, val/macro_f1, val/auroc
                             likewise, if they are requested (`pipeline.score.metrics`)
    val/metric               the user's function that evaluate.metric names, of which more must be better
    val/attention/jaccard, val/attention/auroc
                             attention of the last block against the masks of the validation images, at the rungs and
                             the last epoch (`pipeline.score.locate`; of the head with the highest AUROC on these same
                             images)
    parameters               number of the network's parameters; available before anything is trained
    latency_ms, images_per_s of a forward pass on the trial's device, measured before its first epoch
                             (`pipeline.score.latency`)
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.config import Content, Params
from pipeline.config.schema.result_sections import USER_METRIC as USER_FUNCTION
from pipeline.config.schema.search_section import ConstraintsParams
from pipeline.errors import UserError
from pipeline.tune.journal.records import COMPLETE, VAL_ACCURACY, TrialRecord
from pipeline.tune.objectives.pareto import count_dominating

JACCARD, AUROC = "val/attention/jaccard", "val/attention/auroc"
PARAMETERS, LATENCY, THROUGHPUT = "parameters", "latency_ms", "images_per_s"
LOSS = "val/loss"
LOWER_IS_BETTER = (LOSS, PARAMETERS, LATENCY)
OF_ATTENTION, OF_SPEED = (JACCARD, AUROC), (LATENCY, THROUGHPUT)
USER_METRIC = "val/metric"
OF_CLASSES = ("val/balanced_accuracy", "val/macro_f1", "val/auroc", USER_METRIC)
"""Metrics of the class probabilities of the validation images, measured after every epoch."""
MAY_BE_FIRST = (VAL_ACCURACY, LOSS, *OF_CLASSES)
"""Metrics that every epoch has, of which one must be the first objective. By that one, trials go on at rungs,
and the configuration to retrain is chosen.
"""

LIMITED = {
    "max_parameters": PARAMETERS,
    "max_latency_ms": LATENCY,
    "min_images_per_s": THROUGHPUT,
    "min_attention_jaccard": JACCARD,
}
"""Metric that each of `search.constraints` bounds, in the direction in which it gets worse."""


@dataclass(frozen=True)
class Objectives:
    """Objectives and constraints of a search.

    Attributes:
        objectives: Names of metrics, the first one of `MAY_BE_FIRST`.
        limits: Worst value allowed, by metric.
        then: Metric that decides among configurations that the first objective does not tell apart
            (`search.choose.then`); None if there is none.
    """

    objectives: tuple[str, ...] = (VAL_ACCURACY,)
    limits: Mapping[str, float] = field(default_factory=dict)
    then: str | None = None

    @property
    def first(self) -> str:
        """Objective by which trials go on and configurations are chosen."""
        return self.objectives[0]

    @property
    def is_multi_objective(self) -> bool:
        return len(self.objectives) > 1

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Direction of each objective, in Optuna's words."""
        return ["minimize" if name in LOWER_IS_BETTER else "maximize" for name in self.objectives]

    @property
    def metrics(self) -> list[str]:
        """Every metric that is an objective, is bounded, or decides among equals.

        The metrics val/accuracy and val/loss are left out, since all trials have them.
        """
        asked = (*self.objectives, *self.limits, *([self.then] if self.then else []))
        return [name for name in dict.fromkeys(asked) if name not in (VAL_ACCURACY, LOSS)]

    @property
    def shown_metrics(self) -> list[str]:
        """Metrics that lists of trials show besides the first objective."""
        asked = (*self.objectives[1:], *self.limits, *([self.then] if self.then else []))
        return [name for name in dict.fromkeys(asked) if name != self.first]

    @property
    def stopping_metrics(self) -> list[str]:
        """Metrics by each of which a trial may go on at a rung, the first objective first.

        Attention is hardly correlated with metrics of the classes. By these alone, trials would be stopped that
        attention is to choose from.
        """
        return [self.first, *([self.then] if self.then in OF_ATTENTION else [])]

    @property
    def attention_metrics(self) -> list[str]:
        """Metrics of attention among `metrics`."""
        return [name for name in self.metrics if name in OF_ATTENTION]

    @property
    def class_metrics(self) -> list[str]:
        """Metrics of class probabilities among `metrics`."""
        return [name for name in self.metrics if name in OF_CLASSES]

    @property
    def speed_metrics(self) -> list[str]:
        """Metrics of speed among `metrics`."""
        return [name for name in self.metrics if name in OF_SPEED]

    def gain(self, record: TrialRecord) -> float:
        """Returns the first objective at a trial's last epoch, turned so that more is better; NaN if it is missing."""
        return maximise(self.first, record.metric(self.first))

    def gains(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Returns the metrics of an epoch by which a trial may go on, each turned so that more is better."""
        return {name: maximise(name, metrics[name]) for name in self.stopping_metrics if name in metrics}

    def objective_values(self, record: TrialRecord) -> list[float]:
        """Returns the objectives at a trial's last epoch; NaN for a missing one."""
        return [record.metric(name) for name in self.objectives]

    def maximised(self, values: Sequence[float]) -> list[float]:
        """Returns values of the objectives, each turned so that more is better."""
        return [maximise(name, value) for name, value in zip(self.objectives, values, strict=True)]

    def violations(self, metric: Callable[[str], float]) -> dict[str, float]:
        """Returns the violation of each limit by metric, as a share of the limit; the limit is met at 0 or below.

        Violations are shares because a sampler adds them up, and a million parameters must weigh as much as a
        millisecond. A metric that is NaN is left out.

        Args:
            metric: Returns a metric's value by name; NaN if it is missing.
        """
        found = {}
        for name, limit in self.limits.items():
            value = metric(name)
            if not math.isnan(value):
                found[name] = (value - limit if name in LOWER_IS_BETTER else limit - value) / limit
        return found

    def explain_infeasible(self, measured: Mapping[str, float]) -> list[str]:
        """Returns, in words, the limits that metrics measured before the first epoch break.

        Args:
            measured: Values by metric.
        """
        parameter = {metric: name for name, metric in LIMITED.items()}
        return [
            f"search.constraints.{parameter[name]}: {name} is {format_metric(name, measured[name])}, "
            f"{_allowed(name, self.limits[name])}"
            for name, amount in self.violations(lambda name: measured.get(name, math.nan)).items()
            if amount > 0
        ]

    def is_feasible(self, record: TrialRecord) -> bool:
        """Returns whether a trial has a value for every limit and meets it."""
        found = self.violations(record.metric)
        return len(found) == len(self.limits) and all(amount <= 0 for amount in found.values())

    def pareto_front(self, records: Iterable[TrialRecord]) -> list[TrialRecord]:
        """Returns the records that no other one dominates, in their order. Records without a finite value of
        each objective are left out.
        """
        there = [record for record in records if all(map(math.isfinite, self.objective_values(record)))]
        counts = count_dominating([self.maximised(self.objective_values(record)) for record in there])
        return [record for record, count in zip(there, counts, strict=True) if not count]


ACCURACY_ALONE = Objectives()

NO_METRIC, AUTO = "none", "auto"
"""Values of `search.choose.then`: no metric decides among equals; the metric is chosen by the data."""


def maximise(name: str, value: float) -> float:
    """Returns a value of a metric, turned so that more is better.

    Args:
        name: The metric's name.
        value: Its value.
    """
    return -value if name in LOWER_IS_BETTER else value


def metric_of(objective: str, params: Params) -> str:
    """Returns the name in `evaluate.metric` of the metric of class probabilities that an objective of
    `MAY_BE_FIRST` is.

    Args:
        objective: The objective's name.
        params: All parameters.
    """
    if objective == USER_METRIC:
        return params.evaluate.metric
    return "log_loss" if objective == LOSS else objective.removeprefix("val/")


def objective_of(metric: str) -> str:
    """Returns the objective by which a search optimises a metric of `evaluate.metric`.

    Args:
        metric: The metric's name.
    """
    if USER_FUNCTION.fullmatch(metric):
        return USER_METRIC
    return LOSS if metric == "log_loss" else f"val/{metric}"


def objectives_from_params(params: Params) -> Objectives:
    """Returns the objectives that the parameters name; `search.choose.then: auto`, not resolved yet, counts as none.

    Args:
        params: All parameters.
    """
    then = params.search.choose.then
    return Objectives(
        tuple(params.search.objectives),
        limits_from_params(params.search.constraints),
        None if then in (NO_METRIC, AUTO) else then,
    )


def objectives_from_content(content: Content) -> Objectives:
    """Returns the objectives of a search from the content of its fingerprint, as its journal's header has it.

    Args:
        content: The content.
    """
    constraints = ConstraintsParams(**content.get("constraints", {}))
    return Objectives(
        tuple(content.get("objectives", [VAL_ACCURACY])), limits_from_params(constraints), content.get("then")
    )


def is_searched_for(params: Params) -> bool:
    """Returns whether the first objective is the metric that the arms are compared by, `evaluate.metric`.

    Args:
        params: All parameters.
    """
    return objective_of(params.evaluate.metric) == params.search.objectives[0]


def otherwise_by(params: Params) -> str:
    """Returns the metric of `search.choose.then: auto` when too few validation images have masks.

    Args:
        params: All parameters.
    """
    return VAL_ACCURACY if params.search.objectives[0] == LOSS else LOSS


def limits_from_params(constraints: ConstraintsParams) -> dict[str, float]:
    """Returns the limits that are given, by metric.

    Args:
        constraints: `search.constraints`.
    """
    given = {metric: getattr(constraints, name) for name, metric in LIMITED.items()}
    return {metric: float(limit) for metric, limit in given.items() if limit is not None}


def format_metric(name: str, value: float) -> str:
    """Returns a metric's value as sentences and tables show it.

    Args:
        name: The metric's name.
        value: Its value.
    """
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if name == PARAMETERS else f"{value:.4f}" if name.startswith("val/") else f"{value:.4g}"


def format_limits(constraints: Mapping[str, float | None]) -> str:
    """Returns the given limits of `search.constraints` in words.

    Args:
        constraints: Limits by parameter; None for no limit.
    """
    given = {name: limit for name, limit in constraints.items() if limit is not None}
    return ", ".join(f"{name} {format_metric(LIMITED[name], limit)}" for name, limit in given.items())


def check_objectives(params: Params) -> None:
    """Raises an error if the search cannot be run for these objectives with its other parameters.

    Args:
        params: All parameters.

    Raises:
        UserError: names the parameter in the way, and the remedy.
    """
    search, objectives = params.search, objectives_from_params(params)
    said = f"params.yaml: search.objectives: {', '.join(objectives.objectives)}"
    if len(set(objectives.objectives)) < len(objectives.objectives):
        raise UserError(f"{said}: names an objective twice.")
    if objectives.first not in MAY_BE_FIRST:
        raise UserError(
            f"{said}: must begin with one of {', '.join(MAY_BE_FIRST)}, which every epoch has, since the first "
            "objective decides which trials go on at rungs and which configuration is retrained. To ask for a least "
            "value of another metric, see search.constraints."
        )
    if USER_METRIC in objectives.metrics and not USER_FUNCTION.fullmatch(params.evaluate.metric):
        raise UserError(
            f"params.yaml: search: {USER_METRIC} stands for a function of yours that evaluate.metric names, but "
            f"evaluate.metric is {params.evaluate.metric}. Name your function there, or search for "
            f"{objective_of(params.evaluate.metric)}."
        )
    if objectives.then == objectives.first:
        raise UserError(
            f"params.yaml: search.choose.then: {objectives.then} is the first of search.objectives, and cannot decide "
            "among configurations that it does not tell apart. Name another metric, auto, or none."
        )
    target = search.budget.target
    if (
        target is not None
        and objectives.first != USER_METRIC
        and not 0 < target <= (math.inf if objectives.first == LOSS else 1)
    ):
        raise UserError(
            f"params.yaml: search.budget.target: given {target:g}; {objectives.first}, the first of search.objectives, "
            f"{'is above 0' if objectives.first == LOSS else 'lies in 0 to 1'}."
        )
    if not objectives.is_multi_objective:
        return
    if search.scheduler.name != "none":
        raise UserError(
            f"{said}: several objectives have no order by which a trial could be stopped early, and Optuna takes no "
            f"intermediate values with them. Set search.scheduler.name: none (it is {search.scheduler.name})."
        )
    if search.budget.patience is not None:
        raise UserError(
            f"{said}: search.budget.patience counts trials without an improvement, which is not defined for several "
            "objectives. Set it to null; search.trials, hours, gpu_hours, cost and target (of the first) bound such a "
            "search."
        )


def violated(records: Iterable[TrialRecord], objectives: Objectives) -> str:
    """Returns, for each constraint, how near the nearest configuration came to meeting it, in words.

    Args:
        records: Configurations of which none can be named the best.
        objectives: Objectives and constraints.
    """
    tried = list(records)
    lines = []
    for name, limit in objectives.limits.items():
        known = [record for record in tried if not math.isnan(record.metric(name))]
        if not known:
            continue
        best = min if name in LOWER_IS_BETTER else max
        nearest = best(known, key=lambda record: record.metric(name))
        lines.append(
            f"  {name}: the {'lowest' if name in LOWER_IS_BETTER else 'highest'} was "
            f"{format_metric(name, nearest.metric(name))} ({nearest.id}), {_allowed(name, limit)}"
        )
    return "\n".join(lines)


def _allowed(name: str, limit: float) -> str:
    return f"allowed: {'at most' if name in LOWER_IS_BETTER else 'at least'} {format_metric(name, limit)}"


def is_valid_result(record: TrialRecord, objectives: Objectives) -> bool:
    """Returns whether a trial has run in full and meets every constraint.

    Args:
        record: The trial.
        objectives: Objectives and constraints.
    """
    return record.state == COMPLETE and objectives.is_feasible(record)


def describe_objectives(params: Params) -> dict[str, str]:
    """Returns lines of the plan, by name; none in a search for val/accuracy alone without constraints.

    Args:
        params: All parameters.
    """
    objectives, search = objectives_from_params(params), params.search
    lines = {}
    if objectives.is_multi_objective:
        pairs = zip(objectives.objectives, objectives.directions, strict=True)
        lines["objectives"] = ", ".join(f"{direction} {name}" for name, direction in pairs) + (
            "; the configurations to confirm and retrain come from the Pareto front"
        )
        if search.sampler.name == "local_gp":
            lines["objectives"] += "; local_gp proposes as tpe does"
    elif objectives.first != VAL_ACCURACY:
        lines["objective"] = f"{objectives.directions[0]} {objectives.first}"
    if not is_searched_for(params):
        lines["metric"] = (
            f"the arms are compared by {params.evaluate.metric}; a search for that: search.objectives: "
            f"[{objective_of(params.evaluate.metric)}]"
        )
    if objectives.limits:
        lines["within"] = format_limits(search.constraints.model_dump())
    return lines

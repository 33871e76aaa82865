"""Figures of a finished search: counts, time spent and saved, values of best configuration and controls, rungs."""

from collections.abc import Sequence
from typing import Any

from pipeline.artifacts.search_result import (
    ConfigResult,
    Epochs,
    Finding,
    FrontTrial,
    RungCorrelation,
    SearchSummary,
    SpentTime,
)
from pipeline.compute.usage_summary import summarise_usage
from pipeline.tune.budget import EPOCH_BUDGET, HOUR, Budget
from pipeline.tune.journal.records import (
    COMPLETE,
    CONFIRMATION,
    CONTROL_STUDY,
    FAILED,
    INFEASIBLE,
    METHOD,
    PRUNED,
    VAL_ACCURACY,
    TrialRecord,
)
from pipeline.tune.objectives.objective_words import objective_words
from pipeline.tune.objectives.objectives import Objectives, objectives_from_params
from pipeline.tune.outcome import SearchOutcome
from pipeline.tune.run_counts import budget_epochs, control_seeds, requested_trials, study_allowance
from pipeline.tune.selection.candidates import pareto_front
from pipeline.tune.selection.choice import Choice, finite_or_none
from pipeline.tune.selection.confirm import ConfirmedResult, confirm_results
from pipeline.tune.selection.confirmed_tables import forecast_content
from pipeline.tune.selection.health import examine_search, rank_correlation
from pipeline.tune.study.studies import SAME_BUDGET
from pipeline.tune.task import SearchTask


def summarise(task: SearchTask, outcome: SearchOutcome, choice: Choice, control_choice: Choice | None) -> SearchSummary:
    """Returns the content of summary.json.

    Args:
        task: The search.
        outcome: Its outcome.
        choice: Choice of the method's study.
        control_choice: Choice of the control study; None if there is none.
    """
    params, best = task.params, choice.best
    tuned = None if control_choice is None else control_choice.best
    tried = [trial for trial in outcome.trials if trial.study == METHOD]
    planned = params.train.epochs
    records = {trial.id: trial for trial in outcome.trials}
    seeds, objectives = control_seeds(params, task.space), objectives_from_params(params)
    controls = {
        trial.id: _result(
            objectives,
            confirm_results(trial, records, seeds[trial.id], base_seed=params.base.seed, objective=objectives.first),
        )
        for trial in outcome.trials
        if trial.control and trial.epochs
    }
    states = (COMPLETE, PRUNED, FAILED, *([INFEASIBLE] if objectives.limits else []))
    further: dict[str, Any] = _of_objectives(task, outcome)
    if control_choice is not None:
        further["control_choice"] = control_choice.result()
    if task.space.size() is not None:
        further["all_settings_tried"] = outcome.adapter.num_left == 0
    return SearchSummary(
        fingerprint=task.fingerprint,
        trials={state: sum(t.state == state for t in tried) for state in states},
        confirmations=sum(trial.role == CONFIRMATION for trial in outcome.trials),
        stopped_by=None if (outcome.stopped or "").startswith(EPOCH_BUDGET) else outcome.stopped,
        trials_asked=None if params.search.trials is None else requested_trials(params, task.space)[METHOD],
        epochs=Epochs(
            spent=sum(trial.trained_epochs for trial in outcome.trials),
            budget=budget_epochs(params),
            saved_by_stopping=sum(planned - t.last_epoch for t in outcome.trials if t.state == PRUNED),
        ),
        spent=_spent(task, outcome),
        objective=objectives.first,
        best=_result(objectives, best, trial=best.trial.id),
        choice=choice.result(),
        controls=controls,
        against=_against(task, tuned),
        tuned_control=None if tuned is None else _result(objectives, tuned, trial=tuned.trial.id),
        rung_correlations=rung_correlations(tried, outcome.rung_epochs, objectives.first),
        health=_health(task, outcome, best),
        importances=outcome.adapter.importances(),
        logarithmic=[path for path, dimension in task.space.dimensions.items() if dimension.get("log")],
        forecast=forecast_content(outcome.trials, outcome.scores, task.resources, params),
        **further,
    )


def _health(task: SearchTask, outcome: SearchOutcome, best: ConfirmedResult) -> Sequence[Finding]:
    """Returns the findings about the search's health.

    Args:
        task: The search.
        outcome: Its outcome.
        best: The chosen configuration.
    """
    return examine_search(
        outcome.trials,
        task.space,
        outcome.rung_epochs,
        best=best.trial,
        objectives=objectives_from_params(task.params),
        scores=outcome.scores,
        words=objective_words(task.params),
    )


def _of_objectives(task: SearchTask, outcome: SearchOutcome) -> dict[str, Any]:
    """Returns the entries for constraints and, with several objectives, the Pareto front; empty with neither."""
    search, objectives = task.params.search, objectives_from_params(task.params)
    found: dict[str, Any] = {}
    if objectives.limits:
        limits = search.constraints.model_dump()
        found["constraints"] = {name: limit for name, limit in limits.items() if limit is not None}
    if objectives.is_multi_objective:
        tried = [trial for trial in outcome.trials if trial.study == METHOD]
        front = pareto_front(tried, search.max_empty_share, objectives)
        front.sort(key=lambda trial: -objectives.gain(trial))
        found["objectives"] = dict(zip(objectives.objectives, objectives.directions, strict=True))
        found["front"] = [FrontTrial(trial=trial.id, **_objective_values(objectives, trial)) for trial in front]
    return found


def _objective_values(objectives: Objectives, trial: TrialRecord) -> dict[str, Any]:
    return dict(zip(objectives.objectives, map(finite_or_none, objectives.objective_values(trial)), strict=True))


def _result(objectives: Objectives, confirmed: ConfirmedResult, **trial: str) -> ConfigResult:
    """Returns the entry of a configuration.

    Args:
        objectives: Objectives and constraints.
        confirmed: The configuration with its runs.
        trial: `trial`, its id; absent for a control, which has a name.
    """
    measured: dict[str, Any] = {name: finite_or_none(confirmed.trial.metric(name)) for name in objectives.metrics}
    return ConfigResult(
        **trial,
        val_accuracy=finite_or_none(confirmed.trial.metric(VAL_ACCURACY)),
        val_loss=finite_or_none(confirmed.trial.metric("val/loss")),
        further_seeds=[finite_or_none(value) for value in confirmed.further(objectives.first)],
        further_mean=finite_or_none(confirmed.further_mean(objectives.first)),
        **measured,
    )


def _spent(task: SearchTask, outcome: SearchOutcome) -> SpentTime:
    """Returns the time by purpose, guides included, and the usage of the machine if it was measured.

    A trial that was stopped early saves the time of its remaining epochs.
    """
    pace = _pace(outcome.trials)
    left = sum(task.params.train.epochs - t.last_epoch for t in outcome.trials if t.state == PRUNED)
    price = task.params.search.budget.price_per_gpu_hour
    guide_s, guide_gpu_s = task.guide_seconds
    gpu_s = outcome.spent.gpu_seconds + guide_gpu_s
    usage = summarise_usage(each for trial in outcome.trials for each in trial.timed_usage)
    further: dict[str, Any] = {"usage": usage} if usage else {}
    if guide_s:
        further["guide_hours"] = round(guide_s / HOUR, 4)
    return SpentTime(
        hours=round((outcome.spent.seconds + guide_s) / HOUR, 4),
        worker_hours=round((sum(trial.busy_s for trial in outcome.trials) + guide_s) / HOUR, 4),
        training_hours=round((sum(trial.seconds for trial in outcome.trials) + guide_s) / HOUR, 4),
        worker_hours_saved_by_stopping=round(left * pace / HOUR, 4),
        gpu_hours=round(gpu_s / HOUR, 4),
        cost=round(Budget(price_per_gpu_hour=price).price(gpu_s), 4) if price else None,
        **further,
    )


def _pace(trials: Sequence[TrialRecord]) -> float:
    """Returns the seconds of a worker for one epoch, mean over all trials."""
    epochs = sum(len(trial.epochs) for trial in trials)
    return sum(trial.busy_s for trial in trials) / epochs if epochs else 0.0


def _against(task: SearchTask, tuned: ConfirmedResult | None) -> str:
    """Returns the control of the comparison in words."""
    search, name = task.params.search, task.params.retrain.control
    share = study_allowance(task.params, task.space)
    if tuned is not None:
        own = (
            f"{requested_trials(task.params, task.space)[CONTROL_STUDY]} trials" if share is None else f"{share} epochs"
        )
        return f"{name}, its recipe tuned over {own} of its own (search.compare: same_budget)"
    if search.compare == SAME_BUDGET:
        return (
            f"{name}, which has nothing to tune in this space; its share of the budget went to "
            f"{control_seeds(task.params, task.space)[name]} further seeds (search.compare: same_budget)"
        )
    if task.space.recipe().dimensions:
        return f"{name}, with the recipe of params.yaml, not tuned (search.compare: recipe)"
    return f"{name}, with the recipe of params.yaml (the search varies none of it)"


def rung_correlations(
    trials: Sequence[TrialRecord], rung_epochs: Sequence[int], objective: str = VAL_ACCURACY
) -> dict[str, RungCorrelation]:
    """Returns Spearman's rank correlation between the objective at each rung and at the last epoch, over
    completed trials.

    Only trials that ran in full have both values, so the correlation is about trials that the rungs let go on.
    A rung with fewer than three of these, or with equal values throughout, is left out.

    Args:
        trials: The method's trials.
        rung_epochs: Epochs of the rungs.
        objective: Name of the objective.

    Returns:
        Correlations by the rung's epoch, as text.
    """
    completed = [trial for trial in trials if trial.state == COMPLETE]
    known = {rung: rank_correlation(completed, objective, rung, 3) for rung in rung_epochs}
    found = {str(rung): pair for rung, pair in known.items() if pair is not None}
    return {rung: RungCorrelation(correlation=round(value, 4), trials=count) for rung, (value, count) in found.items()}

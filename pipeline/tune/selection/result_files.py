"""Files of a finished search in `results/search/`: the trials, the best configuration, a summary, the study.

    trials.csv    a row a run: controls, trials (`control trial`: of the control's own study), confirmations
    curves.csv    a row an epoch of a trial
    timings.csv   seconds by trial, and its usage of the machine; apart from the other files, so that these are the same
                  for the same search
    pareto.csv    the trials that ran in full, and the controls, by their objectives; `front`: on the Pareto front
    best.yaml     best configuration and controls, as parameters by dotted path; the parameters they were found with
    metrics.json  the few figures that `dvc metrics` shows
    summary.json  all figures: counts, epochs spent and saved, best and control values, importances
    plot_trials.csv, plot_curves.csv  data of `dvc plots`: the first objective by trial; curves of best and control
    study.db      the Optuna study (SQLite; optuna-dashboard opens it)

`pipeline.tune.selection.choice` describes how the best configuration is chosen. Values from the search serve to
choose a configuration; they never enter the verdict.
"""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.best_config import BestConfig
from pipeline.artifacts.search_result import SearchSummary
from pipeline.compute.usage_summary import summarise_usage
from pipeline.config import Params, Values, parameters
from pipeline.files.atomic import replace_file
from pipeline.tune.journal.records import COMPLETE, CONTROL_STUDY, METHOD, VAL_ACCURACY, TrialRecord
from pipeline.tune.objectives.objectives import Objectives, is_valid_result, objectives_from_params
from pipeline.tune.outcome import SearchOutcome
from pipeline.tune.selection.candidates import allowed_trials, choice_rule, empty_share, pareto_front
from pipeline.tune.selection.choice import Choice, choose_best
from pipeline.tune.selection.summary import summarise
from pipeline.tune.table_cells import Row, format_cell
from pipeline.tune.task import SearchTask

IDENTITY_PREFIXES = (
    *("base.seed", "model.", "train.", "regularizer."),
    *(
        f"search.{name}"
        for name in ("space", "sampler.", "scheduler.", "points", "warm_start", "objectives", "choose.then")
    ),
    "search.constraints.",
)
"""Beginnings of the paths of parameters that decide which configurations are proposed and how they are trained."""


def write_results(task: SearchTask, outcome: SearchOutcome, folder: Path) -> tuple[TrialRecord, SearchSummary]:
    """Writes every file of the module's list and returns the best trial and the summary.

    Args:
        task: The search.
        outcome: Its outcome.
        folder: Directory to write to.

    Raises:
        UserError: no trial can be named the best.
    """
    choice, control_choice = _choose(METHOD, task, outcome), None
    if CONTROL_STUDY in outcome.studies:
        control_choice = _choose(CONTROL_STUDY, task, outcome)
    best = choice.best
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(folder / "trials.csv", [_trial_row(trial, task) for trial in outcome.trials])
    _write_csv(
        folder / "curves.csv",
        [
            {"trial": trial.id, "epoch": epoch}
            | {name: value for name, value in trial.epochs[epoch].items() if name != "seconds"}
            for trial in outcome.trials
            for epoch in sorted(trial.epochs)
        ],
    )
    _write_csv(
        folder / "timings.csv",
        [
            {
                "trial": trial.id,
                "epochs": trial.last_epoch,
                "training_seconds": round(trial.seconds, 2),
                "worker_seconds": round(trial.busy_s, 2),
                "gpu_seconds": round(trial.gpu_s, 2),
                **summarise_usage(trial.timed_usage),
            }
            for trial in outcome.trials
        ],
    )
    summary = summarise(task, outcome, choice, control_choice)
    summary.write(folder)
    (folder / "metrics.json").write_text(json.dumps(_metrics(summary), indent=2) + "\n")
    _write_csv(folder / "plot_trials.csv", _plot_trials(outcome.trials, objectives_from_params(task.params)))
    _write_csv(folder / "plot_curves.csv", _plot_curves(best.trial, outcome.trials, task.params))
    _write_csv(folder / "pareto.csv", pareto_rows(task, outcome, best.trial))
    outcome.adapter.save(folder / "study.db")
    controls = {name: dict(values) for name, values in task.space.controls.items()}
    if control_choice is not None:
        controls[task.params.retrain.control] = dict(control_choice.best.trial.values)
    weights: dict[str, Any] = {"weights": task.header["weights"]} if "weights" in task.header else {}
    BestConfig(
        fingerprint=task.fingerprint,
        trial=best.trial.id,
        best=best.trial.values,
        controls=controls,
        against=summary.against,
        parameters=json.loads(json.dumps(fingerprint_parameters(task.asked or task.params))),
        **weights,
    ).write(folder)
    return best.trial, summary


def fingerprint_parameters(params: Params) -> Values:
    """Returns the parameters in the fingerprint, by dotted path
    (`pipeline.provenance.fingerprint.fingerprint_content`).
    """
    return {
        path: params.value(path)
        for path in parameters()
        if path.startswith(IDENTITY_PREFIXES) and path != "train.workers"
    }


def _choose(study: str, task: SearchTask, outcome: SearchOutcome) -> Choice:
    """Returns the best configuration of a study.

    Args:
        study: `METHOD` or `CONTROL_STUDY`.
        task: The search.
        outcome: Its outcome.
    """
    others = {METHOD: CONTROL_STUDY, CONTROL_STUDY: METHOD}
    return choose_best(
        [trial for trial in outcome.trials if trial.study != others[study]],
        choice_rule(task.params),
        outcome.scores,
        stopped=outcome.stopped,
        label="the search" if study == METHOD else f"{task.params.retrain.control}'s own study",
    )


def _trial_row(trial: TrialRecord, task: SearchTask) -> Row:
    metrics = trial.epochs[trial.last_epoch] if trial.epochs else {}
    configuration = _configurations(trial, task)
    objectives = objectives_from_params(task.params)
    return {
        "trial": trial.id,
        "role": "control trial" if trial.study == CONTROL_STUDY else trial.role,
        "study": trial.study,
        "seed": task.params.base.seed if trial.seed is None else trial.seed,
        "state": trial.state,
        "epochs": trial.last_epoch,
        "val/accuracy": metrics.get("val/accuracy"),
        "val/loss": metrics.get("val/loss"),
        "empty_share": empty_share(trial) if trial.epochs else None,
        **{name: trial.metric(name) for name in objectives.metrics},
        **({"breaks": ", ".join(_broken(trial, objectives))} if objectives.limits else {}),
        **configuration,
        "reason": trial.reason,
    }


def pareto_rows(task: SearchTask, outcome: SearchOutcome, best: TrialRecord) -> list[Row]:
    """Returns a row for each of the method's trials that ran in full, and each control.

    A row has the objectives, whether every constraint is met, and whether the trial is on the front or is the
    one chosen. With a single objective, the front is the best trial alone.

    Args:
        task: The search.
        outcome: Its outcome.
        best: The best trial.
    """
    objectives, empty = objectives_from_params(task.params), task.params.search.max_empty_share
    tried = [trial for trial in outcome.trials if trial.study == METHOD and trial.state == COMPLETE]
    sound = {trial.id for trial in allowed_trials(tried, empty, objectives)}
    front = {trial.id for trial in pareto_front(tried, empty, objectives)}
    return [
        {
            "trial": trial.id,
            "role": trial.role,
            **dict(zip(objectives.objectives, objectives.objective_values(trial), strict=True)),
            "keeps_constraints": str(trial.id in sound if trial.study else objectives.is_feasible(trial)).lower(),
            "front": str(trial.id in front).lower(),
            "chosen": str(trial.id == best.id).lower(),
            **_configurations(trial, task),
        }
        for trial in [*tried, *(record for record in outcome.trials if record.control and record.epochs)]
    ]


def _configurations(trial: TrialRecord, task: SearchTask) -> Row:
    """Returns the values that a run trained with, as cells."""
    values = {**{path: task.params.value(path) for path in task.space.dimensions}, **trial.values}
    return {path: format_cell(value, task.space.dimensions.get(path)) for path, value in values.items()}


def _broken(trial: TrialRecord, objectives: Objectives) -> list[str]:
    """Returns the names of the metrics whose limits a trial breaks."""
    return [name for name, amount in objectives.violations(trial.metric).items() if amount > 0]


def _metrics(summary: SearchSummary) -> dict[str, Any]:
    shown = {"val": VAL_ACCURACY}
    if (first := summary.objective) != VAL_ACCURACY:
        shown[first.replace("/", "_")] = first
    arms = {"best": summary.best, **summary.controls}
    values = {name: {arm: found.value(key) for arm, found in arms.items()} for name, key in shown.items()}
    return {**values, "epochs": summary.epochs.spent}


def _plot_trials(trials: Sequence[TrialRecord], objectives: Objectives) -> list[Row]:
    """Returns trials by number, each with the best value completed by then."""
    rows: list[Row] = []
    best = math.nan
    better = min if objectives.directions[0] == "minimize" else max
    for trial in trials:
        if trial.study != METHOD or not trial.epochs:
            continue
        value = trial.metric(objectives.first)
        if is_valid_result(trial, objectives):
            best = value if math.isnan(best) else better(best, value)
        rows.append({"trial": trial.number, "objective": value, "best so far": best})
    return rows


def _plot_curves(best: TrialRecord, trials: Sequence[TrialRecord], params: Params) -> list[Row]:
    """Returns the first objective by epoch, of the best trial and of the space's first control.

    Args:
        best: The best trial.
        trials: Every record of the search.
        params: All parameters.
    """
    objective = objectives_from_params(params).first
    shown = {"best": best, "control": next(trial for trial in trials if trial.control)}
    return [
        {"epoch": epoch} | {name: trial.epochs.get(epoch, {}).get(objective) for name, trial in shown.items()}
        for epoch in range(1, params.train.epochs + 1)
    ]


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replace_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: format_cell(value) for name, value in row.items()})

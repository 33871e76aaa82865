"""What a search leaves behind in `results/search/`: the trials, the best setting, a summary, and the study itself.

    trials.csv    a row a trial, controls first
    curves.csv    a row an epoch of a trial
    timings.csv   seconds by trial, apart from the rest so that the same search gives the same files
    best.yaml     the best setting and the controls, as parameters by dotted path
    metrics.json  the few figures that `dvc metrics` shows
    summary.json  all of them: counts, epochs spent and saved, best and control values, importances
    plot_trials.csv, plot_curves.csv  what `dvc plots` draws: accuracy by trial; curves of best and control
    study.db      the Optuna study (SQLite; optuna-dashboard opens it)

The best setting is the completed trial of the highest last-epoch validation accuracy (ties: the lower validation loss,
then the earlier trial), among those whose share of empty maps is allowed. Values that the search saw choose a setting;
they never enter the verdict.
"""

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.errors import UserError
from pipeline.tune.ledger import COMPLETE, FAILED, PRUNED, TrialRecord
from pipeline.tune.runner import SearchOutcome, SearchTask, empty_share
from pipeline.tune.trial import OBJECTIVE


def choose_best(trials: Sequence[TrialRecord], *, max_empty_share: float) -> TrialRecord:
    """The best completed trial of the study, as the module says.

    Raises:
        UserError: no trial completed, or none with an allowed share of empty maps.
    """
    completed = [trial for trial in trials if not trial.control and trial.state == COMPLETE]
    if not completed:
        reasons = {trial.reason for trial in trials if trial.state == FAILED and trial.reason}
        said = "\n".join(f"  {reason}" for reason in sorted(reasons)[:3]) or "  none failed; all were stopped early"
        raise UserError(f"no trial of the search completed:\n{said}\nChange params.yaml or the space and run again.")
    allowed = [trial for trial in completed if empty_share(trial) <= max_empty_share]
    if not allowed:
        least = min(empty_share(trial) for trial in completed)
        raise UserError(
            f"every completed trial left at least {least:.0%} of its maps empty, more than search.max_empty_share "
            f"({max_empty_share:.0%}): its regulariser acts on few images. Lower the thresholds in the space, or raise "
            "the parameter."
        )
    return max(allowed, key=_rank)


def _rank(trial: TrialRecord) -> tuple[float, float, int]:
    loss = trial.metric("val/loss")
    return trial.metric(OBJECTIVE), -math.inf if math.isnan(loss) else -loss, -(trial.number or 0)


def _number(value: float) -> float | None:
    """A figure for JSON, which has no word for what is not finite."""
    return value if math.isfinite(value) else None


def write_results(task: SearchTask, outcome: SearchOutcome, folder: Path) -> tuple[TrialRecord, dict[str, Any]]:
    """Write every file of the module's list and return the best trial and the summary.

    Raises:
        UserError: no trial is fit to be the best.
    """
    best = choose_best(outcome.trials, max_empty_share=task.params.search.max_empty_share)
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
            {"trial": trial.id, "epochs": trial.last_epoch, "seconds": round(trial.seconds, 2)}
            for trial in outcome.trials
        ],
    )
    summary = _summary(task, outcome, best)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (folder / "metrics.json").write_text(json.dumps(_metrics(summary), indent=2) + "\n")
    _write_csv(folder / "plot_trials.csv", _plot_trials(outcome.trials))
    _write_csv(folder / "plot_curves.csv", _plot_curves(best, outcome.trials, task.params.train.epochs))
    outcome.proposer.save(folder / "study.db")
    with (folder / "best.yaml").open("w", encoding="utf-8") as file:
        content = {
            "fingerprint": task.fingerprint,
            "trial": best.id,
            "best": dict(best.values),
            "controls": {name: dict(values) for name, values in task.space.controls.items()},
        }
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        yaml.dump(content, file)
    return best, summary


def _trial_row(trial: TrialRecord, task: SearchTask) -> dict[str, Any]:
    metrics = trial.epochs[trial.last_epoch] if trial.epochs else {}
    settings = {path: task.params.value(path) for path in task.space.dimensions} | trial.values
    return {
        "trial": trial.id,
        "role": "control" if trial.control else "trial",
        "state": trial.state,
        "epochs": trial.last_epoch,
        "val/accuracy": metrics.get("val/accuracy"),
        "val/loss": metrics.get("val/loss"),
        "empty_share": empty_share(trial) if trial.epochs else None,
        **settings,
        "reason": trial.reason,
    }


def _validation(trial: TrialRecord) -> dict[str, float | None]:
    return {"val_accuracy": _number(trial.metric(OBJECTIVE)), "val_loss": _number(trial.metric("val/loss"))}


def _metrics(summary: Mapping[str, Any]) -> dict[str, Any]:
    controls = {name: values["val_accuracy"] for name, values in summary["controls"].items()}
    return {"val": {"best": summary["best"]["val_accuracy"], **controls}, "epochs": summary["epochs"]["spent"]}


def _plot_trials(trials: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """Trials by number, with the best that had completed by then."""
    rows, best = [], math.nan
    for trial in trials:
        if trial.number is None or not trial.epochs:
            continue
        value = trial.metric(OBJECTIVE)
        if trial.state == COMPLETE:
            best = value if math.isnan(best) else max(best, value)
        rows.append({"trial": trial.number, "accuracy": value, "best so far": best})
    return rows


def _plot_curves(best: TrialRecord, trials: Sequence[TrialRecord], epochs: int) -> list[dict[str, Any]]:
    """Validation accuracy by epoch, of the best trial and of the space's first control."""
    shown = {"best": best, "control": next(trial for trial in trials if trial.control)}
    return [
        {"epoch": epoch} | {name: trial.epochs.get(epoch, {}).get(OBJECTIVE) for name, trial in shown.items()}
        for epoch in range(1, epochs + 1)
    ]


def _summary(task: SearchTask, outcome: SearchOutcome, best: TrialRecord) -> dict[str, Any]:
    tried = [trial for trial in outcome.trials if not trial.control]
    planned = task.params.train.epochs
    spent = sum(trial.last_epoch for trial in outcome.trials)
    return {
        "fingerprint": task.fingerprint,
        "trials": {state: sum(t.state == state for t in tried) for state in (COMPLETE, PRUNED, FAILED)},
        "epochs": {
            "spent": spent,
            "saved_by_stopping": sum(planned - t.last_epoch for t in tried if t.state == PRUNED),
        },
        "trial_seconds": round(sum(trial.seconds for trial in outcome.trials), 1),
        "best": {"trial": best.id, **_validation(best)},
        "controls": {trial.id: _validation(trial) for trial in outcome.trials if trial.control and trial.epochs},
        "importances": outcome.proposer.importances(),
    }


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in row.items()})
    os.replace(partial, path)


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value

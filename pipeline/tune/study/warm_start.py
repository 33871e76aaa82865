"""Warm start: results of an earlier search over the same space, or of a table, that a sampler learns from.

They are copied into the first line of the new search's journal, so that the search can be resumed whatever
happens to their source. They are no trials of the search, and none of them can become the best configuration.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.config import Params, Values
from pipeline.errors import UserError, join_lines, quote_name
from pipeline.files.text_tables import decode_text, parse_table
from pipeline.files.user_files import read_user_file
from pipeline.tune.journal.records import COMPLETE, METHOD, PRUNED, SearchHistory
from pipeline.tune.objectives.objectives import ACCURACY_ALONE, USER_METRIC, Objectives, objectives_from_params
from pipeline.tune.prior_check import given_words
from pipeline.tune.space import SearchSpace
from pipeline.tune.table_cells import parse_cell

PriorResult = Mapping[str, Any]
"""Result with these keys:

    values   parameter values by dotted path
    state    `complete` or `pruned`
    curve    pairs of an epoch and its first objective, ascending
    metrics  values by name of the search's other objectives, and of metrics that its constraints bound; absent if
             there are none
"""


def results_from_search(history: SearchHistory, params: Params, space: SearchSpace, *, where: str) -> list[PriorResult]:
    """Returns the ended trials of an earlier search's own study; trials outside of this space's ranges are left out.

    Args:
        history: History of the earlier search.
        params: All parameters of this search.
        space: This search's space.
        where: Name of the earlier search, for messages.

    Raises:
        UserError: it varied other parameters, planned other epochs, lacks an objective, or had another function
            of the user's as an objective; or none of its trials lies within this space.
    """
    content = history.header.get("content", {})
    _check_names(content.get("space", {}).get("parameters", {}), space, where)
    epochs = content.get("train", {}).get("epochs")
    if epochs != params.train.epochs:
        raise UserError(
            f"{where}: its trials have {epochs} epochs, but train.epochs is {params.train.epochs}; leave "
            "search.warm_start at null, or name a search with as many epochs."
        )
    objectives = objectives_from_params(params)
    theirs = content.get("metric")
    if USER_METRIC in objectives.metrics and theirs != params.evaluate.metric:
        raise UserError(
            f"{where}: its {USER_METRIC} is {theirs or 'not measured'}, but evaluate.metric of this search is "
            f"{params.evaluate.metric}; leave search.warm_start at null, or name a search whose {USER_METRIC} is "
            f"{params.evaluate.metric}."
        )
    found = []
    for trial in history.trials.values():
        if trial.study != METHOD or trial.state not in (COMPLETE, PRUNED) or not trial.epochs:
            continue
        lacking = _lacking(objectives, trial.metric) if trial.state == COMPLETE else []
        if any(objectives.first not in metrics for metrics in trial.epochs.values()):
            lacking = lacking or [objectives.first]
        if lacking:
            raise UserError(
                f"{where}: its trials have no {', '.join(lacking)}, which search.objectives names; leave "
                "search.warm_start at null, or name a search that had these objectives."
            )
        curve = [[epoch, trial.epochs[epoch][objectives.first]] for epoch in sorted(trial.epochs)]
        found.append(
            {"values": dict(trial.values), "state": trial.state, "curve": curve} | _others(objectives, trial.metric)
        )
    return _inside(found, space, where)


def results_from_csv(path: Path, params: Params, space: SearchSpace, *, where: str) -> list[PriorResult]:
    """Returns the rows of a CSV file with a column for each dimension and each objective, such as `val/accuracy`.

    Metrics that constraints bound are read from the columns with their names, if there are any. The file may be
    a search's own trials.csv: if it has a column `role`, only trials are read, and if it has a column `state`,
    only complete ones.

    Args:
        path: The file.
        params: All parameters.
        space: The search space.
        where: Name of the file, for messages.

    Raises:
        UserError: the file cannot be read, lacks a column, or has a row that is not of the space; the message
            names it.
    """
    try:
        table = parse_table(decode_text(read_user_file(path)))
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    columns = table.columns if table.rows else ()
    objectives = objectives_from_params(params)
    if missing := [name for name in (*space.dimensions, *objectives.objectives) if name not in columns]:
        raise UserError(
            f"{where}: no column {', '.join(missing)}; needed: one for each parameter of {space.file}, and "
            f"{', '.join(objectives.objectives)}."
        )
    found, problems = [], []
    for number, cells in table.rows:
        row = {name: table.figure(cell) for name, cell in cells.items()}
        if row.get("role", "trial") != "trial" or row.get("state", COMPLETE) != COMPLETE:
            continue
        values = {path: parse_cell(row[path], spec) for path, spec in space.dimensions.items()}
        problems += [f"{where}: line {number}: {problem}" for problem in space.values_outside(values)]
        metric = partial(_figure, row)
        problems += [
            f"{where}: line {number}: {name}: {given_words(row[name])}; needed: a number"
            for name in objectives.objectives
            if not math.isfinite(metric(name))
        ]
        curve = [[params.train.epochs, metric(objectives.first)]]
        found.append({"values": values, "state": COMPLETE, "curve": curve} | _others(objectives, metric))
    if problems:
        raise UserError(join_lines(problems))
    return _inside(found, space, where)


def as_trials(
    results: Iterable[PriorResult], space: SearchSpace, objectives: Objectives = ACCURACY_ALONE
) -> list[FrozenTrial]:
    """Returns results as trials of Optuna. With several objectives, only those that ran in full: others lack
    some of them.

    Args:
        results: The results.
        space: The search space.
        objectives: Objectives and constraints.
    """
    states = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED}
    trials = []
    for each in results:
        metrics = {**each.get("metrics", {}), objectives.first: each["curve"][-1][1]}
        if not math.isfinite(metrics[objectives.first]) or (
            objectives.is_multi_objective and each["state"] != COMPLETE
        ):
            continue
        curve = {} if objectives.is_multi_objective else {int(epoch): float(value) for epoch, value in each["curve"]}
        trial = create_trial(
            state=states[each["state"]],
            values=[metrics[name] for name in objectives.objectives] if each["state"] == COMPLETE else None,
            params=space.encode(each["values"]),
            distributions=space.distributions(),
            intermediate_values=curve,
            constraints=objectives.violations(partial(_prior_result, metrics)),
        )
        trials.append(trial)
    return trials


def check_points(params: Params, space: SearchSpace) -> None:
    """Raises an error if a point of `search.points` is not of the space, or is the same configuration as another one.

    Args:
        params: All parameters.
        space: The search space.

    Raises:
        UserError: names every mistake, each with the point and the parameter.
    """
    problems = [
        f"params.yaml: search.points.{quote_name(name)}: {problem}"
        for name, point in params.search.points.items()
        for problem in space.values_outside(point)
    ]
    whole: dict[str, str] = {}
    for name, point in params.search.points.items():
        if problems or len(point) < len(space.dimensions):
            continue
        first = whole.setdefault(repr(sorted(space.encode(point).items())), name)
        if first != name:
            problems.append(
                f"params.yaml: search.points.{quote_name(name)}: the same configuration as {quote_name(first)}; "
                "leave one out"
            )
    if problems:
        raise UserError(join_lines(problems))


def _prior_result(metrics: Mapping[str, float], name: str) -> float:
    return metrics.get(name, math.nan)


def _lacking(objectives: Objectives, metric: Callable[[str], float]) -> list[str]:
    return [name for name in objectives.objectives if not math.isfinite(metric(name))]


def _others(objectives: Objectives, metric: Callable[[str], float]) -> dict[str, Any]:
    """Returns the metrics known besides the curve; empty in a search for val/accuracy alone without constraints."""
    names = dict.fromkeys((*objectives.objectives[1:], *objectives.limits))
    there = {name: metric(name) for name in names if math.isfinite(metric(name))}
    return {"metrics": there} if there else {}


def _figure(row: Mapping[str, str | None], name: str) -> float:
    try:
        return float(row.get(name) or "")
    except ValueError:
        return math.nan


def _check_names(theirs: Mapping[str, Values], space: SearchSpace, where: str) -> None:
    """Checks that an earlier search varied the same parameters as this space.

    Args:
        theirs: The earlier search's dimensions by dotted path.
        space: This search's space.
        where: Name of the earlier search, for messages.

    Raises:
        UserError: it varied other parameters.
    """
    ours = space.dimensions
    problems = [f"{where}: it varied {path}, which {space.file} does not" for path in theirs if path not in ours]
    problems += [f"{where}: it did not vary {path}, which {space.file} does" for path in ours if path not in theirs]
    if problems:
        raise UserError(join_lines(problems))


def _inside(found: Sequence[PriorResult], space: SearchSpace, where: str) -> list[PriorResult]:
    """Returns the results that lie within the space.

    Args:
        found: All results.
        space: The search space.
        where: Name of their source, for messages.

    Raises:
        UserError: there are none.
    """
    inside = [each for each in found if not space.values_outside(each["values"])]
    if inside:
        return inside
    if not found:
        raise UserError(f"{where}: no trial of it has ended; there is nothing to learn from.")
    why = space.values_outside(found[0]["values"])[0]
    raise UserError(f"{where}: none of its {len(found)} trials lies within {space.file}: {why}")

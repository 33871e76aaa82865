"""`sar-search status`: every search of this checkout in a row, or one search trial by trial."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.artifacts.best_config import BestConfig
from pipeline.cluster.storage import StorageError
from pipeline.compared.compared_methods import SPACE
from pipeline.compute.usage_summary import describe_usage, summarise_usage
from pipeline.config import Content, Params, load_params
from pipeline.console.format import (
    LEFT,
    RIGHT,
    config_name,
    format_age,
    format_count,
    format_size,
    format_table,
    wrap_text,
)
from pipeline.errors import UserError
from pipeline.files.file_stats import size_of
from pipeline.state.current_search import CurrentSearch, current_search
from pipeline.state.earlier_searches import find_earlier
from pipeline.state.search_health import examine_state
from pipeline.state.searches import ID_LENGTH, Runner, SearchState, choose_search, find_searches
from pipeline.state.status_words import ENDED, describe_running_stage, describe_state, trial_state
from pipeline.tune.budget import HOUR, Budget, full_epochs
from pipeline.tune.journal.compatibility import changed_content
from pipeline.tune.journal.records import (
    COMPLETE,
    CONFIRMATION,
    FAILED,
    INFEASIBLE,
    PRUNED,
    TRIAL,
    TrialRecord,
)
from pipeline.tune.journal.remote_files import read_remote_files
from pipeline.tune.objectives.objectives import format_metric
from pipeline.tune.selection.findings import describe_findings
from pipeline.workspace import Workspace

SHOWN = 8
"""Changed parameters that are listed."""


def describe_searches(workspace: Workspace) -> Iterator[str]:
    """Yields a table of all searches, the newest first.

    Args:
        workspace: the checkout.
    """
    params, current, trouble = _parameters(workspace)
    found, earlier = find_searches(workspace.searches), find_earlier(workspace.searches)
    if stage := describe_running_stage(workspace):
        yield f"the pipeline is running: {stage}"
        yield ""
    if found.searches:
        yield from _searches_table(found.searches, params, current)
        yield ""
        infeasible = any(_counts(search, TRIAL)[INFEASIBLE] for search in found.searches)
        untrained = ", inf: not trained since they break a constraint" if infeasible else ""
        paused = any(search.paused_trials for search in found.searches)
        unended = "not ended, those that are paused too" if paused else "not ended"
        yield f"trials: in full/stopped early/failed/{unended}{untrained}, + confirmations by further seeds"
        if asked := [search for search in found.searches if current and search.folder in current.searches]:
            yield f"* {_next_run(asked)}; `sar-search status ID` lists its trials"
    if not found.searches and not earlier:
        yield f"no searches yet in {workspace.searches}; `make repro` begins one"
    elif found.searches and current and all(search.folder not in current.searches for search in found.searches):
        yield "params.yaml asks for none of these: `make repro` begins a new one"
    elif trouble:
        yield trouble
    yield from (f"not listed: {reason}" for reason in found.unreadable)
    yield from (_earlier(folder) for folder in earlier)


def _earlier(folder: Path) -> str:
    """Returns advice on a search that an earlier version began."""
    return (
        f"search {folder.name[:ID_LENGTH]} ({format_size(size_of(folder))}) was begun by an earlier version and cannot "
        "be resumed: a run with its parameters begins a new search beside it; `sar-search gc --keep 0` removes it with "
        "the other old ones"
    )


def _searches_table(searches: list[SearchState], params: Params | None, current: CurrentSearch | None) -> list[str]:
    """Returns the table of searches, line by line.

    Args:
        searches: the searches.
        params: current parameters, for prices, or None if they cannot be read.
        current: the search that params.yaml asks for, or None if it is unknown.
    """
    price = params.search.budget.price_per_gpu_hour if params else 0.0
    gpus = any(search.history.gpu_seconds for search in searches)
    columns = {" search": LEFT, "of": LEFT, "state": LEFT}
    columns |= dict.fromkeys(("trials", "best", "hours"), RIGHT)
    columns |= dict.fromkeys(["GPU-h", "cost"] if gpus and price else ["GPU-h"] if gpus else [], RIGHT)
    columns |= dict.fromkeys(("size", "last seen"), RIGHT)
    rows = []
    for search, held in zip(searches, _describe_sizes(searches), strict=True):
        counts, again, best = _counts(search, TRIAL), sum(_counts(search, CONFIRMATION).values()), search.best
        untrained = counts.pop(INFEASIBLE)
        row = {
            " search": ("*" if current and search.folder in current.searches else " ") + search.id,
            "of": f"{search.history.header.get('set', '?')}, {_space_name(search)}{_part(search)}",
            "state": describe_state(search, search.runner()),
            "trials": "/".join(map(str, counts.values()))
            + (f" {untrained} inf" if untrained else "")
            + (f"+{again}" if again else ""),
            "best": f"{best.metric(search.objectives.first):.4f}" if best else "-",
            "hours": f"{search.history.seconds / HOUR:.2f}",
            "GPU-h": f"{search.history.gpu_seconds / HOUR:.2f}",
            "cost": f"{Budget(price_per_gpu_hour=price).price(search.history.gpu_seconds):.2f}",
            "size": held,
            "last seen": format_age(time.time() - search.last_seen),
        }
        rows.append([row[name] for name in columns])
    return format_table(columns, rows, gives_way="of")


def describe_search(workspace: Workspace, prefix: str) -> Iterator[str]:
    """Yields one search in lines: identity, state, a row for each trial, and findings that speak against it.

    Args:
        workspace: the checkout.
        prefix: beginning of the search's id.

    Raises:
        UserError: the prefix fits no search or several.
    """
    params, current, _ = _parameters(workspace)
    search = choose_search(find_searches(workspace.searches).searches, prefix)
    history, runner, chosen = search.history, search.runner(), _chosen(search)
    best, first = chosen or search.best, search.objectives.first
    price = params.search.budget.price_per_gpu_hour if params else 0.0
    spent = f"{_epochs(search, params, current)}, {history.seconds / HOUR:.2f} hours in "
    spent += format_count(history.sessions, "session")
    if history.gpu_seconds:
        spent += f", {history.gpu_seconds / HOUR:.2f} GPU-hours"
        spent += f", {Budget(price_per_gpu_hour=price).price(history.gpu_seconds):.2f} in money" if price else ""
    used = describe_usage(summarise_usage(each for trial in search.trials for each in trial.timed_usage))
    counts, confirmations = _counts(search, TRIAL), sum(_counts(search, CONFIRMATION).values())
    lines = {
        "search": f"{search.id}, of {history.header.get('set', '?')} over {_space_file(search)}{_part(search)}",
        "state": f"{describe_state(search, runner)}; last seen {format_age(time.time() - search.last_seen)} ago",
        "trials": f"{counts[COMPLETE]} in full, {counts[PRUNED]} stopped early, {counts[FAILED]} failed, "
        + (f"{paused} paused, " if (paused := len(search.paused_trials)) else "")
        + (f"{counts[INFEASIBLE]} not trained since they break a constraint, " if counts[INFEASIBLE] else "")
        + f"{counts[None] - paused} not ended; {format_count(confirmations, 'confirmation')}",
        "best": f"{best.id}, {'chosen' if chosen else 'the best so far'}, {first} "
        f"{best.metric(first):.4f}    {config_name(best.values)}"
        if best
        else "none has run in full yet",
        "spent": spent,
        **({"used": used} if used else {}),
        "folder": f"{search.folder} ({format_size(size_of(search.folder))})",
    }
    if (outside := read_remote_files(search.folder)) is not None and outside.checkpoints:
        try:
            held = format_size(outside.bytes)
        except StorageError as error:
            held = str(error)
        lines["storage"] = f"{', '.join(outside.checkpoints)} ({held})"
    if current:
        lines["params"] = _against(search, current)
    yield from (f"{name:<8}{text}" for name, text in lines.items())
    yield ""
    columns = {"trial": LEFT, "role": LEFT, "state": LEFT, "epochs": RIGHT, first: RIGHT}
    columns |= dict.fromkeys((*_further_metrics(search), "seconds"), RIGHT)
    yield from format_table(columns | {"configuration": LEFT}, _trial_rows(search, runner), gives_way="configuration")
    found = examine_state(search, best=chosen, words=search.words(params))
    if found is not None:
        yield ""
        yield from (wrap_text(line, name=f"{'health':<8}") for line in describe_findings(found))


def _epochs(search: SearchState, params: Params | None, current: CurrentSearch | None) -> str:
    """Returns the number of epochs that a search has trained; for the current search, also the number in its budget.

    Args:
        search: the search.
        params: current parameters, or None if they cannot be read.
        current: the search that params.yaml asks for, or None if it is unknown.
    """
    spent = sum(trial.trained_epochs for trial in search.trials)
    budget = None
    if params and current and search.folder in current.searches:
        budget = full_epochs(params.search.budget.full_trainings, params.train.epochs)
    if budget is not None and spent > budget:  # sessions before an extension confirmed other configurations
        beyond = f"{spent - budget:,} beyond the budget of {budget:,}"
        return f"{spent:,} epochs, {beyond}, as runs of earlier sessions count too"
    return format_count(spent, "epoch") if budget is None else f"{spent:,} of {budget:,} epochs"


def _chosen(search: SearchState) -> TrialRecord | None:
    """Returns the trial that the search has chosen as the best configuration; None while it has not ended."""
    if search.open_trials:
        return None  # it was extended, and has not chosen anew
    try:
        return search.history.trials.get(BestConfig.read(search.folder).trial)
    except UserError:
        return None


def _trial_rows(search: SearchState, runner: Runner | None) -> list[list[str]]:
    return [
        [
            trial.id,
            trial.role if trial.study in (None, "search") else "control's",
            trial_state(search, trial, runner),
            str(trial.last_epoch),
            f"{trial.metric(search.objectives.first):.4f}" if trial.epochs else "-",
            *(format_metric(name, trial.metric(name)) for name in _further_metrics(search)),
            f"{trial.seconds:.1f}",
            config_name(trial.values),
        ]
        for trial in search.trials
    ]


def _further_metrics(search: SearchState) -> list[str]:
    """Returns the metrics that the search looks at beside its first objective."""
    return search.objectives.shown_metrics


def _describe_sizes(searches: Sequence[SearchState]) -> Iterator[str]:
    """Yields the size of each search, here and in shared storage.

    A store that does not answer is asked only once.
    """
    away = False
    for search in searches:
        outside, held = read_remote_files(search.folder), size_of(search.folder)
        try:
            if outside is not None and outside.checkpoints and away:
                raise StorageError("asked before")
            yield format_size(held + (outside.bytes if outside else 0))
        except StorageError:
            away = True
            yield f"> {format_size(held)}"


def _counts(search: SearchState, role: str) -> dict[str | None, int]:
    states = [trial.state for trial in search.trials if trial.role == role]
    return {state: states.count(state) for state in (COMPLETE, PRUNED, FAILED, None, INFEASIBLE)}


def _against(search: SearchState, current: CurrentSearch) -> str:
    if search.folder in current.searches:
        return f"ask for it: {_next_run([search])}"
    content: Content = search.history.header.get("content", {})
    changed = changed_content(content, current.content)
    if not changed:
        return "ask for the same, and a new search has replaced this one"
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return f"have changed since: {', '.join(changed[:SHOWN])}{more}"


def _next_run(searches: Sequence[SearchState]) -> str:
    """Returns what the next run does with the searches that params.yaml asks for, in words.

    Args:
        searches: the searches.
    """
    if all(describe_state(search, search.runner()) == ENDED for search in searches):
        return "it has ended, and the next run trains nothing further for it unless params.yaml extends it"
    return "the next run resumes this search"


def _parameters(workspace: Workspace) -> tuple[Params | None, CurrentSearch | None, str]:
    """Reads the current parameters and the search that they ask for. Mistakes in them do not stop `status`.

    Returns:
        (parameters or None, current search or None, why there is no current search, or "").
    """
    params = None
    try:
        params = load_params(workspace.params)
        current = current_search(workspace, params)
    except UserError:
        return params, None, "params.yaml or its space has a mistake, so none is marked *: see `sar-search check`"
    why = (
        ""
        if current
        else "the data of params.yaml are not prepared yet, so the search that the next run resumes is unknown"
    )
    return params, current, why


def _part(search: SearchState) -> str:
    part = search.history.header.get("part")
    return f", {part}" if part else ""


def _space_file(search: SearchState) -> str:
    return str(search.history.header.get("space_file", "?"))


def _space_name(search: SearchState) -> str:
    """Returns the name of the space's file; in a comparison, which may write it anew, the name of the method."""
    file = Path(_space_file(search))
    return file.parent.name if file.name == SPACE else file.stem

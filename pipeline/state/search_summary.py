"""Sentences that a search prints when it starts and ends, and the user's decision on a search begun by other code."""

import time
from pathlib import Path

from pipeline.artifacts.search_result import ALARM, SearchSummary
from pipeline.compute.usage_summary import describe_usage
from pipeline.config import Values
from pipeline.console.format import STATE_WORDS, config_name, format_count, format_duration, wrap_text
from pipeline.errors import list_first
from pipeline.inputs.procedure import ALL_IMAGES
from pipeline.state.earlier_searches import earlier_search_of
from pipeline.state.searches import SearchState, find_searches, read_search
from pipeline.state.status_words import count_runs
from pipeline.tune.budget import HOUR
from pipeline.tune.journal.compatibility import SUPERSEDED, changed_code, changed_content
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import JOURNAL, read_history
from pipeline.tune.requested import surplus_runs
from pipeline.tune.run_counts import budget_epochs, max_runs
from pipeline.tune.selection.findings import describe_findings
from pipeline.tune.task import SearchTask

SHOWN = 6
NOTHING_TO_DECIDE = "no search of these parameters was begun by other code; there is nothing to decide"


def describe_start(task: SearchTask, searches: Path, *, compared: bool = False, nothing_left: bool = False) -> str:
    """Returns a sentence that says whether a search is new or resumed.

    For a new search, the sentence names its differences from the search before it, leaving out searches of folds. For a
    resumed search, it gives its runs, epochs and hours so far.

    Args:
        task: Search that is about to start.
        searches: Folder that contains all searches.
        compared: Whether it is the search of a method of a comparison. The one before it is then another method's, and
            the differences say nothing.
        nothing_left: Whether a search that has begun is known to have nothing left to train.

    Raises:
        UserError: the journal cannot be read.
    """
    part = task.header.get("part")
    name = f"search {task.folder.name[:8]}" + (f", {part}" if part else "")
    history = read_history(task.folder / JOURNAL)
    if history.trials:
        ended = sum(trial.state is not None for trial in history.trials.values())
        total = max(max_runs(task.params, task.space), len(history.trials))
        budget = budget_epochs(task.params)
        spent = sum(trial.trained_epochs for trial in history.trials.values())
        if budget is not None and spent >= budget and surplus_runs(history.trials, task.params, task.space):
            return (
                f"{name}: was begun with a larger budget; {spent} epochs are spent, {budget} are allowed now, so no "
                "further trial is trained"
            )
        of = "" if budget is None else f"; {spent} of {budget} epochs spent"
        return (
            f"{name}: {_describe_runner(read_search(task.folder)) or ('has ended' if nothing_left else 'goes on')}{of}"
            f"; {ended} of at most {total} runs have ended"
            f" ({'; '.join(count_runs(history.trials.values(), idle='not ended'))})"
            f"; {history.seconds / 3600:.2f} hours spent so far"
        )
    if (earlier := earlier_search_of(searches, task.header["content"])) is not None:
        return (
            f"{name}: new; search {earlier.name[:8]} of the same parameters was begun by an earlier version and cannot "
            "be resumed; it stays as it is"
        )
    if compared or (part and part != ALL_IMAGES):
        return f"{name}: new"
    others = (each for each in find_searches(searches).searches if each.folder != task.folder)
    before = next((each for each in others if each.history.header.get("part") in (None, "", ALL_IMAGES)), None)
    if before is None:
        return f"{name}: new"
    changed = changed_content(before.history.header.get("content", {}), task.header["content"])
    shown = list_first(changed, SHOWN)
    return f"{name}: new; changed since search {before.id}: {shown or 'nothing; a new search was asked for'}"


def _describe_runner(search: SearchState) -> str:
    runner = search.runner()
    if runner is None:
        return ""
    where = f"by process {runner.pid}" if runner.pid else "by a process that cannot be seen from here"
    return f"is {'finishing' if search.stop_file.exists() else 'running'} now, {where}"


def describe_summary(summary: SearchSummary, folder: str = "results/search", *, planned: int = 0) -> str:
    """Returns a few lines about a search that has ended, in the layout of the plan's.

    Args:
        summary: Summary of the search.
        folder: Folder with its results, which the last line names.
        planned: Confirmations for which the budget had reserved epochs.
    """
    best, spent, first = summary.best, summary.spent, summary.objective
    own = f"{first} {best.value(first):.4f} with the search's seed alone"
    if best.further_mean is not None:
        # The value with the search's own seed is biased upwards, because it was chosen for being high.
        over = f"over {len(best.further_seeds)} further seed{'s' * (len(best.further_seeds) != 1)}"
        own = f"{first} {best.further_mean:.4f} {over}, which the search has not seen"
    lines = [
        _line("best", f"{best.trial}, {own}"),
        _line("chosen", summary.choice.why),
        _line("tried", _describe_runs(summary, planned)),
        _line("spent", _describe_spent(summary)),
        *([_line("used", describe_usage(spent.usage))] if spent.usage else []),
        _line("control", summary.against),
        *_describe_controls(summary),
    ]
    if front := summary.front:
        names = ", ".join(summary.objectives)
        lines.insert(
            1,
            _line("front", f"over {names}: {format_count(len(front), 'configuration')}, from which it was chosen"),
        )
    if summary.all_settings_tried:
        lines.insert(1, _line("", "every configuration of the space has been tried"))
    if summary.stopped_by:
        lines.insert(1, _line("", f"ended early by {summary.stopped_by}"))
    lines += [_line("" if number else "health", line) for number, line in enumerate(describe_findings(summary.health))]
    return "\n".join([*lines, _line("results", folder)])


def _line(name: str, text: str) -> str:
    return wrap_text(text, name=f"{name:<10}")


def _describe_runs(summary: SearchSummary, planned: int) -> str:
    """Returns the runs of a search, its epochs, and why some of the budget is left, in words.

    Args:
        summary: Summary of the search.
        planned: Confirmations for which the budget had reserved epochs.
    """
    states = ", ".join(f"{count} {STATE_WORDS[state]}" for state, count in summary.trials.items() if count)
    runs = [format_count(sum(summary.trials.values()), "trial") + (f" ({states})" if states else "")]
    runs += [format_count(len(summary.controls), "control")] if summary.controls else []
    runs += [format_count(summary.confirmations, "confirmation")]
    epochs, saved = summary.epochs, summary.epochs.saved_by_stopping
    said = f"{', '.join(runs)}; {_describe_epochs(summary)}"
    said += f", {saved} saved by stopping early" if saved else ""
    missing = planned - summary.confirmations
    if epochs.budget is not None and epochs.spent < epochs.budget and missing > 0 and not summary.stopped_by:
        said += (
            f"; epochs are left since they were reserved for {format_count(missing, 'further confirmation')}, and too "
            "few configurations ran in full to be confirmed"
        )
    return said


def _describe_spent(summary: SearchSummary) -> str:
    """Returns the time and money that a search has spent, in words."""
    spent = summary.spent
    said = f"{format_duration(spent.hours * HOUR)}, {format_duration(spent.worker_hours * HOUR)} of workers' time"
    if saved := spent.worker_hours_saved_by_stopping * HOUR:
        said += f" (stopping early saved {format_duration(saved)} of it)"
    said += f", {spent.gpu_hours:.2f} GPU-hours" if spent.gpu_hours else ""
    said += f", {spent.cost:.2f} in money" if spent.cost is not None else ""
    return said + (f", {format_duration(spent.guide_hours * HOUR)} of it for the guide" if spent.guide_hours else "")


def _describe_controls(summary: SearchSummary) -> list[str]:
    """Returns a line with the values of the controls, beside which the best configuration's is to be seen."""
    first = summary.objective
    values = {
        name: each.value(first) if each.further_mean is None else each.further_mean
        for name, each in summary.controls.items()
    }
    shown = [f"{name} {value:.4f}" for name, value in values.items() if value is not None]
    return [_line("", f"{first} of the controls, measured alike: {', '.join(shown)}")] if shown else []


def describe_fold_summary(summary: SearchSummary, values: Values, part: str, folder: str) -> str:
    """Returns a line about the search outside of a fold that has ended, and a line for each alarm about its health.

    Args:
        summary: Summary of the search.
        values: The chosen configuration.
        part: The fold, in words.
        folder: Folder with its results, where summary.json has what the line leaves out.
    """
    best, first = summary.best, summary.objective
    value = best.value(first) if best.further_mean is None else best.further_mean
    lines = [
        f"{part}: best {best.trial}, {first} {value:.4f}, {config_name(values)}; "
        f"{format_count(sum(summary.trials.values()), 'trial')}, {_describe_epochs(summary)}, "
        f"{format_duration(summary.spent.hours * HOUR)} -> {folder}"
    ]
    alarms = [found for found in summary.health or () if found.kind == ALARM]
    return "\n".join(lines + [_line("health", line) for line in describe_findings(alarms) if alarms])


def _describe_epochs(summary: SearchSummary) -> str:
    spent, budget = summary.epochs.spent, summary.epochs.budget
    return format_count(spent, "epoch") if budget is None else f"{spent} of {budget} epochs"


def decide_on_changed_code(task: SearchTask, *, new: bool) -> str:
    """Records the user's decision on a search that other code began.

    Args:
        task: Search of the current parameters.
        new: Whether another search begins in its place; else it is resumed in spite of the changes.

    Returns:
        A sentence that says what will happen; `NOTHING_TO_DECIDE` if no search was begun by other code.

    Raises:
        UserError: the journal cannot be read, or another process runs the search.
    """
    history = read_history(task.folder / JOURNAL)
    changed = changed_code(history, task.header)
    if not history.header or not changed:
        return NOTHING_TO_DECIDE
    if new:
        (task.folder / SUPERSEDED).write_text(time.strftime("%Y-%m-%d %H:%M:%S\n"))
        return f"a new search begins with the next run; {task.folder} stays as it is"
    with Journal(task.folder / JOURNAL, task.header) as journal:
        journal.accept(task.header["code"], task.header["versions"])
    return f"search {task.folder.name[:8]} goes on, though these have changed: {', '.join(changed)}"

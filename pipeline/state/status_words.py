"""The state of a search, of a trial and of the pipeline, in a few words."""

from collections import Counter
from collections.abc import Collection

from pipeline.console.format import STATE_WORDS, format_count
from pipeline.files.locks import lock_holder
from pipeline.state.searches import Runner, SearchState, is_held
from pipeline.tune.journal.records import CONFIRMATION, CONTROL, TRIAL, TrialRecord
from pipeline.workspace import Workspace

ENDED = "ended"
"""State of a search that has nothing left to train with the budget that it had."""
ROLES = {TRIAL: "trial", CONTROL: "control", CONFIRMATION: "confirmation"}
"""Nouns of the runs of a search, by role."""
STATES = (*STATE_WORDS.values(), "paused", "running")
"""States of runs in words, in the order in which they are counted."""


def describe_state(search: SearchState, runner: Runner | None) -> str:
    """Returns the state of a search in words, such as `running 4711` or `unfinished`.

    Args:
        search: Search on disk.
        runner: Process that runs it; None if there is none.
    """
    if runner is not None:
        doing = "finishing" if search.stop_file.exists() else "running"
        return f"{doing} {runner.pid or 'elsewhere'}"
    if search.superseded:
        return "superseded"
    return "unfinished" if search.open_trials or not search.history.trials else ENDED


def trial_state(search: SearchState, trial: TrialRecord, runner: Runner | None) -> str:
    """Returns the state of a trial in words: how it ended, `running`, `paused` at a rung, or `waiting` to be resumed.

    Args:
        search: Search on disk.
        trial: Trial of this search.
        runner: Process that runs the search; None if there is none.
    """
    if trial.state is not None:
        return STATE_WORDS[trial.state]
    if trial.paused:
        return "paused"
    return "running" if runner is not None and trial.id in search.running_trials else "waiting"


def count_runs(trials: Collection[TrialRecord], *, idle: str = "running") -> list[str]:
    """Returns trials, controls and confirmations in words, each with their states: `2 trials: 1 paused, 1 running`.

    Args:
        trials: Runs of a search.
        idle: State of a run that has neither ended nor is paused, in words.
    """
    found, by_role = [], {role: [trial for trial in trials if trial.role == role] for role in ROLES}
    for role, runs in by_role.items():
        states = Counter("paused" if run.paused else STATE_WORDS.get(run.state or "", "running") for run in runs)
        said = ", ".join(f"{states[each]} {idle if each == 'running' else each}" for each in STATES if states[each])
        found += [f"{format_count(len(runs), ROLES[role])}: {said}"] if runs else []
    return found


def describe_running_stage(workspace: Workspace) -> str:
    """Returns the stage that runs in a checkout, and how far it is: `retrain, 4 of 10 networks, process 4711`.

    Args:
        workspace: The checkout.

    Returns:
        The stage; between two stages the command that runs the pipeline; empty if nothing runs.
    """
    locks = (workspace.lock_file(name) for name in ("stage", "repro"))
    return next((lock_holder(lock) for lock in locks if is_held(lock)), "")

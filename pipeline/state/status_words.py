"""The state of a search, of a trial and of the pipeline, in a few words."""

from pipeline.console.format import STATE_WORDS
from pipeline.files.locks import lock_holder
from pipeline.state.searches import Runner, SearchState, is_held
from pipeline.tune.journal.records import TrialRecord
from pipeline.workspace import Workspace


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
    return "unfinished" if search.open_trials or not search.history.trials else "ended"


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


def describe_running_stage(workspace: Workspace) -> str:
    """Returns the stage that runs in a checkout, and how far it is: `retrain, 4 of 10 networks, process 4711`.

    Args:
        workspace: The checkout.

    Returns:
        The stage; between two stages the command that runs the pipeline; empty if nothing runs.
    """
    locks = (workspace.lock_file(name) for name in ("stage", "repro"))
    return next((lock_holder(lock) for lock in locks if is_held(lock)), "")

"""Parameters and space of a search, its budget, and the rungs at which it pauses or stops trials: checks and words.

This module imports neither Ray nor torch, so that a command can check all this before it imports them.
"""

import os
from pathlib import Path

from pipeline.config import Params, load_params
from pipeline.console.format import format_count
from pipeline.errors import UserError, format_value, quote_name
from pipeline.inputs.source import preview_source, source_config
from pipeline.preflight.trial_forecast import forecast_trials
from pipeline.tune.journal.records import CONTROL_STUDY, METHOD
from pipeline.tune.run_counts import (
    budget_epochs,
    least_full_trainings,
    max_confirmation_runs,
    max_runs,
    max_trials,
    requested_trials,
)
from pipeline.tune.schedulers.rungs import PAUSING, automatic_grace_period, first_rung, rung_epochs
from pipeline.tune.space import SearchSpace, load_space
from pipeline.tune.study.studies import num_studies
from pipeline.tune.task import Resources
from pipeline.workspace import Workspace


def read_parameters(workspace: Workspace) -> tuple[Params, SearchSpace]:
    """Reads params.yaml and the search space, and checks all that needs neither the data nor the network.

    Args:
        workspace: The checkout.

    Raises:
        UserError: A check fails; the first failure is reported.
    """
    params = load_params(workspace.params)
    space = load_space(_space_path(workspace, params), params, shown_as=params.search.space)
    if params.retrain.control not in space.controls:
        known = ", ".join(space.controls)
        given = format_value(params.retrain.control)
        raise UserError(f"params.yaml: retrain.control: given {given}; the controls of {space.file}: {known}")
    check_grace_period(params, space)
    check_budget_epochs(params, space)
    root = source_config(workspace, params).root
    if params.prepare.dataset == "image_folder" and (root is None or not os.path.exists(root)):
        preview_source(workspace, params)  # raises, unless data/prepared suffices
    return params, space


def _space_path(workspace: Workspace, params: Params) -> Path:
    path = workspace.root / params.search.space
    if not os.path.isfile(path):  # Path.is_file raises an error for a very long name
        spaces = (workspace.root / "search_spaces").glob("*.yaml")
        there = sorted(str(each.relative_to(workspace.root)) for each in spaces if each.is_file())
        raise UserError(
            f"params.yaml: search.space: no file {quote_name(params.search.space)}; there are "
            f"{', '.join(there) or 'none'}"
        )
    return path


def check_budget_epochs(params: Params, space: SearchSpace) -> None:
    """Checks that the number of trials or of epochs is limited, and that the epochs suffice for all required runs.

    Raises:
        UserError: Neither trials nor epochs are limited; or the epochs do not suffice for the controls, the
            confirmations and one full training.
    """
    full = params.search.budget.full_trainings
    if full is None:
        if params.search.trials is None:
            raise UserError(
                "params.yaml: search.budget.full_trainings and search.trials are both null, so nothing says how much "
                "the search may spend. Set search.budget.full_trainings, such as 20, or search.trials."
            )
        return
    least, studies = least_full_trainings(params, space), num_studies(params, space)
    if full < least:
        confirm = params.search.confirm
        controls = format_count(len(space.controls), "control")
        confirmations = format_count(least - len(space.controls) - studies, "confirmation")
        raise UserError(
            f"params.yaml: search.budget.full_trainings: given {full:g}; needed: {least} or more, for "
            f"{controls}, up to {confirmations} and one training in full"
            f"{' of each study' * (studies > 1)}. Raise it, or lower search.confirm.top ({confirm.top}) or "
            f"search.confirm.seeds ({confirm.seeds})."
        )


def check_grace_period(params: Params, space: SearchSpace) -> None:
    """Checks that the grace period is longer than any warm-up, and not longer than a trial.

    The automatic grace period (null) always is.

    Raises:
        UserError: The grace period is outside these bounds.
    """
    scheduler, epochs = params.search.scheduler, params.train.epochs
    content = params.model_dump(by_alias=True)
    given, least = scheduler.grace_period, automatic_grace_period(content, space)
    if scheduler.name == "none" or given is None or least <= given <= epochs:
        return
    content["train"]["warmup_epochs"] = 0
    rate = "train.warmup_epochs" in space.dimensions or automatic_grace_period(content, space) < least
    warmup = "train.warmup_epochs" if rate else "the regulariser's warm-up"
    rising = f"{'the learning rate' if rate else 'its weight'} is still rising, and trials differ by chance alone."
    raise UserError(
        f"params.yaml: search.scheduler.grace_period: given {given}; allowed: {least} to {epochs} (train.epochs), or "
        f"null, which is {least} here, or search.scheduler.name: none."
        f"{f' Up to epoch {least - 1} ({warmup}) {rising}' if given < least else ''}"
    )


def check_checkpoints(params: Params, space: SearchSpace, resources: Resources) -> None:
    """Checks that at least as many checkpoints are stored as trials run concurrently.

    With fewer, a trial that has just been paused could lose its checkpoint and would start again.

    Args:
        params: All parameters.
        space: The search space.
        resources: Resources of the trials.

    Raises:
        UserError: The scheduler pauses trials, and fewer checkpoints are stored.
    """
    kept, together = params.search.keep_checkpoints, min(resources.max_concurrent, max_trials(params, space))
    if params.search.scheduler.name == PAUSING and kept is not None and kept < together:
        raise UserError(
            f"params.yaml: search.keep_checkpoints: given {kept}; allowed: {together} or more, since so many trials "
            "run at a time, and one that is paused goes on from its checkpoint; or null, which keeps all. Or lower "
            "search.max_concurrent_trials."
        )


def max_epochs(params: Params, space: SearchSpace) -> int:
    """Returns the maximum number of epochs of the whole search.

    Args:
        params: All parameters.
        space: The search space.
    """
    in_full, budget = max_runs(params, space) * params.train.epochs, budget_epochs(params)
    return in_full if budget is None else min(in_full, budget)


def check_limits(params: Params, *, gpus: float) -> None:
    """Checks that every limit of the budget can be reached.

    Args:
        params: All parameters.
        gpus: GPUs of a trial.

    Raises:
        UserError: A limit is on GPU-hours or cost, and trials use no GPU; or on cost, and there is no price.
    """
    budget = params.search.budget
    for name in ("gpu_hours", "cost"):
        if getattr(budget, name) is not None and not gpus:
            raise UserError(
                f"params.yaml: search.budget.{name}: trials use no GPU here (search.gpus_per_trial), so it would never "
                "be reached. Use search.budget.hours."
            )
    if budget.cost is not None and not budget.price_per_gpu_hour:
        raise UserError("params.yaml: search.budget.cost: needs search.budget.price_per_gpu_hour.")


def check_budget(params: Params, epoch_seconds: float, *, gpus: float) -> None:
    """Checks that the budget suffices for at least one trial.

    Args:
        params: All parameters.
        epoch_seconds: Seconds of an epoch, as measured.
        gpus: GPUs of a trial.

    Raises:
        UserError: The budget is too small for one trial, or has a limit that can never be reached.
    """
    budget, epochs = params.search.budget, params.train.epochs
    check_limits(params, gpus=gpus)
    hours = epochs * epoch_seconds / 3600
    needed = {"hours": hours, "gpu_hours": hours * gpus, "cost": hours * gpus * budget.price_per_gpu_hour}
    for name, least in needed.items():
        limit = getattr(budget, name)
        if limit is not None and limit < least:
            raise UserError(
                f"params.yaml: search.budget.{name}: given {limit:g}, but a single trial of {epochs} epochs takes "
                f"{least:.3g} by what was measured just now. Raise it, or lower train.epochs."
            )


def describe_trials(params: Params, space: SearchSpace) -> str:
    """Returns the number of trials in words, with the reason if it is lower than asked for.

    Args:
        params: All parameters.
        space: The search space.
    """
    if budget_epochs(params) is not None:
        forecast, every = forecast_trials(params, space), sum(requested_trials(params, space).values())
        studies = " in two studies" * (num_studies(params, space) > 1)
        if forecast.trials < every:
            return f"about {format_count(forecast.trials, 'trial')}{studies}"
        if params.search.trials is None:
            why = "every configuration that the space has" if space.size() else "as many as the budget allows"
            return f"{format_count(every, 'trial')}{studies}, {why},"
    asked, trials = max_trials(params, space), requested_trials(params, space)
    method, own = trials[METHOD], trials.get(CONTROL_STUDY, asked)
    every_one = f", every configuration that the space has (search.trials: {asked})" if method < asked else ""
    control = f"; {own}, every configuration, of {params.retrain.control}'s own study" if own < asked else ""
    return f"{format_count(method, 'trial')}{every_one}{control}{',' * bool(every_one or control)}"


def describe_rungs(params: Params, space: SearchSpace) -> str:
    """Returns the epochs at which trials are compared, as the end of a sentence."""
    scheduler, first, epochs = params.search.scheduler, first_rung(params, space), params.train.epochs
    if scheduler.name == "none":
        return ""
    if scheduler.name == "median":
        return f" from epoch {first} on"
    rungs = rung_epochs(scheduler, first, epochs)
    return f", rungs after {', '.join(map(str, rungs))} epochs" if rungs else ", no rung before the last epoch"


def describe_budget(params: Params, space: SearchSpace) -> str:
    """Returns the limits of the search in words: its epochs with the runs that share them, then the other limits.

    Args:
        params: All parameters.
        space: The search space.
    """
    budget = params.search.budget.model_dump(exclude={"full_trainings"})
    limits = [f"{name} {value:g}" for name, value in budget.items() if value]
    epochs, full = budget_epochs(params), params.search.budget.full_trainings
    if epochs is None or full is None:
        return ", ".join(limits) or "no limit but the number of trials"
    forecast = forecast_trials(params, space)
    halves = f", half of it for {params.retrain.control}'s own study" * (num_studies(params, space) > 1)
    said = (
        f"{full:g} full trainings of {params.train.epochs} epochs = {epochs:,} epochs: controls {len(space.controls)}, "
        f"confirmations up to {max_confirmation_runs(params, space)}, trials the rest{halves}: about "
        f"{format_count(forecast.trials, 'configuration')}, of which about {forecast.in_full} "
        f"{'run' if forecast.in_full != 1 else 'runs'} in full"
    )
    return "; ".join([said, *limits])

"""Estimate of the whole procedure: of its search, or of all searches that folds ask for, and of retraining."""

import math
from collections.abc import Sequence
from dataclasses import replace

from pipeline.preflight.estimate import (
    Estimate,
    Range,
    RemainingWork,
    check_disk,
    check_memory,
    describe_disk,
    describe_gpu_memory,
    estimate,
    remaining_work,
    retraining_seconds,
    stored_checkpoints,
)
from pipeline.preflight.plan import Plan
from pipeline.preflight.profile import profile_steps
from pipeline.preflight.search_budget import check_budget
from pipeline.tune.journal.records import SearchHistory

BETWEEN_S = (2.0, 10.0)
"""Seconds between the last epoch of a search and the start of the next one, (low, high), in which results, figures and
MLflow's runs are written. On two busy cores 8.3 to 9.6 s were measured.
"""


def describe_estimates(plans: Sequence[Plan], histories: Sequence[SearchHistory], *, recent: bool = False) -> list[str]:
    """Returns the expected duration of what remains of all searches, in lines; see `estimate_rest`.

    Args:
        plans: Plans of the part on all images, then of each fold.
        histories: History of each search so far.
        recent: Whether a measurement of the last minutes is reused, if it was made for the same plan.

    Raises:
        UserError: As in `estimate_searches`.
    """
    return describe_rest(estimate_rest(plans, histories, recent=recent), len(plans))


def describe_rest(expected: Estimate | None, searches: int) -> list[str]:
    """Returns the estimate of what remains of all searches, in lines.

    Args:
        expected: The estimate; None if nothing remains.
        searches: Number of all searches.
    """
    if expected is not None:
        return expected.describe()
    what = "search: all of its" if searches == 1 else f"{searches} searches: all of their"
    return [f"{'expected':<10}nothing of the {what} runs have ended"]


def estimate_rest(
    plans: Sequence[Plan], histories: Sequence[SearchHistory], *, recent: bool = False
) -> Estimate | None:
    """Returns the estimate of what remains of all searches; times a few steps, once, with all images.

    Args:
        plans: Plans of the part on all images, then of each fold.
        histories: History of each search so far.
        recent: Whether a measurement of the last minutes is reused, if it was made for the same plan.

    Returns:
        The estimate; None if nothing remains.

    Raises:
        UserError: As in `estimate_searches`.
    """
    works = [remaining_work(plan, history) for plan, history in zip(plans, histories, strict=True)]
    left = [(plan, work) for plan, work in zip(plans, works, strict=True) if work.trials + work.full_runs]
    return estimate_searches(plans, left, recent=recent) if left else None


def estimate_searches(
    plans: Sequence[Plan], left: Sequence[tuple[Plan, RemainingWork]], *, recent: bool = False, arms: int = 2
) -> Estimate:
    """Times a few training steps, checks memory, disk and budget, and adds up what the searches will take.

    Args:
        plans: Plans of the part on all images, then of each fold.
        left: Plans of the searches that are not complete, each with its remaining work.
        recent: Whether a measurement of the last minutes is reused, as in `profile_steps`.
        arms: Number of arms that are retrained afterwards; 0 for no retraining.

    Raises:
        UserError: Memory or disk does not suffice, or the budget is too small for one trial.
    """
    whole, params = plans[0], plans[0].params
    cost = profile_steps(whole, recent=recent)
    check_memory(cost, whole)
    stored = len(plans) * stored_checkpoints(params, whole.space)
    check_disk(cost, whole, stored)
    price = (params.search.budget.price_per_gpu_hour or None) if whole.resources.gpus else None
    found = [estimate(plan, cost, work, price=price) for plan, work in left]
    for each in found if not cost.busy else ():
        check_budget(params, each.epoch[0], gpus=whole.resources.gpus)
    return replace(
        add_estimates(found),
        retraining=retraining_seconds(whole, cost, arms=arms) if arms else None,
        estimated=cost.estimated,
        busy=cost.busy,
        disk=describe_disk(cost, whole, stored),
        gpu_memory=describe_gpu_memory(cost, whole),
        disk_bytes=(stored + whole.resources.max_concurrent) * cost.checkpoint_bytes,
    )


def add_estimates(found: Sequence[Estimate]) -> Estimate:
    """Returns the sum of estimates that follow one another, with the time between searches.

    Args:
        found: The estimates.
    """
    epochs = [each.epoch for each in found if each.searches]
    retraining = [each.retraining for each in found]
    between = tuple(seconds * max(0, len(epochs) - 1) for seconds in BETWEEN_S)
    return Estimate(
        seconds=_add([*(each.seconds for each in found), (between[0], between[1])]) or (0.0, 0.0),
        epoch=(min(low for low, _ in epochs), max(high for _, high in epochs)) if epochs else (0.0, 0.0),
        gpu_hours=_add([each.gpu_hours for each in found]),
        cost=_add([each.cost for each in found]),
        retraining=_add(retraining),
        estimated=next((each.estimated for each in found if each.estimated), ""),
        gpu_memory=next((each.gpu_memory for each in found if each.gpu_memory), ""),
        busy=next((each.busy for each in found if each.busy), ""),
        searches=sum(each.searches for each in found),
        disk_bytes=math.fsum(each.disk_bytes for each in found),
    )


def _add(parts: Sequence[Range | None]) -> Range | None:
    """Returns the sum of the ranges that are not None; None if all are."""
    known = [part for part in parts if part is not None]
    return (math.fsum(low for low, _ in known), math.fsum(high for _, high in known)) if known else None

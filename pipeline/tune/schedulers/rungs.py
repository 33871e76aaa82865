"""Epochs of the rungs, at which trials are compared: the first rung, and the ones after it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config import Content, Params
from pipeline.config.schema.search_section import SchedulerParams
from pipeline.regularizers.regularizer_config import warmup_epochs
from pipeline.tune.space import SearchSpace

LAST_RUNG, LATEST_RUNG = 0.1, 0.25
"""Shares of a full trial's epochs (see `pausing_rungs`)."""
FAR_APART = 4
"""Least ratio of the epochs of two rungs for which another rung lies between them."""
PAUSING = "asha"
"""Name of the scheduler that pauses trials."""
CONSTANT = "constant"
"""Name of the schedule of a weight that does not rise."""


def first_rung(params: Params, space: SearchSpace) -> int:
    """Returns the first epoch after which a trial may be paused or stopped.

    This is `search.scheduler.grace_period`, or the automatic one (`automatic_grace_period`).

    Args:
        params: All parameters.
        space: The search space.
    """
    return resolve_grace_period(params.search.scheduler, params.model_dump(by_alias=True), space)


def resolve_grace_period(scheduler: SchedulerParams, content: Content, space: SearchSpace) -> int:
    """Returns the same as `first_rung`, for a search given by the content of its fingerprint.

    Args:
        scheduler: `search.scheduler`.
        content: The sections `train` and `regularizer`, as params.yaml or a journal's header has them.
        space: The search space.
    """
    given = scheduler.grace_period
    return automatic_grace_period(content, space) if given is None else min(given, int(content["train"]["epochs"]))


def automatic_grace_period(content: Content, space: SearchSpace) -> int:
    """Returns one epoch after the longest warm-up.

    While a weight or the learning rate is rising, trials differ by chance. The warm-up of the regularisers
    counts if one of them is on or searched, unless its weight is constant throughout.

    Args:
        content: The sections `train` and `regularizer`, as params.yaml or a journal's header has them.
        space: The search space.
    """
    epochs = int(content["train"]["epochs"])

    def values(path: str, value: Any) -> list[Any]:
        return space.values_at_ends(path) if path in space.dimensions else [value]

    rises = any(
        max(values(f"regularizer.{weight}", at)) > 0
        and any(each != CONSTANT for each in values(f"regularizer.{schedule}", how))
        for weight, at, schedule, how in _weights(content["regularizer"])
    )
    of_rate = int(max(values("train.warmup_epochs", content["train"]["warmup_epochs"])))
    return min(epochs, 1 + max(warmup_epochs(epochs) if rises else 0, of_rate))


def _weights(regularizer: Content) -> Iterator[tuple[str, float, str, str]]:
    """Yields, for every regulariser, the path and value of its weight, and the path and value of its schedule."""
    for name, section in regularizer.items():
        if isinstance(section, Mapping) and "weight" in section:
            yield f"{name}.weight", section["weight"], f"{name}.schedule", section["schedule"]
    if regularizer.get("plugin") is not None:
        yield "plugin_weight", regularizer["plugin_weight"], "plugin_schedule", regularizer["plugin_schedule"]


def rung_epochs(scheduler: SchedulerParams, first: int, epochs: int) -> list[int]:
    """Returns the rungs of a scheduler below the last epoch, ascending.

    Args:
        scheduler: `search.scheduler`, with one of asha, asha_stopping and hyperband.
        first: The first rung (`first_rung`).
        epochs: Epochs of a full trial.
    """
    first = min(first, epochs)
    return pausing_rungs(first, epochs) if scheduler.name == PAUSING else stopping_rungs(first, scheduler, epochs)


def stopping_rungs(first: int, scheduler: SchedulerParams, epochs: int) -> list[int]:
    """Returns the rungs of a scheduler that stops trials, ascending, below the last epoch.

    They are the first rung times the powers of the reduction factor, from power 0 on, rounded up.

    Args:
        first: The first rung.
        scheduler: `search.scheduler`.
        epochs: Epochs of a full trial.
    """
    factor = scheduler.reduction_factor
    count = int(math.log(epochs / first) / math.log(factor) + 1e-9) + 1
    rungs = (math.ceil(first * factor**power - 1e-9) for power in range(count))
    return sorted({rung for rung in rungs if rung < epochs})


def pausing_rungs(first: int, epochs: int) -> list[int]:
    """Returns the rungs of the scheduler that pauses trials: one to three early ones, ascending, below the last epoch.

    The last rung lies at `LAST_RUNG` of a full trial, or at twice the first if that is later, but not beyond
    `LATEST_RUNG`. Another one lies between them if they are far apart. Later rungs are expensive: few of the
    trials that reach one are needed, and most of their epochs are spent by then
    (docs/benchmarks/search_quality.md).

    Args:
        first: Epoch of the first rung, if it is below the last epoch.
        epochs: Epochs of a full trial.
    """
    last = max(first, min(max(round(LAST_RUNG * epochs), 2 * first), math.floor(LATEST_RUNG * epochs)))
    between = [round(math.sqrt(first * last))] if last >= FAR_APART * first else []
    return sorted({rung for rung in (first, *between, last) if rung < epochs})

"""The epochs at which trials are compared, by the parameters: where the first rung is, and those after it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config import Content, Params
from pipeline.config.schema.search_section import SchedulerParams
from pipeline.regularizers.regularizer_config import warmup_epochs
from pipeline.tune.space import SearchSpace

LAST_RUNG, LATEST_RUNG = 0.1, 0.25
"""Shares of a whole trial's epochs (see `pausing_rungs`)."""
FAR_APART = 4
"""Rungs between which there is another one: the later has so many times the epochs of the earlier."""
PAUSING = "asha"
"""The scheduler that pauses trials."""
CONSTANT = "constant"
"""The schedule of a weight that does not rise."""


def first_rung(params: Params, space: SearchSpace) -> int:
    """The first epoch after which a trial may be paused or stopped: search.scheduler.grace_period, or the automatic one
    (`automatic_grace_period`).
    """
    return resolve_grace_period(params.search.scheduler, params.model_dump(by_alias=True), space)


def resolve_grace_period(scheduler: SchedulerParams, content: Content, space: SearchSpace) -> int:
    """As `first_rung`, of a search by what decides it.

    Args:
        content: The sections `train` and `regularizer`, as params.yaml or a journal's header has them.
    """
    given = scheduler.grace_period
    return automatic_grace_period(content, space) if given is None else min(given, int(content["train"]["epochs"]))


def automatic_grace_period(content: Content, space: SearchSpace) -> int:
    """One epoch after the longest warm-up: while a weight or the learning rate is rising, trials differ by chance.

    The warm-up of the regularisers counts where one is on or searched, unless its weight is constant throughout.
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
    """Of every regulariser the path and value of its weight, and of its schedule."""
    for name, section in regularizer.items():
        if isinstance(section, Mapping) and "weight" in section:
            yield f"{name}.weight", section["weight"], f"{name}.schedule", section["schedule"]
    if regularizer.get("plugin") is not None:
        yield "plugin_weight", regularizer["plugin_weight"], "plugin_schedule", regularizer["plugin_schedule"]


def rung_epochs(scheduler: SchedulerParams, first: int, epochs: int) -> list[int]:
    """The rungs of a scheduler below the last epoch, ascending.

    Args:
        scheduler: `search.scheduler`, of asha, asha_stopping or hyperband.
        first: The first rung (`first_rung`).
        epochs: Of a whole trial.
    """
    first = min(first, epochs)
    return pausing_rungs(first, epochs) if scheduler.name == PAUSING else stopping_rungs(first, scheduler, epochs)


def stopping_rungs(first: int, scheduler: SchedulerParams, epochs: int) -> list[int]:
    """The first rung times the powers of the reduction factor, rounded up."""
    factor = scheduler.reduction_factor
    count = int(math.log(epochs / first) / math.log(factor) + 1e-9) + 1
    rungs = (math.ceil(first * factor**power - 1e-9) for power in range(count))
    return sorted({rung for rung in rungs if rung < epochs})


def pausing_rungs(first: int, epochs: int) -> list[int]:
    """The rungs of the scheduler that pauses trials: one to three early ones, ascending, below the last epoch.

    The last lies at `LAST_RUNG` of a whole trial, or at twice the first, if that is later, but not beyond
    `LATEST_RUNG`; another lies between them where they are far apart. A rung is dear that lies later: of the trials
    that come to it few are needed, and most of their epochs are spent by then (docs/benchmarks/search_quality.md).

    Args:
        first: Epochs of the first rung, where it is below the last epoch.
        epochs: Of a whole trial.
    """
    last = max(first, min(max(round(LAST_RUNG * epochs), 2 * first), math.floor(LATEST_RUNG * epochs)))
    between = [round(math.sqrt(first * last))] if last >= FAR_APART * first else []
    return sorted({rung for rung in (first, *between, last) if rung < epochs})

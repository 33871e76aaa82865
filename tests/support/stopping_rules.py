"""Stopping rules by name, and reports of made-up trials that live by them."""

import math
import random
from typing import Any

from pipeline.config.schema.search_section import SchedulerParams
from pipeline.tune.schedulers.factory import StoppingRule, make_rule

Report = tuple[str, int, float]


def rule(name: str, *, epochs: int = 16, grace_period: int = 2, reduction_factor: float = 2.0) -> StoppingRule:
    params: Any = {"name": name, "grace_period": grace_period, "reduction_factor": reduction_factor}
    return make_rule(SchedulerParams(**params), epochs, grace_period)


def lived(of: StoppingRule, *, seed: int, trials: int = 60, epochs: int = 16, nan: float = 0.02) -> list[Report]:
    """Reports of trials that run side by side, a few NaN among them, until the rule stops them."""
    dice = random.Random(seed)
    goodness = {f"t{number:04d}": dice.random() for number in range(trials)}
    waiting, at_work, told = list(goodness), {}, []
    while waiting or at_work:
        while waiting and len(at_work) < 5:
            at_work[waiting.pop(0)] = 0
        name = dice.choice(list(at_work))
        at_work[name] += 1
        value = round(goodness[name] + dice.gauss(0, 0.15) - 1 / at_work[name], 2)  # so that some are equal
        told.append((name, at_work[name], math.nan if dice.random() < nan else value))
        if of.stops(*told[-1]):
            del at_work[name]
    assert max(epoch for _, epoch, _ in told) == epochs
    return told


def decisions(of: StoppingRule, reports: list[Report]) -> list[bool]:
    return [of.stops(*report) for report in reports]

"""Claims about the median rule: it decides as its definition, restated, does."""

import numpy as np
import pytest
from support.stopping_rules import Report, decisions, lived, rule

from pipeline.tune.schedulers.median import MIN_TRIALS, MedianStopping


def median_restated(reports: list[Report], grace_period: int, epochs: int) -> list[bool]:
    """The median rule from its definition, looking through everything that was told before."""
    said = []
    for index, (trial, epoch, _) in enumerate(reports):
        told: dict[str, dict[int, float]] = {}
        for name, at, objective in reports[: index + 1]:
            told.setdefault(name, {})[at] = objective
        means = [
            np.mean([value for at, value in curve.items() if grace_period <= at <= epoch])
            for name, curve in told.items()
            if name != trial and epoch in curve and epoch >= grace_period
        ]
        best = np.nanmax([*told[trial].values(), -np.inf])
        below = len(means) >= MIN_TRIALS and best < np.nanmedian(means)
        said.append(bool(epoch >= epochs or (epoch >= grace_period and below)))
    return said


@pytest.mark.parametrize("seed", range(4))
def test_median_rule_decides_as_its_definition(seed: int) -> None:
    reports = lived(rule("median"), seed=seed, nan=0.0)
    expected = median_restated(reports, 2, 16)
    assert decisions(rule("median"), reports) == expected
    assert sum(stop and epoch < 16 for stop, (_, epoch, _) in zip(expected, reports, strict=True)) > 10


def test_median_rule_waits_for_three_others() -> None:
    of = MedianStopping(2, 16)
    for number in range(3):
        assert not any(of.stops(f"t{number:04d}", epoch, 0.5 - 0.1 * number) for epoch in (1, 2))
    assert not of.stops("t0003", 1, 0.1)
    assert of.stops("t0003", 2, 0.1)

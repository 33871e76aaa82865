"""Claims about the rules that stop trials: they decide as the published ones, restated, do, and say so again when replayed."""

import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from pipeline.config.schema.search_section import SchedulerParams
from pipeline.tune.schedulers.rules import ASHA, MIN_TRIALS, Hyperband, MedianStopping, StoppingRule, make_rule

RULES = ("asha", "hyperband", "median", "none")
Report = tuple[str, int, float]


def rule(name: str, *, epochs: int = 16, grace_period: int = 2, reduction_factor: float = 2.0) -> StoppingRule:
    params: Any = {"name": name, "grace_period": grace_period, "reduction_factor": reduction_factor}
    return make_rule(SchedulerParams(**params), epochs)


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


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # of Ray's, where a NaN came first
@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("grace_period", [1, 3, 4])
def test_asha_decides_as_rays_does(grace_period: int, factor: float) -> None:
    reports = lived(rule("asha", grace_period=grace_period, reduction_factor=factor), seed=int(10 * factor))
    rays = AsyncHyperBandScheduler(
        time_attr="epoch", metric="objective", mode="max", max_t=16, grace_period=grace_period, reduction_factor=factor
    )
    expected, nobody = [], SimpleNamespace()
    for name, epoch, objective in reports:
        trial: Any = SimpleNamespace(trial_id=name)
        if name not in rays._trial_info:
            rays.on_trial_add(nobody, trial)  # type: ignore[arg-type]
        said = rays.on_trial_result(nobody, trial, {"epoch": epoch, "objective": objective})  # type: ignore[arg-type]
        expected.append(said == TrialScheduler.STOP)
    assert decisions(rule("asha", grace_period=grace_period, reduction_factor=factor), reports) == expected
    assert sum(expected) == 60  # so each was stopped, and
    assert sum(stop and epoch < 16 for stop, (_, epoch, _) in zip(expected, reports, strict=True)) > 10


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_replayed_reports_lead_to_the_same_decisions(name: str, seed: int) -> None:
    reports = lived(rule(name), seed=seed)
    again = decisions(rule(name), reports)
    last = {trial: index for index, (trial, _, _) in enumerate(reports)}
    assert [index for index, stop in enumerate(again) if stop] == sorted(last.values())


@pytest.mark.parametrize("name", RULES)
def test_report_that_was_heard_before_changes_nothing(name: str) -> None:
    reports = lived(rule(name), seed=5)
    once, doubled = rule(name), rule(name)
    for trial, epoch, objective in reports:
        expected = once.stops(trial, epoch, objective)
        assert doubled.stops(trial, epoch, objective) == expected
        assert doubled.stops(trial, epoch, -9.0) == (epoch == 16)


@pytest.mark.parametrize("name", RULES)
def test_trial_ends_at_its_last_epoch_and_a_failed_one_is_nobodys_to_stop(name: str) -> None:
    of = rule(name)
    for number in range(4):
        for epoch in range(1, 16):
            of.stops(f"t{number:04d}", epoch, 0.9)
        assert of.stops(f"t{number:04d}", 16, 0.9)
    assert not any(of.stops("t0004", epoch, math.nan) for epoch in range(1, 16))


def test_no_rule_stops_nobody() -> None:
    of = rule("none")
    assert of.rung_epochs == []
    assert all(epoch == 16 or not of.stops(f"t{n:04d}", epoch, -n) for n in range(9) for epoch in range(1, 17))


def test_hyperband_has_a_ladder_from_every_rung_and_trials_in_the_published_shares() -> None:
    of = rule("hyperband", epochs=81, grace_period=1, reduction_factor=3.0)
    assert isinstance(of, Hyperband)
    assert [ladder.rung_epochs for ladder in of.brackets] == [[1, 3, 9, 27], [3, 9, 27], [9, 27], [27], []]
    turn = [of.brackets.index(of.of(f"t{number:04d}")) for number in range(143)]
    assert [turn.count(index) for index in range(5)] == [81, 34, 15, 8, 5]  # table 1 of the paper
    assert of.of("t0143") is of.of("t0000")


def test_each_ladder_of_hyperband_compares_its_own_trials_alone() -> None:
    of, reports = rule("hyperband"), lived(rule("hyperband"), seed=2)
    assert isinstance(of, Hyperband)
    said = decisions(of, reports)
    for ladder in of.brackets:
        alone = ASHA(ladder.rung_epochs, 2.0, 16)
        own = [index for index, (trial, _, _) in enumerate(reports) if of.of(trial) is ladder]
        assert [said[index] for index in own] == decisions(alone, [reports[index] for index in own])


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


@pytest.mark.parametrize(("name", "share"), [("asha", 1 / 8), ("median", 0.0), ("none", 1.0)])
def test_share_that_lasts_is_that_of_the_rungs(name: str, share: float) -> None:
    assert rule(name).survival_fraction == share
    if name != "median":
        assert rule(name, grace_period=16).survival_fraction == 1.0

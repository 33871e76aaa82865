"""Claims about every stopping rule: it says the same again when replayed, and blames no trial that has failed."""

import math

import pytest
from support.stopping_rules import decisions, lived, rule

RULES = ("asha_stopping", "hyperband", "median", "none")


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

"""Claims about stopping rules: who is stopped, when, and that repeated reports change nothing."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Params
from pipeline.config.schema.search_section import SchedulerParams
from pipeline.tune.controller import SearchController
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import TrialRecord
from pipeline.tune.schedulers.asha import ASHA
from pipeline.tune.schedulers.factory import make_rule
from pipeline.tune.schedulers.scheduler import Decision, EitherRule
from pipeline.tune.space import SearchSpace

ACCURACY = "val/accuracy"


def asha_rule(*, epochs: int = 16, grace_period: int = 4, reduction_factor: float = 2.0) -> ASHA:
    scheduler = SchedulerParams(name="asha_stopping", reduction_factor=reduction_factor)
    rule = make_rule(scheduler, epochs, grace_period)
    assert isinstance(rule, ASHA)
    return rule


def rungs(of: ASHA) -> dict[int, dict[str, float]]:
    """What the rungs hold: objectives by trial, by epoch."""
    return {rung.epoch: dict(rung.values) for rung in of.rungs}


def run(of: ASHA, name: str, objective: float, *, first: int = 1, last: int = 16) -> int:
    """Report the epochs of a trial until it is stopped; the epoch that it came to."""
    return next((epoch for epoch in range(first, last + 1) if of.stops(name, epoch, objective)), last)


def test_bad_trial_is_stopped_at_its_rung_and_good_ones_run_to_the_end() -> None:
    asha = asha_rule()
    assert run(asha, "t0000", 0.5) == 16
    assert run(asha, "t0001", 0.4) == 4  # the middle of what the rung holds is 0.5
    assert run(asha, "t0002", 0.6) == 16
    assert run(asha, "t0003", 0.49) == 4
    assert rungs(asha) == {
        4: {"t0000": 0.5, "t0001": 0.4, "t0002": 0.6, "t0003": 0.49},
        8: {"t0000": 0.5, "t0002": 0.6},
    }


def test_trial_may_be_stopped_at_a_later_rung() -> None:
    asha = asha_rule()
    run(asha, "t0000", 0.5)
    assert [asha.stops("t0001", epoch, 0.6 if epoch < 8 else 0.4) for epoch in range(1, 9)] == [False] * 7 + [True]


def test_nothing_is_decided_between_rungs() -> None:
    asha = asha_rule()
    run(asha, "t0000", 0.9)
    assert not any(asha.stops("t0001", epoch, 0.1) for epoch in (1, 2, 3))


@pytest.mark.parametrize(("epochs", "grace_period"), [(16, 16), (3, 4), (1, 1)])
def test_nobody_is_stopped_early_when_the_grace_period_is_the_whole_run(epochs: int, grace_period: int) -> None:
    asha = asha_rule(epochs=epochs, grace_period=grace_period)
    assert run(asha, "t0000", 0.9, last=epochs) == epochs
    assert run(asha, "t0001", 0.1, last=epochs) == epochs
    assert rungs(asha) == {}


def test_milestones_are_the_epochs_at_which_trials_are_compared() -> None:
    assert asha_rule().rung_epochs == [4, 8]
    assert asha_rule(epochs=17).rung_epochs == [4, 8, 16]
    assert asha_rule(epochs=16, grace_period=16).rung_epochs == []
    assert asha_rule(epochs=27, grace_period=1, reduction_factor=3.0).rung_epochs == [1, 3, 9]
    assert asha_rule(grace_period=1, reduction_factor=2.5).rung_epochs == [1, 3, 7, 16][:3]


def test_trial_that_begins_again_from_a_checkpoint_is_judged_by_what_it_reported_first() -> None:
    asha = asha_rule()
    assert run(asha, "t0000", 0.5, last=6) == 6
    assert run(asha, "t0000", 0.1, first=4, last=8) == 8
    assert rungs(asha) == {4: {"t0000": 0.5}, 8: {"t0000": 0.1}}


@pytest.mark.parametrize("interrupted", [4, 6])
def test_resumed_search_stops_nobody_that_the_live_one_let_go_on(tmp_path: Path, interrupted: int) -> None:
    space = SearchSpace("space.yaml", {"train.lr": {"type": "float", "low": 0.01, "high": 1.0}}, {"baseline": {}})
    settings = {"train.epochs": 16, "search.trials": 2, "search.scheduler.name": "asha_stopping"}
    params = Params().with_values(settings | {"search.scheduler.grace_period": 4}, where="")
    with Journal(tmp_path / "journal.jsonl", {}) as journal:
        for number in (0, 1):
            journal.start(TrialRecord(f"t{number:04d}", number, {"train.lr": 0.1}, study="search"))
        # The second was faster, and found the rung at epoch 4 empty; the first came then, and was the better one.
        live = asha_rule()
        for name, objective in (("t0001", 0.4), ("t0000", 0.5)):
            assert run(live, name, objective, last=interrupted) == interrupted
            for epoch in range(1, interrupted + 1):
                journal.report(name, epoch, {"val/accuracy": objective})
    with Journal(tmp_path / "journal.jsonl", {}) as journal:
        course = SearchController(
            params, space, journal, [], fingerprint="f00d" * 16, folder=tmp_path, gpus=0.0, max_concurrent=2
        )
        course.replay()
        assert {name: of.state for name, of in journal.trials.items()} == {"t0000": None, "t0001": None}
        queued = [course.next_trial() for _ in range(3)]
        assert [of.id for of in queued if isinstance(of, TrialRecord)] == ["baseline", "t0000", "t0001"]


def test_trial_goes_on_where_either_metric_lets_it_and_every_metric_hears_of_it() -> None:
    """Eight trials at one rung: what is in the better half by accuracy, or by attention, of those before it goes on."""
    rules = {name: asha_rule(grace_period=4) for name in ("val/accuracy", "val/attention/auroc")}
    either = EitherRule(rules)
    values = [(0.9, 0.5), (0.8, 0.9), (0.1, 0.95), (0.2, 0.2), (0.95, 0.1), (0.3, 0.6), (0.85, 0.3), (0.1, 0.1)]
    for number, pair in enumerate(values):
        metrics = dict(zip(rules, pair, strict=True))
        before = values[:number]
        cuts = [float(np.quantile([row[k] for row in before], 0.5)) if before else -1.0 for k in (0, 1)]
        expected = all(value < cut for value, cut in zip(pair, cuts, strict=True))
        assert (either.report(f"t{number:04d}", 4, metrics) is Decision.STOP) == expected
    assert [len(rungs(rule)[4]) for rule in rules.values()] == [8, 8]
    assert either.rung_epochs == [4, 8]
    assert either.report("t0000", 16, {ACCURACY: 1.0, "val/attention/auroc": 1.0}) is Decision.STOP


def test_metric_that_a_report_lacks_has_no_say() -> None:
    either = EitherRule({name: asha_rule(grace_period=4) for name in ("val/accuracy", "val/attention/auroc")})
    for number, value in enumerate((0.9, 0.8)):
        either.report(f"t{number:04d}", 4, {"val/accuracy": value, "val/attention/auroc": 0.5})
    assert either.report("t0002", 4, {ACCURACY: 0.1}) is Decision.STOP
    assert either.report("t0003", 4, {ACCURACY: 0.9}) is Decision.CONTINUE
    assert either.report("t0004", 4, {ACCURACY: 0.1, "val/attention/auroc": 0.7}) is Decision.CONTINUE

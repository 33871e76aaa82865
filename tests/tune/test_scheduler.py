"""Claims about early stopping: who is stopped, when, and that a replayed journal gives the rungs of the live run."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.utils import flatten_dict

from pipeline.config import Params
from pipeline.config.schema.search_section import SchedulerParams
from pipeline.tune.controller import SearchController
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, CONTROL, PRUNED, TRIAL, TrialRecord
from pipeline.tune.ray.scheduler import CONTINUE, STOP, SearchScheduler
from pipeline.tune.schedulers.asha import ASHA
from pipeline.tune.schedulers.factory import EitherRule, make_rule
from pipeline.tune.space import SearchSpace

NOBODY: Any = None
"""The controller that Ray hands to schedulers; ours never asks it anything."""


def trial(name: str, *, ray_id: str | None = None) -> Any:
    """What the scheduler reads of one of Ray's trials."""
    return SimpleNamespace(trial_id=ray_id or f"ray-{name}", config={"trial": name, "study": study_of(name)})


def study_of(name: str) -> str | None:
    """Confirmations, and controls, are in none."""
    return None if "-seed" in name else {"t0": "search", "c0": "control_study"}.get(name[:2])


def record(name: str) -> TrialRecord:
    if (study := study_of(name)) is not None:
        return TrialRecord(name, int(name[1:]), {}, role=TRIAL, study=study)
    return TrialRecord(name, None, {}, role=CONFIRMATION if "-seed" in name else CONTROL)


def result(epoch: int, objective: float, *, failed: str | None = None) -> dict[str, Any]:
    """A report as Ray hands it to a scheduler."""
    report = {"epoch": epoch, "objective": objective, "metrics": {"val/accuracy": objective}, "failed": failed}
    return flatten_dict(report)


def search(**settings: Any) -> tuple[SearchScheduler, ASHA]:
    """A scheduler of two studies, and the rungs of the method's own."""
    method = asha_rule(**settings)
    studies = {
        name: EitherRule({"val/accuracy": rule})
        for name, rule in (("search", method), ("control_study", asha_rule(**settings)))
    }
    return SearchScheduler(studies, settings.get("epochs", 16)), method


def asha_rule(*, epochs: int = 16, grace_period: int = 4, reduction_factor: float = 2.0) -> ASHA:
    settings = {"grace_period": grace_period, "reduction_factor": reduction_factor}
    rule = make_rule(SchedulerParams(name="asha", **settings), epochs, settings["grace_period"])
    assert isinstance(rule, ASHA)
    return rule


def rungs(of: ASHA) -> dict[float, dict[str, float]]:
    """What the rungs hold: objectives by trial, by epoch."""
    return {rung.epoch: dict(rung.values) for rung in of.rungs}


def run(of: SearchScheduler, name: str, objective: float, *, first: int = 1, last: int = 16) -> int:
    """Report the epochs of a trial as Ray does, until it is stopped; the epoch that it came to."""
    live = trial(name)
    of.on_trial_add(NOBODY, live)
    for epoch in range(first, last + 1):
        if of.on_trial_result(NOBODY, live, result(epoch, objective)) == STOP:
            of.on_trial_complete(NOBODY, live, result(epoch, objective))
            return epoch
    return last


def test_bad_trial_is_stopped_at_its_rung_and_good_ones_run_to_the_end() -> None:
    asha, method = search()
    assert run(asha, "t0000", 0.5) == 16
    assert run(asha, "t0001", 0.4) == 4  # the middle of what the rung holds is 0.5
    assert run(asha, "t0002", 0.6) == 16
    assert run(asha, "t0003", 0.49) == 4
    assert rungs(method) == {
        4: {"t0000": 0.5, "t0001": 0.4, "t0002": 0.6, "t0003": 0.49},
        8: {"t0000": 0.5, "t0002": 0.6},
    }


def test_trial_may_be_stopped_at_a_later_rung() -> None:
    asha, _ = search()
    run(asha, "t0000", 0.5)
    live = trial("t0001")
    asha.on_trial_add(NOBODY, live)
    decisions = [asha.on_trial_result(NOBODY, live, result(epoch, 0.6 if epoch < 8 else 0.4)) for epoch in range(1, 9)]
    assert decisions == [CONTINUE] * 7 + [STOP]


def test_nothing_is_decided_between_rungs() -> None:
    asha, _ = search()
    run(asha, "t0000", 0.9)
    live = trial("t0001")
    asha.on_trial_add(NOBODY, live)
    assert [asha.on_trial_result(NOBODY, live, result(epoch, 0.1)) for epoch in (1, 2, 3)] == [CONTINUE] * 3


@pytest.mark.parametrize("objective", [0.0, math.nan])
@pytest.mark.parametrize("name", ["baseline", "t0000-seed1001", "baseline-seed1001"])
def test_control_and_confirmation_are_never_stopped_before_their_last_epoch_and_enter_no_rung(
    name: str, objective: float
) -> None:
    asha, method = search()
    run(asha, "t0000", 0.9)
    before = rungs(method)
    decisions = [asha.on_trial_result(NOBODY, trial(name), result(epoch, objective)) for epoch in range(1, 17)]
    assert decisions == [CONTINUE] * 15 + [STOP]
    assert run(asha, name.replace("baseline", "paper"), objective) == 16
    assert rungs(method) == before
    asha.on_trial_remove(NOBODY, trial(name))  # nor is it missed when Ray gives it up


def test_each_study_has_rungs_of_its_own() -> None:
    asha, method = search()
    assert run(asha, "t0000", 0.9) == 16
    assert run(asha, "c0000", 0.1) == 16  # the first of its own study, however bad beside the method's
    assert run(asha, "c0001", 0.05) == 4
    assert run(asha, "t0001", 0.5) == 4
    assert rungs(method)[4] == {"t0000": 0.9, "t0001": 0.5}


@pytest.mark.parametrize(("epochs", "grace_period"), [(16, 16), (3, 4), (1, 1)])
def test_nobody_is_stopped_early_when_the_grace_period_is_the_whole_run(epochs: int, grace_period: int) -> None:
    asha, method = search(epochs=epochs, grace_period=grace_period)
    assert run(asha, "t0000", 0.9, last=epochs) == epochs
    assert run(asha, "t0001", 0.1, last=epochs) == epochs
    assert rungs(method) == {}


@pytest.mark.parametrize("epoch", [0, 4, 16])
def test_trial_that_failed_stops_and_leaves_the_rungs_alone(epoch: int) -> None:
    asha, method = search()
    run(asha, "t0000", 0.5)
    before = rungs(method)
    live = trial("t0001")
    asha.on_trial_add(NOBODY, live)
    ending = result(epoch, math.nan, failed="diverged")
    assert asha.on_trial_result(NOBODY, live, ending) == STOP
    asha.on_trial_complete(NOBODY, live, ending)
    assert rungs(method) == before


@pytest.mark.parametrize("name", ["baseline", "t0000-seed1001"])
def test_control_or_confirmation_that_failed_stops_too(name: str) -> None:
    asha, _ = search()
    assert asha.on_trial_result(NOBODY, trial(name), result(2, math.nan, failed="out of memory")) == STOP


def test_trial_that_ray_gives_up_is_forgotten_and_its_rungs_stay() -> None:
    asha, method = search()
    live = trial("t0000")
    asha.on_trial_add(NOBODY, live)
    for epoch in range(1, 5):
        asha.on_trial_result(NOBODY, live, result(epoch, 0.5))
    asha.on_trial_remove(NOBODY, live)
    assert rungs(method)[4] == {"t0000": 0.5}


def test_milestones_are_the_epochs_at_which_trials_are_compared() -> None:
    assert asha_rule().rung_epochs == [4, 8]
    assert asha_rule(epochs=17).rung_epochs == [4, 8, 16]
    assert asha_rule(epochs=16, grace_period=16).rung_epochs == []
    assert asha_rule(epochs=27, grace_period=1, reduction_factor=3.0).rung_epochs == [1, 3, 9]


def test_trial_is_known_by_its_id_of_the_ledger_whatever_ray_calls_it() -> None:
    asha, method = search()
    first, second = trial("t0000", ray_id="a1b2"), trial("t0000", ray_id="c3d4")
    asha.on_trial_add(NOBODY, first)
    for epoch in range(1, 7):
        asha.on_trial_result(NOBODY, first, result(epoch, 0.5))
    asha.on_trial_add(NOBODY, second)  # started again, from its checkpoint of epoch 3
    for epoch in range(4, 9):
        assert asha.on_trial_result(NOBODY, second, result(epoch, 0.1)) == CONTINUE
    assert rungs(method) == {4: {"t0000": 0.5}, 8: {"t0000": 0.1}}


def lived(journal: Journal) -> tuple[SearchScheduler, ASHA]:
    """A search with two controls, seven trials and an interruption, its reports written into a journal."""
    asha, method = search()
    ends = {"baseline": (0.1, 16), "paper": (0.2, 7)}
    ends |= {"t0000": (0.5, 16), "t0001": (0.7, 16), "t0002": (0.4, 16), "t0003": (0.8, 16)}
    ends |= {"t0004": (0.75, 10), "t0005": (0.9, 6), "t0006": (0.3, 2)}
    for name, (objective, interrupted) in ends.items():
        journal.start(record(name))
        came_to = run(asha, name, objective, last=interrupted)
        for epoch in range(1, came_to + 1):
            journal.report(name, epoch, {"val/accuracy": objective})
        if came_to == 16 or came_to < interrupted:
            journal.end(name, COMPLETE if came_to == 16 else PRUNED)
    return asha, method


def replayed(trials: Mapping[str, TrialRecord]) -> tuple[SearchScheduler, ASHA]:
    """A fresh scheduler after the journal's reports, in the order of the epochs, as the search replays them."""
    asha, method = search()
    for epoch in range(1, 17):
        for of in trials.values():
            if epoch in of.epochs:
                asha.replay(of, epoch, of.epochs[epoch])
    return asha, method


def test_replayed_ledger_gives_the_rungs_of_the_live_run(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl", {}) as journal:
        _, live = lived(journal)
    with Journal(tmp_path / "journal.jsonl", {}) as journal:
        _, again = replayed(journal.trials)
        states = {name: of.state for name, of in journal.trials.items()}
    assert states["t0002"] == PRUNED  # so the rungs have done something
    assert states["t0005"] is None
    assert rungs(again) == rungs(live)
    assert rungs(again)[4].keys() == {"t0000", "t0001", "t0002", "t0003", "t0004", "t0005"}
    assert rungs(again)[8].keys() == {"t0000", "t0001", "t0003", "t0004"}


def test_search_goes_on_after_a_replay_as_the_live_one_does(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl", {}) as journal:
        live = lived(journal)
        again = replayed(journal.trials)
    for asha, _ in (live, again):
        assert run(asha, "t0006", 0.3, first=3) == 4
        assert run(asha, "t0005", 0.9, first=7) == 16
        assert run(asha, "paper", 0.2, first=8) == 16
        assert run(asha, "t0007", 0.72) == 8
    assert rungs(live[1]) == rungs(again[1])


def test_replay_says_where_a_trial_would_have_been_stopped() -> None:
    asha, method = search()
    good, bad, control = record("t0000"), record("t0001"), record("baseline")
    for each in (good, bad, control):
        assert asha.replay(each, 3, {"val/accuracy": 0.1}) == CONTINUE
    assert asha.replay(good, 4, {"val/accuracy": 0.5}) == CONTINUE
    assert asha.replay(bad, 4, {"val/accuracy": 0.4}) == STOP
    assert asha.replay(control, 4, {"val/accuracy": 0.0}) == CONTINUE
    assert asha.replay(good, 16, {"val/accuracy": 0.5}) == STOP
    assert asha.replay(control, 16, {"val/accuracy": 0.0}) == STOP
    assert rungs(method)[4] == {"t0000": 0.5, "t0001": 0.4}


@pytest.mark.parametrize("interrupted", [4, 6])
def test_resumed_search_stops_nobody_that_the_live_one_let_go_on(tmp_path: Path, interrupted: int) -> None:
    space = SearchSpace("space.yaml", {"train.lr": {"type": "float", "low": 0.01, "high": 1.0}}, {"baseline": {}})
    params = Params().with_values({"train.epochs": 16, "search.trials": 2}, where="")
    with Journal(tmp_path / "journal.jsonl", {}) as journal:
        for number in (0, 1):
            journal.start(TrialRecord(f"t{number:04d}", number, {"train.lr": 0.1}, study="search"))
        # The second was faster, and found the rung at epoch 4 empty; the first came then, and was the better one.
        live, _ = search()
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


def test_report_from_before_the_first_epoch_enters_no_rung_and_stops_what_breaks_a_constraint() -> None:
    scheduler, method = search()
    measured = result(0, math.nan) | {"measured": {"latency_ms": 3.0}, "infeasible": None}
    assert scheduler.on_trial_result(NOBODY, trial("t0000"), measured) == CONTINUE
    assert scheduler.on_trial_result(NOBODY, trial("t0001"), measured | {"infeasible": "too slow"}) == STOP
    assert all(not values for values in rungs(method).values())


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
        assert either.stops(f"t{number:04d}", 4, metrics) == expected
    assert [len(rungs(rule)[4]) for rule in rules.values()] == [8, 8]
    assert either.rung_epochs == [4, 8]
    assert either.stops("t0000", 16, {"val/accuracy": 1.0, "val/attention/auroc": 1.0})


def test_metric_that_a_report_lacks_has_no_say() -> None:
    either = EitherRule({name: asha_rule(grace_period=4) for name in ("val/accuracy", "val/attention/auroc")})
    for number, value in enumerate((0.9, 0.8)):
        either.stops(f"t{number:04d}", 4, {"val/accuracy": value, "val/attention/auroc": 0.5})
    assert either.stops("t0002", 4, {"val/accuracy": 0.1})
    assert not either.stops("t0003", 4, {"val/accuracy": 0.9})
    assert not either.stops("t0004", 4, {"val/accuracy": 0.1, "val/attention/auroc": 0.7})

"""Claims about the scheduler that Ray Tune calls: what it asks the controller, and what it says of the answer."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.utils import flatten_dict
from support.simulated_search import Search

from pipeline.tune.journal.records import PRUNED, TrialRecord
from pipeline.tune.ray.callback import JournalCallback
from pipeline.tune.ray.controller_scheduler import ControllerScheduler

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
NOBODY: Any = None
"""The controller that Ray hands to schedulers; ours never asks it anything."""


@pytest.fixture
def search(tmp_path: Any) -> Search:
    return Search(tmp_path, {"search.confirm.seeds": 0})


def trial(name: str) -> Any:
    """What is read of one of Ray's trials."""
    return SimpleNamespace(config={"trial": name}, last_result={})


def result(epoch: int, value: float, **more: Any) -> dict[str, Any]:
    """A report as Ray hands it to a scheduler."""
    metrics = {"val/accuracy": value, "val/loss": 1 - value}
    report = {"epoch": epoch, "objective": value, "metrics": metrics, "failed": None, "scores": None}
    return flatten_dict(report | more)


def test_report_reaches_the_journal_before_ray_hears_the_word(search: Search) -> None:
    with search.session() as course:
        scheduler = ControllerScheduler(course, JournalCallback(course))
        (record, name) = (course.next_trial(), "baseline")
        assert isinstance(record, TrialRecord)
        said = [scheduler.on_trial_result(NOBODY, trial(name), result(epoch, 0.5)) for epoch in range(1, 5)]
        assert said == [CONTINUE] * 3 + [STOP]
        assert course.journal.trials[name].epochs[4] == {"val/accuracy": 0.5, "val/loss": 0.5}


def test_what_a_trial_measures_before_its_first_epoch_is_no_epoch(search: Search) -> None:
    with search.session() as course:
        scheduler = ControllerScheduler(course, JournalCallback(course))
        course.next_trial()
        before = {"epoch": 0, "objective": math.nan, "metrics": {}, "failed": None, "measured": {"latency_ms": 2.0}}
        assert (
            scheduler.on_trial_result(NOBODY, trial("baseline"), flatten_dict(before | {"infeasible": None}))
            == CONTINUE
        )
        assert course.journal.trials["baseline"].epochs == {}
        assert (
            scheduler.on_trial_result(NOBODY, trial("baseline"), flatten_dict(before | {"infeasible": "too slow"}))
            == STOP
        )


def test_trial_that_pauses_stops_for_ray_and_is_handed_out_again_when_it_is_among_the_best(search: Search) -> None:
    with search.session(at_a_time=2) as course:
        callback = JournalCallback(course)
        scheduler = ControllerScheduler(course, callback)
        records = [course.next_trial() for _ in range(3)]
        assert [record.id for record in records if isinstance(record, TrialRecord)] == ["baseline", "t0000", "t0001"]
        for name, value in (("t0000", 0.6), ("t0001", 0.5)):
            assert scheduler.on_trial_result(NOBODY, trial(name), result(1, value)) == CONTINUE
            assert scheduler.on_trial_result(NOBODY, trial(name), result(2, value)) == STOP
            assert not course.journal.trials[name].paused  # its worker has still to let it go
        assert [r.id for r in [course.next_trial()] if isinstance(r, TrialRecord)] == ["t0002"]
        callback.on_trial_complete(1, [], trial("t0001"))
        callback.on_trial_complete(1, [], trial("t0000"))
        assert course.journal.trials["t0000"].paused
        again = course.next_trial()
        assert isinstance(again, TrialRecord)
        assert (again.id, again.paused, again.state) == ("t0000", False, None)
        assert course.journal.trials["t0001"].paused
        assert scheduler.on_trial_result(NOBODY, trial("t0000"), result(3, 0.6)) == CONTINUE
    assert course.journal.trials["t0001"].state != PRUNED  # the session has been left in its middle


def test_trial_whose_worker_died_after_the_word_to_pause_trains_no_further(search: Search) -> None:
    with search.session() as course:
        callback = JournalCallback(course)
        scheduler = ControllerScheduler(course, callback)
        while getattr(record := course.next_trial(), "id", "t0000") != "t0000":
            pass
        assert isinstance(record, TrialRecord)
        assert scheduler.on_trial_result(NOBODY, trial("t0000"), result(2, 0.6)) == STOP
        assert scheduler.on_trial_result(NOBODY, trial("t0000"), result(3, 0.7)) == STOP
        assert course.journal.trials["t0000"].epochs.keys() == {2}
        dead: Any = SimpleNamespace(
            config={"trial": "t0000"},
            run_metadata=SimpleNamespace(num_failures=3),
            max_failures=2,
            error_file=None,
            path=None,
        )
        callback.on_trial_error(1, [], dead)
        assert course.journal.trials["t0000"].paused


@pytest.mark.parametrize("epoch", [0, 2, 4])
def test_trial_that_failed_or_breaks_a_constraint_stops_and_nothing_is_reported(search: Search, epoch: int) -> None:
    with search.session() as course:
        scheduler = ControllerScheduler(course, JournalCallback(course))
        course.next_trial()
        failed = result(epoch, math.nan, failed="diverged")
        assert scheduler.on_trial_result(NOBODY, trial("baseline"), failed) == STOP
        measured = result(0, math.nan) | {"measured": {"latency_ms": 3.0}, "infeasible": None}
        assert scheduler.on_trial_result(NOBODY, trial("baseline"), measured) == CONTINUE
        assert scheduler.on_trial_result(NOBODY, trial("baseline"), measured | {"infeasible": "too slow"}) == STOP
        assert course.journal.trials["baseline"].epochs == {}

"""What Ray Tune tells of its trials, and what becomes of it in the search."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.simulated_search import Search

from pipeline.cluster.connect import Capacity
from pipeline.tune.controller import SearchController, Wait
from pipeline.tune.journal.records import FAILED, TrialRecord
from pipeline.tune.ray.callback import JournalCallback


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(tmp_path)


def given_up(recorder: JournalCallback, name: str, *, failures: int) -> None:
    """Ray Tune ends a trial after so many deaths of its worker, of which it may have told one twice."""
    known = SimpleNamespace(num_failures=failures)
    # Of Ray's trial, which only Ray can make, what is read.
    trial: Any = SimpleNamespace(config={"trial": name}, run_metadata=known, max_failures=2, error_file=None, path=None)
    recorder.on_trial_error(iteration=1, trials=[], trial=trial)


def ready(course: SearchController) -> list[str]:
    """All that may start."""
    found = []
    while isinstance(record := course.next_trial(), TrialRecord):
        found.append(record.id)
    assert isinstance(record, Wait)
    return found


def test_trial_that_ray_gives_up_before_its_failures_are_used_up_is_handed_out_again(search: Search) -> None:
    with search.session(at_a_time=8) as course:
        recorder, first = JournalCallback(course), ready(course)
        course.report("t0001", 1, {"val/accuracy": 0.5})
        course.checkpoint("t0001", "/somewhere/checkpoint_000000")
        given_up(recorder, "t0001", failures=2)
        again = course.next_trial()
        assert isinstance(again, TrialRecord)
        assert (again.id, again.state, again.last_epoch) == ("t0001", None, 1)
        assert again.checkpoint == "/somewhere/checkpoint_000000"
        assert ready(course) == []
        assert course.num_running == len(first)
        given_up(recorder, "t0001", failures=1)
        assert course.journal.trials["t0001"].state == FAILED
        assert ready(course) == []


def test_trial_whose_failures_are_used_up_has_failed(search: Search) -> None:
    with search.session(at_a_time=8) as course:
        recorder = JournalCallback(course)
        ready(course)
        given_up(recorder, "baseline", failures=3)
        assert course.journal.trials["baseline"].state == FAILED
        assert "baseline" not in ready(course)


def test_trial_whose_node_will_not_do_is_handed_out_again_and_the_node_is_told_once(
    search: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    with search.session(at_a_time=8) as course:
        room = Capacity(cpus=1, gpus=0)
        recorder, first = JournalCallback(course, room), ready(course)
        for name in ("t0001", "t0000"):
            report = {"failed": "refused", "refused": {"node": "ab12", "why": ["far (10.0.0.9): torch 9.9 there"]}}
            trial: Any = SimpleNamespace(config={"trial": name}, last_result=report)
            recorder.on_trial_complete(iteration=1, trials=[], trial=trial)
        assert capsys.readouterr().err == "not used: far (10.0.0.9): torch 9.9 there\n"
        assert room.excluded == ["ab12"]
        assert course.num_running == len(first) - 2  # or a cluster with room for one would wait for ever
        assert ready(course) == ["t0001", "t0000"]
        assert course.num_running == len(first)
        assert course.journal.trials["t0001"].state is None

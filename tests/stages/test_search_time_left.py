"""Claims about the time that a search says it has left."""

import pytest
from support.search_printing import Search, by_epochs

from pipeline.tune.journal.records import COMPLETE, PRUNED


def test_time_left_is_unknown_before_the_second_epoch(search: Search) -> None:
    assert search.progress.seconds_left() is None
    search.start("t0000")
    assert search.progress.seconds_left() is None
    search.epoch("t0000", takes=60)
    assert search.progress.seconds_left() is None


def test_time_left_is_judged_by_the_pace_since_the_first_epoch(search: Search) -> None:
    search.start("t0000")
    search.epoch("t0000", takes=1000)  # workers import, and read the data
    for _ in range(4):
        search.epoch("t0000", takes=2)
    # Five of this trial's epochs and thirty of three others are left, at two seconds each.
    assert search.progress.seconds_left() == pytest.approx(70)


def test_time_left_is_told_in_minutes_and_seconds(search: Search) -> None:
    search.start("t0000")
    for _ in range(3):
        search.epoch("t0000", takes=10.25)
    # Seven epochs of this trial and thirty of others, at ten and a quarter seconds.
    assert search.said[-1].startswith("about 6:19 left | ")


def test_time_left_knows_that_trials_run_side_by_side(search: Search) -> None:
    search.start("t0000")
    search.start("t0001")
    for _ in range(5):
        search.epoch("t0000", takes=2)
        search.epoch("t0001")
    # Nine epochs were trained in the eight seconds since the first.
    assert search.progress.seconds_left() == pytest.approx((5 + 5 + 20) * 8 / 9)


def test_time_left_learns_from_trials_that_were_stopped(search: Search) -> None:
    search.start("t0000")
    for _ in range(10):
        search.epoch("t0000", takes=1)
    search.end("t0000", COMPLETE)
    search.start("t0001")
    for _ in range(4):
        search.epoch("t0001", takes=1)
    search.end("t0001", PRUNED)
    # Trials are now taken to be seven epochs long, and two are left.
    assert search.progress.seconds_left() == pytest.approx(14)


def test_time_left_is_that_of_the_epochs_that_are_left() -> None:
    search = by_epochs()
    search.start("t0000", epochs=1)
    search.epoch("t0000", takes=3)
    search.pause("t0000")
    assert search.progress.seconds_left() == pytest.approx(38 * 3)
    search.start("t0001")
    for _ in range(4):
        search.epoch("t0001", takes=3)
    assert search.progress.seconds_left() == pytest.approx(34 * 3)
    # What runs, and one confirmation, take less than is left.
    search.progress.ending_early("search.budget.full_trainings: spent", running=1, left=1)
    assert search.progress.seconds_left() == pytest.approx((6 + 10) * 3)


def test_time_so_far_and_what_is_expected_stand_first_until_the_pace_is_known() -> None:
    search = Search(budget=40, expected="3 to 7 minutes")
    search.now = 83.0
    assert str(search.progress).startswith("1:23 so far, 3 to 7 minutes expected | 0 of 40 epochs")
    search.progress.replayed()
    search.start("t0000", epochs=1)
    search.epoch("t0000", takes=2)
    assert str(search.progress).startswith("about 1:16 left | 2 of 40 epochs")


def test_runs_that_are_used_again_do_not_quicken_the_pace() -> None:
    earlier = Search()
    earlier.start("t0000-seed1001", epochs=10)
    earlier.end("t0000-seed1001", COMPLETE)
    search = Search(budget=60, journaled=earlier.trials.values())
    search.progress.replayed()
    search.start("t0001", epochs=1)
    for _ in range(9):
        search.epoch("t0001", takes=2)
    assert search.progress.seconds_left() == pytest.approx(50 * 2)
    search.progress.trial_started(earlier.trials["t0000-seed1001"])
    assert search.progress.seconds_left() == pytest.approx(40 * 2)


def test_time_left_without_a_budget_takes_paused_trials_for_ended() -> None:
    search = Search()
    search.progress.replayed()
    search.start("t0000")
    for _ in range(4):
        search.epoch("t0000", takes=2)
    search.pause("t0000")
    # Three trials are left, of four epochs each as far as is known; the first of these seconds count.
    assert search.progress.seconds_left() == pytest.approx(3 * 4 * 6 / 3)


def test_time_left_is_0_when_every_trial_has_ended() -> None:
    search = Search(total=1, epochs=3)
    search.progress.replayed()
    search.start("t0000")
    for _ in range(3):
        search.epoch("t0000", takes=1)
    search.end("t0000", COMPLETE)
    assert search.progress.seconds_left() == 0

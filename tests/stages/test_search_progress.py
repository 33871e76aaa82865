"""Claims about what a search says while it runs, on a console that only keeps what is printed."""

import io
from typing import Any

import pytest
from rich.console import Console
from support.search_printing import Search, by_epochs

from pipeline.stages.search.search_progress import SearchProgress
from pipeline.tune.journal.records import COMPLETE, FAILED, PRUNED


def test_fresh_search_says_nothing_at_first(search: Search) -> None:
    search.start("baseline")
    search.start("t0000")
    assert search.said == []


def test_search_that_is_asked_to_finish_says_so_and_counts_to_what_is_to_come(search: Search) -> None:
    search.start("baseline", epochs=10)
    search.start("t0000", epochs=1)
    search.progress.ending_early("sar-search stop --finish", running=2, left=1)
    assert search.said == [
        "ending early: sar-search stop --finish. 2 runs go on to the end, or to a pause. Then the best are confirmed: "
        "1 run at most."
    ]
    search.end("baseline", COMPLETE)
    assert search.said[1].startswith("[1 of 3 runs] baseline")


def test_trial_that_ran_in_full_gets_a_line_with_its_value_and_setting(search: Search) -> None:
    search.start(
        "t0000", {"regularizer.spatial_entropy.weight": 0.0123456, "regularizer.spatial_entropy.layers": "all"}
    )
    for accuracy in (0.25, 0.9375):
        search.epoch("t0000", accuracy)
    search.end("t0000", COMPLETE)
    assert search.said == ["[1 of 4 runs] t0000     val/accuracy 0.9375  ran in full  weight=0.0123 layers=all"]


def test_trial_that_was_stopped_gets_a_line_with_its_last_epoch(search: Search) -> None:
    search.start("baseline", epochs=10)
    search.end("baseline", COMPLETE)
    search.start("t0000", epochs=4)
    search.end("t0000", PRUNED)
    assert search.said[1] == "[2 of 4 runs] t0000     val/accuracy 0.5000  stopped early, after epoch 4  lr=0.1"


def test_trial_that_failed_gets_a_line_with_the_end_of_the_reason(search: Search) -> None:
    search.start("t0000")
    search.end("t0000", FAILED, "Traceback of many lines\nOutOfMemoryError: 3 GiB\n")
    (line,) = search.said
    assert line.startswith("[1 of 4 runs] t0000     val/accuracy -  failed: ")
    assert "OutOfMemoryError: 3 GiB" in line
    assert "Traceback" not in line


def test_trial_that_failed_without_a_reason_gets_a_line_all_the_same(search: Search) -> None:
    search.start("t0000", epochs=1)
    search.end("t0000", FAILED)
    assert search.said[0].startswith("[1 of 4 runs] t0000     val/accuracy 0.5000  failed: ")


def test_reason_is_told_as_it_is(search: Search) -> None:
    search.start("t0000")
    search.end("t0000", FAILED, "diverged: not finite in epoch 3")
    assert search.said == ["[1 of 4 runs] t0000     val/accuracy -  failed: diverged: not finite in epoch 3  lr=0.1"]


@pytest.mark.parametrize("reason", ["OSError: cannot read [/data/images]", "RuntimeError: [enforce fail] at alloc"])
def test_brackets_in_a_reason_are_told_as_they_are(search: Search, reason: str) -> None:
    search.start("t0000")
    search.end("t0000", FAILED, reason)
    assert reason in search.said[0]


def test_log_gets_the_state_of_the_search_every_half_minute_and_no_more(search: Search) -> None:
    search.start("t0000")
    search.epoch("t0000", takes=29)
    assert search.said == []
    search.epoch("t0000", takes=2)
    assert len(search.said) == 1
    assert search.said[0].startswith("about 1:16 left | 2 of at most 40 epochs | 1 trial: 1 running")
    search.epoch("t0000", takes=20)
    assert len(search.said) == 1
    search.epoch("t0000", takes=20)
    assert len(search.said) == 2


def test_line_of_a_trial_stands_for_a_sign_of_life(search: Search) -> None:
    search.start("t0000", epochs=1)
    search.start("t0001")
    search.now += 29
    search.end("t0000", COMPLETE)
    search.epoch("t0001", takes=29)
    assert len(search.said) == 1


def test_state_of_the_search_counts_ends_and_names_the_best_tried(search: Search) -> None:
    search.start("baseline")
    search.epoch("baseline", 0.99)
    search.end("baseline", COMPLETE)
    search.start("t0000")
    search.epoch("t0000", 0.75)
    search.end("t0000", COMPLETE)
    search.start("t0001")
    search.epoch("t0001", 0.875)
    search.end("t0001", PRUNED)
    search.start("t0002")
    search.epoch("t0002", takes=31)
    state = search.said[-1]
    assert state.startswith(
        "about 0:00 left | 4 of at most 13 epochs | 3 trials: 1 in full, 1 stopped early, 1 running | 1 control: 1 in full"
    )
    assert "| best so far 0.7500 (t0000)" in state


def test_search_with_a_budget_counts_epochs_and_paused_trials() -> None:
    search = by_epochs()
    search.start("baseline", epochs=10)
    search.end("baseline", COMPLETE)
    for name in ("t0000", "t0001"):
        search.start(name, epochs=2)
        search.pause(name)
    search.start("t0002")
    search.epoch("t0002", takes=31)
    assert search.said[:2] == [
        "[10 of 40 epochs] baseline  val/accuracy 0.5000  ran in full  lr=0.1",
        "[12 of 40 epochs] t0000     val/accuracy 0.5000  paused after epoch 2  lr=0.1",
    ]
    assert search.said[-1] == (
        "about 0:55 left | 15 of 40 epochs | 3 trials: 2 paused, 1 running | 1 control: 1 in full"
    )


def test_trial_that_ends_while_it_is_paused_is_told_once() -> None:
    search = by_epochs()
    for name in ("t0000", "t0001"):
        search.start(name, epochs=2)
        search.pause(name)
    said = len(search.said)
    search.end("t0000", PRUNED)
    assert len(search.said) == said
    search.go_on("t0001")
    search.epoch("t0001")
    search.end("t0001", PRUNED)
    assert "t0001     val/accuracy 0.5000  stopped early, after epoch 3" in search.said[-1]


def test_epochs_that_are_trained_again_are_spent() -> None:
    search = by_epochs()
    search.start("t0000", epochs=2)
    search.trials["t0000"].repeated = 2
    search.pause("t0000")
    assert search.said[-1].startswith("[ 4 of 40 epochs] t0000")


def reserving(**further: Any) -> Search:
    """A search of 36 epochs, four a run: two controls have run, and up to five confirmations are planned."""
    search = Search(total=30, epochs=4, budget=36, confirmations=5, **further)
    search.progress.replayed()
    for name in ("baseline", "paper"):
        search.start(name, epochs=4)
        search.end(name, COMPLETE)
    search.start("t0000", epochs=2)
    search.pause("t0000")
    return search


SPENT = "search.budget.full_trainings: 10 of 36 epochs spent; the rest is needed"


def test_end_of_the_budget_says_what_is_spent_and_what_the_rest_is_reserved_for() -> None:
    search = reserving()
    search.start("t0001")
    search.progress.ending_early(SPENT, running=1, left=4)
    assert search.said[-1] == (
        "no further trials: 10 of 36 epochs are spent; 20 are reserved for confirmations (at most 5 runs of 4 epochs); "
        "6 are left for what runs now and for one trial to run in full. 1 run goes on to the end, or to a pause. 1 "
        "paused trial stays paused, but for the best, if no other runs in full. Then the best are confirmed: 4 runs at "
        "most."
    )


def test_end_of_the_budget_knows_that_a_trial_ran_in_full_and_how_many_confirmations_are_under_way() -> None:
    search = reserving()
    search.start("t0001", epochs=4)
    search.end("t0001", COMPLETE)
    search.start("baseline-seed1001", epochs=1)
    search.progress.ending_early(SPENT, running=0, left=3)
    assert search.said[-1] == (
        "no further trials: 15 of 36 epochs are spent; 19 are reserved for confirmations (at most 5 runs of 4 epochs); "
        "2 are too few for a further trial. 1 paused trial stays paused. Then the best are confirmed: 3 runs at most."
    )


def test_end_of_the_budget_without_confirmations_announces_none() -> None:
    search = Search(total=30, epochs=4, budget=12)
    search.progress.replayed()
    search.start("t0000", epochs=4)
    search.end("t0000", COMPLETE)
    search.progress.ending_early("search.budget.full_trainings: spent", running=0, left=0)
    assert search.said[-1] == ("no further trials: 4 of 12 epochs are spent; 8 are too few for a further trial.")


def test_limit_on_time_ends_the_search_early() -> None:
    search = reserving()
    search.progress.ending_early("search.budget.hours: spent", running=0, left=4)
    assert search.said[-1].startswith("ending early: search.budget.hours: spent. 1 paused trial stays paused, but ")


def test_names_of_all_runs_are_in_one_column() -> None:
    search = Search(total=30, budget=160, name_width=17)
    search.progress.replayed()
    for name in ("t0000", "baseline-seed1001"):
        search.start(name, epochs=10)
        search.end(name, COMPLETE)
    assert search.said == [
        "[ 10 of 160 epochs] t0000             val/accuracy 0.5000  ran in full  lr=0.1",
        "[ 20 of 160 epochs] baseline-seed1001 val/accuracy 0.5000  ran in full  lr=0.1",
    ]


def test_trials_controls_and_confirmations_are_counted_apart() -> None:
    search = reserving()
    search.start("baseline-seed1001")
    assert str(search.progress).endswith("| 1 trial: 1 paused | 2 controls: 2 in full | 1 confirmation: 1 running")


@pytest.mark.parametrize(("width", "bar", "best"), [(200, True, True), (110, False, True), (80, False, False)])
def test_narrow_terminal_keeps_the_time_left_and_loses_the_bar_then_the_best(width: int, bar: bool, best: bool) -> None:
    search = Search(budget=40, terminal=True, width=width)
    search.progress.replayed()
    search.start("t0000", epochs=1)
    for _ in range(9):
        search.epoch("t0000", takes=2)
    search.end("t0000", COMPLETE)
    search.start("baseline")
    with search.progress as line:
        assert line._live is not None
        line._live.refresh()
        shown = search.paper.getvalue()
    assert "about 1:00 left" in shown
    assert ("━" in shown) == bar
    assert ("best so far" in shown) == best
    assert "…" not in shown


def test_extended_search_says_what_its_earlier_confirmations_count_for_and_when_they_are_used_again() -> None:
    earlier = Search()
    for name in ("t0000", "t0000-seed1001", "t0001-seed1001"):
        earlier.start(name, epochs=10)
        earlier.end(name, COMPLETE)
    search = Search(budget=60, name_width=14, journaled=earlier.trials.values())
    search.start("t0000", epochs=10)
    search.end("t0000", COMPLETE)
    search.progress.replayed()
    assert search.said == [
        "2 confirmations of earlier sessions (20 epochs) will count only if their configurations are among the best at "
        "the end"
    ]
    search.progress.trial_started(earlier.trials["t0000-seed1001"])
    search.progress.trial_ended(earlier.trials["t0000-seed1001"])
    search.start("t0002-seed1001", epochs=10)
    search.end("t0002-seed1001", COMPLETE)
    assert search.said[1:] == [
        "[20 of 60 epochs] t0000-seed1001 val/accuracy 0.5000  ran in full in an earlier session, used again  lr=0.1",
        "[30 of 60 epochs] t0002-seed1001 val/accuracy 0.5000  ran in full  lr=0.1",
    ]


def resumed() -> Search:
    """A search of which the journal held a control that ran in full, a stopped trial and one that was running."""
    search = Search()
    search.start("baseline", epochs=10)
    search.end("baseline", COMPLETE)
    search.start("t0000", epochs=4)
    search.end("t0000", PRUNED)
    search.start("t0001", epochs=3)
    search.progress.replayed()
    return search


def test_resumed_search_says_nothing_that_was_said_before_or_that_the_plan_says() -> None:
    assert resumed().said == []


def test_resumed_search_counts_what_the_ledger_held_but_not_its_time() -> None:
    search = resumed()
    assert search.progress.seconds_left() is None
    search.epoch("t0001", takes=100)
    search.epoch("t0001", takes=3)
    # Trials were seven epochs long: two are left of this one and seven of the last, at three seconds each.
    assert search.progress.seconds_left() == pytest.approx(27)
    search.end("t0001", COMPLETE)
    assert search.said[-1].startswith("[3 of 4 runs] t0001 ")


def test_terminal_gets_the_lines_of_trials_above_the_state_of_the_search() -> None:
    search = Search(terminal=True)
    with search.progress:
        search.progress.replayed()
        search.start("t0000", epochs=1)
        search.end("t0000", COMPLETE)
        search.now += 100
        search.start("t0001", epochs=1)
    assert "[1 of 4 runs] t0000     val/accuracy 0.5000  ran in full" in search.paper.getvalue()
    assert "2 trials: 1 in full, 1 running" in search.paper.getvalue()


def test_search_of_a_fold_says_which_it_is() -> None:
    paper = io.StringIO()
    console = Console(file=paper, width=200, force_terminal=True, highlight=False, soft_wrap=True)
    progress = SearchProgress(4, 10, part="fold 2 of 5", console=console, clock=lambda: 0.0)
    assert str(progress) == "fold 2 of 5 | 0:00 so far | 0 of at most 40 epochs | no trial yet"
    assert str(SearchProgress(4, 10, console=console, clock=lambda: 0.0)).startswith("0:00 so far | ")

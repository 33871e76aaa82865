"""Claims about what is printed on the progress of long work, on a console that keeps it."""

import io
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from pipeline.cluster.storage import StorageError
from pipeline.console.progress import HEARTBEAT_S, CountProgress, Pace, ProgressLine, RunProgress


class Counted:
    """Two runs of 40 epochs together, by a clock that only goes when it is told to."""

    def __init__(self, *, terminal: bool = False, **words: str) -> None:
        self.now, self.done, self.paper = 1000.0, 0, io.StringIO()
        self.console = Console(file=self.paper, width=120, force_terminal=terminal, highlight=False)
        self.following = RunProgress(
            40, lambda: self.done, console=self.console, clock=lambda: self.now, look_s=3600, **words
        )

    def look(self, *, done: int, after: float = 0.0) -> None:
        self.now, self.done = self.now + after, done
        self.following.update()

    @property
    def said(self) -> list[str]:
        return self.paper.getvalue().splitlines()


def test_log_gets_a_line_a_heartbeat_with_the_time_that_is_left() -> None:
    runs = Counted(expected="about 4 min")
    with runs.following:
        runs.look(done=0, after=60)
        assert runs.said == ["1:00 so far, about 4 min expected | 0 of 40 epochs"]
        runs.look(done=2, after=5)
        assert len(runs.said) == 1
        runs.look(done=4, after=HEARTBEAT_S / 2 - 5)
        assert len(runs.said) == 1
        runs.look(done=8, after=HEARTBEAT_S / 2 + 5)
    # Six epochs in 30 seconds, since the first was seen: 32 more take 160.
    assert runs.said[1:] == ["about 2:40 left | 8 of 40 epochs"]


def test_runs_that_go_on_are_judged_by_what_they_train_now() -> None:
    runs = Counted()
    with runs.following:
        runs.look(done=30, after=60)
        runs.look(done=31, after=HEARTBEAT_S)
    assert runs.said[-1] == "about 4:30 left | 31 of 40 epochs"


def test_storage_that_does_not_answer_leaves_the_line_as_it_was() -> None:
    runs = Counted()

    def fail() -> int:
        raise StorageError("it does not answer")

    failing = RunProgress(40, fail, console=runs.console, clock=lambda: 0.0, look_s=3600)
    with failing:
        failing.update()
    assert runs.said == []


def test_line_in_a_terminal_goes_when_the_work_ends() -> None:
    runs = Counted(terminal=True)
    with runs.following:
        runs.look(done=2, after=60)
        _refresh(runs.following)
        assert "2 of 40 epochs" in runs.paper.getvalue()
    assert runs.paper.getvalue().endswith("\x1b[2K")


def test_thread_looks_by_itself_and_ends_with_the_work() -> None:
    looks: list[float] = []

    def count() -> int:
        looks.append(time.monotonic())
        return len(looks)

    following = RunProgress(40, count, console=Console(file=io.StringIO()), look_s=0.01)
    with following:
        _wait(lambda: len(looks) >= 3)
    seen = len(looks)
    time.sleep(0.05)
    assert len(looks) == seen


def _refresh(line: ProgressLine) -> None:
    assert line._live is not None
    line._live.refresh()


def _wait(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_log_gets_a_line_of_counted_work_now_and_then_and_none_of_short_work() -> None:
    said, now = io.StringIO(), [0.0]
    with CountProgress("preparing", console=Console(file=said), clock=lambda: now[0]) as progress:
        for at, done in ((1, 1000), (11, 2000), (12, 3000), (30, 60000)):
            now[0] = at
            progress(done, 60000)
    # 1,000 in the 10 seconds since the first were counted: 58,000 more take 580.
    assert said.getvalue().splitlines() == [
        "preparing: 2,000 of 60,000 | about 9:40 left",
        "preparing: 60,000 of 60,000",
    ]


@pytest.mark.parametrize("share", ["3 of 4", "━"])
def test_terminal_gets_a_bar_and_a_count_that_are_gone_at_the_end(share: str) -> None:
    said = io.StringIO()
    with CountProgress("preparing", console=Console(file=said, force_terminal=True, width=80)) as progress:
        progress(3, 4)
        _refresh(progress)
        assert share in said.getvalue()
    assert said.getvalue().endswith("\x1b[2K")


def test_narrow_terminal_cuts_the_line_and_never_wraps_it() -> None:
    said = io.StringIO()
    with CountProgress("preparing " * 9, console=Console(file=said, force_terminal=True, width=40)) as progress:
        progress(3, 4)
        _refresh(progress)
        shown = said.getvalue().splitlines()[-1]
    assert "preparing preparing" in shown
    assert "…" in shown
    assert "━" not in shown


def test_pace_is_unknown_until_something_was_done_since_the_first_count() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    assert pace.seconds_left(5, 10) is None
    pace.count(5)
    now[0] = 20.0
    assert pace.seconds_left(5, 10) is None
    assert pace.seconds_left(9, 10) == 50.0

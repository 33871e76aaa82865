"""Claims about what is said of runs whose epochs are counted from outside, on a console that keeps what is printed."""

import io
import time
from collections.abc import Callable

from rich.console import Console

from pipeline.cluster.storage import StorageError
from pipeline.console.run_progress import HEARTBEAT_S, RunProgress


class Counted:
    """Two runs of 40 epochs together, by a clock that only goes when it is told to."""

    def __init__(self, *, terminal: bool = False) -> None:
        self.now, self.done, self.paper = 1000.0, 0, io.StringIO()
        self.console = Console(file=self.paper, width=120, force_terminal=terminal, highlight=False)
        self.following = RunProgress(40, lambda: self.done, console=self.console, clock=lambda: self.now, look_s=3600)

    def look(self, *, done: int, after: float = 0.0) -> None:
        self.now, self.done = self.now + after, done
        self.following.update()

    @property
    def said(self) -> list[str]:
        return self.paper.getvalue().splitlines()


def test_log_gets_a_line_a_heartbeat_with_the_time_that_is_left() -> None:
    runs = Counted()
    with runs.following:
        runs.look(done=0, after=60)
        assert runs.said == []
        runs.look(done=2, after=5)
        assert runs.said == ["epoch 2 of 40"]
        runs.look(done=4, after=HEARTBEAT_S / 2)
        assert len(runs.said) == 1
        runs.look(done=8, after=HEARTBEAT_S / 2)
    # Six epochs in 30 seconds, since the first was seen: 32 more take 160.
    assert runs.said[1:] == ["epoch 8 of 40 | about 2:40 left"]


def test_runs_that_go_on_are_judged_by_what_they_train_now() -> None:
    runs = Counted()
    with runs.following:
        runs.look(done=30, after=60)
        runs.look(done=31, after=HEARTBEAT_S)
    assert runs.said[-1] == "epoch 31 of 40 | about 4:30 left"


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
        runs.following._live.refresh()
        assert "epoch 2 of 40" in runs.paper.getvalue()
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


def _wait(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)

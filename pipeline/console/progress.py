"""Progress of long work: one line that a terminal keeps up to date; in a log, the line now and then."""

import threading
import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.console.format import format_clock, format_time_left
from pipeline.errors import UserError

HEARTBEAT_S = 30.0
"""Seconds after which a log gets a line, so that silence is not mistaken for a process that hangs."""
LOOK_S = 5.0
"""Seconds between two counts of a `RunProgress`, each of which may be a request to a bucket for every run."""
BAR_WIDTH = 20
NARROW = 80
"""Columns of a terminal below which the bar is left out."""


class ProgressLine:
    """Progress of long work as one line. Use it as a context manager around the work.

    A terminal shows the line below what is printed, with a bar, and removes it at the end. If the terminal is too
    narrow for all of it, the bar is left out first, then the last parts. A log gets the line when `beat` is called and
    nothing has been printed for a heartbeat.

    Args:
        describe: returns the parts of the line, the most important first, from which it is put together.
        share: returns how much of the work is done, from 0 to 1; None where that is unknown, which leaves out the bar.
        expected: how long the work is expected to take, in words; empty if that is unknown.
        console: where it is printed; None for standard output.
        clock: returns the time in seconds.
        every_s: seconds between two lines in a log.
    """

    def __init__(
        self,
        describe: Callable[[], list[str]],
        share: Callable[[], float | None] = lambda: None,
        *,
        expected: str = "",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = HEARTBEAT_S,
    ) -> None:
        self._describe, self._share, self._clock, self._every_s = describe, share, clock, every_s
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._expected = expected
        self._began = self._last_printed = clock()

    def __str__(self) -> str:
        return " | ".join(self._describe())

    def _describe_time(self, left: float | None) -> str:
        """Returns the time left; while that is unknown, the time so far, and what is expected of all of it.

        Args:
            left: seconds left; None if they are unknown.
        """
        if left is not None:
            return format_time_left(left)
        so_far = f"{format_clock(self._clock() - self._began)} so far"
        return f"{so_far}, {self._expected} expected" if self._expected else so_far

    def _render(self) -> Text | Table:
        parts, room, share = self._describe(), self._console.width, self._share()
        text = Text(" | ".join(parts), no_wrap=True, overflow="ellipsis")
        if share is None or room < NARROW or text.cell_len + BAR_WIDTH + 1 > room:
            while len(parts) > 1 and text.cell_len > room:
                parts = parts[:-1]
                text = Text(" | ".join(parts), no_wrap=True, overflow="ellipsis")
            return text
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=BAR_WIDTH)
        grid.add_column(no_wrap=True)
        grid.add_row(ProgressBar(1.0, min(share, 1.0), width=BAR_WIDTH), text)
        return grid

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self._last_printed = self._clock()
        # A configuration or a reason may hold brackets, which are no markup.
        self._console.print(text, markup=False)

    def beat(self) -> None:
        """Prints the line in a log, if nothing has been printed for a heartbeat."""
        if not self._console.is_terminal and self._clock() - self._last_printed >= self._every_s:
            self.say(str(self))

    def __enter__(self) -> Self:
        self._began = self._last_printed = self._clock()
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()


class Pace:
    """Time left, by the pace since work was first counted.

    The first count excludes the time that workers spend on imports, and the work of an earlier, interrupted run.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first: tuple[float, float] | None = None

    def count(self, done: float) -> None:
        """Notes the amount of work done; later amounts are compared with that of the first call."""
        if self._first is None:
            self._first = self._clock(), done

    def seconds_left(self, done: float, left: float) -> float | None:
        """Returns the seconds that the rest takes; None before anything was done since the first count.

        Args:
            done: how much is done, in the unit of `count`.
            left: how much is left.
        """
        if self._first is None or done <= self._first[1]:
            return None
        began, before = self._first
        return left * (self._clock() - began) / (done - before)


class CountProgress(ProgressLine):
    """Progress of work on many equal things, such as files. Call it with how many are done, and of how many.

    Args:
        doing: the work, in words.
        console: where it is printed; None for standard output.
        clock: returns the time in seconds.
        every_s: seconds between two lines in a log.
    """

    def __init__(
        self,
        doing: str,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = HEARTBEAT_S / 3,
    ) -> None:
        super().__init__(self._parts, self._part_done, console=console, clock=clock, every_s=every_s)
        self._doing, self._done, self._total, self._pace = doing, 0, 0, Pace(clock)

    def __call__(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        self._pace.count(done)
        self.beat()

    def _parts(self) -> list[str]:
        if not self._total:
            return [self._doing]
        left = self._pace.seconds_left(self._done, self._total - self._done)
        return [f"{self._doing}: {self._done:,} of {self._total:,}", *([format_time_left(left)] if left else [])]

    def _part_done(self) -> float | None:
        return self._done / self._total if self._total else None


class RunProgress(ProgressLine):
    """Progress of training runs that report nothing themselves; a thread counts their epochs now and then.

    Args:
        planned: epochs of all runs together.
        trained: returns how many of them have been trained.
        expected: how long the work is expected to take, in words; empty if that is unknown.
        console: where it is printed; None for standard output.
        clock: returns the time in seconds.
        look_s: seconds between two counts.
    """

    def __init__(
        self,
        planned: int,
        trained: Callable[[], int],
        *,
        expected: str = "",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        look_s: float = LOOK_S,
    ) -> None:
        super().__init__(self._parts, self._part_done, expected=expected, console=console, clock=clock)
        self._planned, self._trained, self._look_s, self._done, self._pace = planned, trained, look_s, 0, Pace(clock)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="progress")

    def update(self) -> None:
        """Counts the epochs, and prints the line where one is due; storage that does not answer changes nothing."""
        try:
            self._done = self._trained()
        except (UserError, OSError):
            return  # the work reports it, if it lasts
        if self._done:
            self._pace.count(self._done)
        self.beat()

    def _parts(self) -> list[str]:
        left = self._pace.seconds_left(self._done, self._planned - self._done)
        return [self._describe_time(left), f"{self._done} of {self._planned} epochs"]

    def _part_done(self) -> float | None:
        return self._done / self._planned if self._planned else None

    def _follow(self) -> None:
        while not self._over.wait(self._look_s):
            self.update()

    def __enter__(self) -> Self:
        super().__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        super().__exit__()

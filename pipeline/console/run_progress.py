"""Progress of runs that report nothing themselves: their epochs are counted now and then, on a thread."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.errors import UserError

LOOK_S = 5.0
"""Between two looks, each of which may be a request to a bucket for every run."""
HEARTBEAT_S = 30.0
"""A log gets a line at least so often, so that nobody wonders whether the work still goes on."""


def format_time_left(seconds: float) -> str:
    """Time that is left, in words: `about 2:40 left`."""
    return f"about {int(seconds) // 60}:{int(seconds) % 60:02d} left"


class RunProgress:
    """A line that is kept up to date in a terminal; in a log, a line now and then. Use it around the work.

    planned: epochs of all runs together. trained: how many of them have been trained by now.
    """

    def __init__(
        self,
        planned: int,
        trained: Callable[[], int],
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        look_s: float = LOOK_S,
    ) -> None:
        self._planned, self._trained, self._clock, self._look_s = planned, trained, clock, look_s
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._done = 0
        self._first: tuple[float, int] | None = None
        self._last_printed = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="progress")
        self._live = Live(get_renderable=self._line, console=self._console, refresh_per_second=1, transient=True)

    def update(self) -> None:
        """Count, and in a log say what there is if nothing was said for a while."""
        try:
            self._done = self._trained()
        except (UserError, OSError):
            return  # the work will say so, if it lasts
        now = self._clock()
        if self._first is None and self._done:
            # What workers spend on imports before is no measure of how fast they train.
            self._first = now, self._done
        if not self._console.is_terminal and self._done and now - self._last_printed >= HEARTBEAT_S:
            self._last_printed = now
            self._console.print(self._line(), markup=False)

    def _line(self) -> Text:
        parts = [f"epoch {self._done} of {self._planned}"]
        began, before = self._first or (0.0, 0)
        if self._done > before:
            parts.append(
                format_time_left((self._planned - self._done) * (self._clock() - began) / (self._done - before))
            )
        return Text(" | ".join(parts), no_wrap=True, overflow="ellipsis")

    def _follow(self) -> None:
        while not self._over.wait(self._look_s):
            self.update()

    def __enter__(self) -> Self:
        self._last_printed = self._clock()
        if self._console.is_terminal:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._live.stop()

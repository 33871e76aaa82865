"""Progress of work on many files: a bar in a terminal, or, in a log, a line now and then."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

HEARTBEAT_S = 10.0


class ProgressBar:
    """Call it with how many are done and of how many. Use as a context manager around the work.

    In a log nothing is said of work that takes less than a heartbeat.
    """

    def __init__(
        self, doing: str, *, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._task = self._progress.add_task(doing, total=None)
        self._doing, self._clock, self._last_printed = doing, clock, clock()

    def __call__(self, done: int, total: int) -> None:
        if self._console.is_terminal:
            self._progress.update(self._task, completed=done, total=total)
        elif self._clock() - self._last_printed > HEARTBEAT_S:
            self._last_printed = self._clock()
            self._console.print(f"{self._doing}: {done:,} of {total:,}")

    def __enter__(self) -> Self:
        self._last_printed = self._clock()
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._progress.stop()

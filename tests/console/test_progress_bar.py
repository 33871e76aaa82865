"""Claims about the progress of work on many files."""

import io
from collections.abc import Callable

from rich.console import Console

from pipeline.console.progress_bar import ProgressBar


def clock(*times: float) -> Callable[[], float]:
    left = list(times)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_log_gets_a_line_now_and_then_and_none_of_short_work() -> None:
    said = io.StringIO()
    with ProgressBar("preparing", console=Console(file=said), clock=clock(0, 0, 1, 11, 11, 12, 30)) as bar:
        for done in (1000, 2000, 3000, 60000):
            bar(done, 60000)
    assert said.getvalue().splitlines() == ["preparing: 2,000 of 60,000", "preparing: 60,000 of 60,000"]


def test_terminal_gets_a_bar_that_is_gone_at_the_end() -> None:
    said = io.StringIO()
    with ProgressBar("preparing", console=Console(file=said, force_terminal=True, width=80)) as bar:
        bar(3, 4)
    assert "preparing" in said.getvalue()

"""Claims about how lines are fitted to a terminal."""

import pytest

from pipeline.console import format as format_module
from pipeline.console.format import fit_lines, format_clock


def test_long_lines_of_a_plan_are_wrapped_where_their_text_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = "search    one two three four five six\n          seven eight nine ten eleven\n              5  0.1\nno name"
    assert fit_lines(plan) == plan  # in a pipe
    monkeypatch.setattr(format_module, "_terminal_width", lambda: 30)
    assert fit_lines(plan).splitlines() == [
        "search    one two three four",
        "          five six",
        "          seven eight nine ten",
        "          eleven",
        "              5  0.1",
        "no name",
    ]
    assert fit_lines("a sentence that is too long for this terminal").splitlines() == [
        "a sentence that is too long",
        "for this terminal",
    ]


@pytest.mark.parametrize(("seconds", "shown"), [(0.0, "0:00"), (83.9, "1:23"), (3599.0, "59:59"), (3760.0, "1:02:40")])
def test_clock_shows_hours_from_one_on(seconds: float, shown: str) -> None:
    assert format_clock(seconds) == shown

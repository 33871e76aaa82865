"""Short names of configurations and of their values; shares as points and percents; sentences in lines."""

import textwrap
from collections import Counter
from collections.abc import Mapping
from typing import Any

SHORT = {"weight": "w", "threshold": "t"}
"""Parameters that come in every name."""


def config_name(values: Mapping[str, Any], *, short: bool = False) -> str:
    """A configuration as a name: `weight=0.012 layers=last`, or for a narrow list `w=0.012 layers=last`."""
    leaves = Counter(path.rpartition(".")[2] for path in values)
    words = []
    for path, value in values.items():
        parent, _, leaf = path.rpartition(".")
        # Two methods' weights are told apart by their methods.
        method = f"{parent.rpartition('.')[2]}." if leaves[leaf] > 1 else ""
        words.append(f"{method}{SHORT.get(leaf, leaf) if short else leaf}={format_value_short(value)}")
    return " ".join(words)


def format_value_short(value: Any) -> str:
    """A value as names show it, numbers with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def format_count(number: int, noun: str) -> str:
    """A number of things: `1 trial`, `1,200 trials`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def format_points(share: float, digits: int = 1, *, unit: bool = True) -> str:
    """A difference of two shares, with its sign: `+1.2 points`."""
    # Adding 0 turns the -0.0 that rounding may leave into 0.0.
    return f"{round(100 * share, digits) + 0.0:+.{digits}f}" + (" points" if unit else "")


def format_interval(low: float, high: float, digits: int = 1) -> str:
    """An interval of such differences: `interval -0.3 to +1.2 points`."""
    return f"interval {format_points(low, digits, unit=False)} to {format_points(high, digits)}"


def wrap_text(text: str, width: int = 100, *, name: str = "") -> str:
    """Sentences in lines of at most `width` characters, broken between words alone. name: stands before the first line,
    and the others are indented by it.
    """
    return textwrap.fill(
        text,
        width,
        initial_indent=name,
        subsequent_indent=" " * len(name),
        break_long_words=False,
        break_on_hyphens=False,
    )


def format_percent(share: float, digits: int = 1) -> str:
    """A share in percent: `12.3 %`."""
    return f"{100 * share:.{digits}f} %"

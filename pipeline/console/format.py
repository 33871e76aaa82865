"""Short names of configurations and of their values."""

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

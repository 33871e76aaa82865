"""What must hold of a search's events, however often it was broken off."""

from collections.abc import Sequence
from typing import Any


def check_none_is_set_back(events: Sequence[dict[str, Any]]) -> None:
    """No trial trained an epoch again of which it had a checkpoint."""
    reached: dict[str, int] = {}
    last: dict[str, int] = {}
    for event in events:
        if event["event"] == "epoch":
            name = event["trial"]
            assert event["epoch"] > reached.get(name, 0), f"{name} was set back behind its checkpoint"
            last[name] = event["epoch"]
        elif event["event"] == "checkpoint":
            reached[event["trial"]] = last[event["trial"]]

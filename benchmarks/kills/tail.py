"""Follows the journal of a search from outside, as it grows."""

import json
from pathlib import Path
from typing import Any


class Tail:
    """events: all lines so far, in order. The journal's file is looked for until there is one."""

    def __init__(self, searches: Path) -> None:
        self._searches, self._read, self.events = searches, 0, list[dict[str, Any]]()

    @property
    def path(self) -> Path | None:
        return next(iter(self._searches.glob("*/journal.jsonl")), None)

    def content(self) -> bytes:
        """The whole lines."""
        content = self.path.read_bytes() if self.path else b""
        return content[: content.rfind(b"\n") + 1]

    def update(self) -> "Tail":
        """Read what has been added."""
        if self.path:
            with self.path.open("rb") as file:
                file.seek(self._read)
                added = file.read()
            whole = added[: added.rfind(b"\n") + 1]
            self._read += len(whole)
            self.events += [json.loads(line) for line in whole.splitlines()]
        return self

    def count(self, kind: str, since: int = 0) -> int:
        """How many events of a kind there are after the first `since` ones of any kind."""
        return sum(event["event"] == kind for event in self.events[since:])

    def open_runs(self) -> set[str]:
        """Ids of what has been started and has not ended."""
        started = {event["trial"] for event in self.events if event["event"] == "started"}
        return started - {event["trial"] for event in self.events if event["event"] == "ended"}

    def confirming(self, since: int) -> bool:
        """Whether a run with a further seed has reported an epoch since."""
        return any(event["event"] == "epoch" and "-seed" in event["trial"] for event in self.events[since:])

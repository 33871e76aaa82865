"""Checks of whether a search may be resumed: compares the header of its journal with the current code and content."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Content
from pipeline.errors import UserError
from pipeline.tune.journal.records import Header, SearchHistory

SUPERSEDED = "superseded"
"""Name of a file in a search's state directory, which says that the user wants a new search of the same kind instead.
"""


NAMES = {
    **{"seed": "base.seed", "then": "search.choose.then", "metric": "evaluate.metric"},
    **{
        name: f"search.{name}" for name in ("sampler", "scheduler", "points", "warm_start", "objectives", "constraints")
    },
}
"""Parameters by their keys in the content of a fingerprint, where the two differ."""
HASHES = {"data": "the images", "split": "the split"}
"""What the hashes in that content stand for, by key."""


def check_same_code(history: SearchHistory, header: Header, folder: Path) -> None:
    """Raises an error if other code or library versions began the search, until its user accepts the change.

    Args:
        history: The search's history.
        header: Header that the current code would write.
        folder: The search's state directory, for messages.

    Raises:
        UserError: the code has changed; the message names the changes and how to decide.
    """
    changed = changed_code(history, header)
    if changed and any(trial.epochs for trial in history.trials.values()):
        raise UserError(
            f"the search in {folder} was begun by other code than this; changed since: {', '.join(changed)}.\n"
            "Trials from before and after may not be comparable. Decide by one of\n"
            "  sar-search check --resume-anyway    go on with it all the same\n"
            "  sar-search check --new              begin a new one, and keep the old one as it is"
        )


def changed_code(history: SearchHistory, header: Header) -> list[str]:
    """Returns the files and packages that differ from those that began the search, or that its user accepted last.

    Args:
        history: The search's history.
        header: Header that the current code would write.
    """
    known = history.accepted or history.header
    return [
        *_changed(known.get("code", {}), header.get("code", {}), "{0}"),
        *_changed(known.get("versions", {}), header.get("versions", {}), "{0} {1} -> {2}"),
    ]


def changed_content(before: Content, now: Content) -> list[str]:
    """Returns the differences between the fingerprint contents of two searches, by dotted path, with both
    values where short.

    A section that only one of them has, such as a parameter of the space, is named as a whole. Data and split are named
    without their hashes.

    Args:
        before: The earlier content.
        now: The current content.
    """
    hashes = [words for key, words in HASHES.items() if before.get(key) != now.get(key)]
    was, is_now = (
        {NAMES.get(key, key): value for key, value in content.items() if key not in HASHES} for content in (before, now)
    )
    return [*hashes, *_differing(was, is_now, "")]


def _changed(before: Mapping[str, str], now: Mapping[str, str], said: str) -> list[str]:
    """Returns the differences of two mappings, one text each.

    Args:
        before: The earlier mapping.
        now: The current mapping.
        said: Format of a difference, with the name, the earlier and the current value.
    """
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [said.format(name, _short(before.get(name, "none")), _short(now.get(name, "none"))) for name in names]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."


def _differing(before: Content, now: Content, prefix: str) -> Iterator[str]:
    """Yields the differences of two contents, one text each.

    Args:
        before: The earlier content.
        now: The current content.
        prefix: Dotted path of both contents, with a dot at its end; empty at the top.
    """
    for key in {**before, **now}:
        path, was, is_now = f"{prefix}{key}", before.get(key), now.get(key)
        if isinstance(was, Mapping) and isinstance(is_now, Mapping):
            yield from _differing(was, is_now, f"{path}.")
        elif key not in before and isinstance(is_now, Mapping):
            yield f"{path} is new"
        elif key not in now and isinstance(was, Mapping):
            yield f"{path} is gone"
        elif key not in before:
            yield f"{path} now {_short(is_now)}"
        elif key not in now:
            yield f"{path} no longer {_short(was)}"
        elif was != is_now:
            yield f"{path} {_short(was)} -> {_short(is_now)}"

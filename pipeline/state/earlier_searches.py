"""Searches that an earlier version began. They can be listed and removed, but not resumed."""

import json
from pathlib import Path

from pipeline.config import Content
from pipeline.provenance.fingerprint import fingerprint
from pipeline.tune.journal.records import JOURNAL

EARLIER_JOURNAL = "ledger.jsonl"
"""File name of the journal in the folder of such a search."""


def find_earlier(searches: Path) -> list[Path]:
    """Returns the folders of searches of an earlier version, the newest first.

    Args:
        searches: Folder that contains all searches.
    """
    written = {path.parent: path.stat().st_mtime for path in searches.glob(f"*/{EARLIER_JOURNAL}")}
    return sorted(filter(is_of_earlier_version, written), key=lambda folder: -written[folder])


def is_of_earlier_version(folder: Path) -> bool:
    """Returns whether a search's folder has only a journal of an earlier version."""
    return (folder / EARLIER_JOURNAL).exists() and not (folder / JOURNAL).exists()


def earlier_search_of(searches: Path, content: Content) -> Path | None:
    """Returns the folder of the newest earlier search with this content; None if there is none."""
    name = fingerprint(content)
    return next((folder for folder in find_earlier(searches) if _fingerprint_now(folder) == name), None)


def earlier_lock(folder: Path) -> Path:
    """Returns the file that an earlier version locks while it runs its search.

    Args:
        folder: Folder of the search.
    """
    return (folder / EARLIER_JOURNAL).with_suffix(".lock")


def _fingerprint_now(folder: Path) -> str | None:
    """Returns the fingerprint that such a search has today; None if its journal does not contain its content."""
    try:
        with (folder / EARLIER_JOURNAL).open("rb") as journal:
            return fingerprint(json.loads(journal.readline())["content"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None

"""Searches that an earlier version began: they can be listed and removed, and not gone on with."""

import json
from pathlib import Path

from pipeline.config import Content
from pipeline.provenance.fingerprint import fingerprint
from pipeline.tune.journal.records import JOURNAL

EARLIER_JOURNAL = "ledger.jsonl"
"""A journal's name in the folders of these searches."""


def find_earlier(searches: Path) -> list[Path]:
    """Their folders under `searches`, the newest first."""
    written = {path.parent: path.stat().st_mtime for path in searches.glob(f"*/{EARLIER_JOURNAL}")}
    return sorted(filter(is_of_earlier_version, written), key=lambda folder: -written[folder])


def is_of_earlier_version(folder: Path) -> bool:
    """Whether a search's folder has a journal of an earlier version alone."""
    return (folder / EARLIER_JOURNAL).exists() and not (folder / JOURNAL).exists()


def earlier_search_of(searches: Path, content: Content) -> Path | None:
    """The folder of the newest of them that this content decides, as its journal says; None if there is none."""
    name = fingerprint(content)
    return next((folder for folder in find_earlier(searches) if _fingerprint_now(folder) == name), None)


def earlier_lock(folder: Path) -> Path:
    """The file that the version that began a search locks while it runs it."""
    return (folder / EARLIER_JOURNAL).with_suffix(".lock")


def _fingerprint_now(folder: Path) -> str | None:
    """What the fingerprint of such a search is today; None where its journal does not say what decides it."""
    try:
        with (folder / EARLIER_JOURNAL).open("rb") as journal:
            return fingerprint(json.loads(journal.readline())["content"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None

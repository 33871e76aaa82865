"""Hashes of the source files that decide the result of a trial."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pipeline

DECIDING_ROOMS = (
    *("data/augment", "data/batches", "data/prepared"),
    *("compute", "models", "regularizers", "train", "tune", "assembly.py", "config"),
)
"""The code that decides a trial's result, given the data and the split, which have hashes of their own."""


NONE: Mapping[str, str] = MappingProxyType({})


def content_hash(content: Any) -> str:
    """SHA-256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def code_hash(plugins: Mapping[str, str] = NONE) -> str:
    """SHA-256 over the source files that decide a trial's result. plugins: as of `code_hashes`."""
    return content_hash(code_hashes(plugins))


def code_hashes(plugins: Mapping[str, str] = NONE) -> dict[str, str]:
    """Twelve hex digits of the SHA-256 of each source file that decides a trial's result, by its path.

    plugins: what users' own methods add to them, as `pipeline.regularizers.plugin.plugin_hashes` gives it.
    """
    root = Path(pipeline.__file__).parent
    entries = [root / name for name in DECIDING_ROOMS]
    files = [path for entry in entries for path in (sorted(entry.rglob("*.py")) if entry.is_dir() else [entry])]
    own = {
        path.relative_to(root.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in files
    }
    return own | dict(plugins)

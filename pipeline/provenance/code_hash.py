"""Hashes of the source files that decide the result of a trial."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pipeline

HASHED_CODE = (
    *("compute", "assembly.py", "config", "models", "regularizers", "train", "tune"),
    *("data/augment", "data/batches", "data/prepared"),
    *("score/locate.py", "score/maps.py", "score/overlap.py"),
)
"""The code that decides a trial's result, given the data and the split, which have hashes of their own."""

UNHASHED_CODE = (
    *("tune/journal", "tune/table_cells.py", "tune/selection/result_files.py", "tune/selection/summary.py"),
    "tune/ray/placement.py",
)
"""What of these rooms decides no result: how a journal is kept, the tables that are written, where trials run."""

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
    left_out = tuple(root / name for name in UNHASHED_CODE)
    own = {
        path.relative_to(root.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for name in HASHED_CODE
        for path in (sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name])
        if not any(path.is_relative_to(entry) for entry in left_out)
    }
    return own | dict(plugins)

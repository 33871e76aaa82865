"""Hashes of source files: of those that decide the result of a trial, and of all."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pipeline
from pipeline.files.file_stats import hash_file

HASHED_CODE = (
    *("compute", "assembly.py", "config", "models", "regularizers", "train", "tune"),
    *("data/augment", "data/batches", "data/prepared"),
    *("score/latency.py", "score/locate.py", "score/maps.py", "score/overlap.py", "score/similarity_maps.py"),
    *("score/metrics/chosen_metric.py", "score/metrics/jackknife.py", "score/metrics/metric.py"),
    *("score/classify.py", "score/metrics/user_metric.py", "score/pooled_error.py"),
)
"""The code that decides a trial's result, given the data and the split, which have hashes of their own."""

UNHASHED_CODE = (
    *("tune/journal", "tune/table_cells.py", "tune/selection/result_files.py", "tune/selection/summary.py"),
    *("compute/gpu_usage.py", "compute/host_usage.py", "compute/usage_summary.py", "train/usage.py"),
    *("tune/ray/placement.py", "regularizers/attached.py"),
)
"""Code in these rooms that decides no result: the journal, tables, measurements of the machine's use, the placement
of trials, training loops of the user's own.
"""

ROOT = Path(pipeline.__file__).parent

NONE: Mapping[str, str] = MappingProxyType({})


def content_hash(content: Any) -> str:
    """Returns the SHA-256 of a JSON-compatible value, in hexadecimal.

    Args:
        content: The value.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def code_hash(plugins: Mapping[str, str] = NONE) -> str:
    """Returns the SHA-256 over the source files that decide a trial's result.

    Args:
        plugins: Hashes of users' own methods, as in `code_hashes`.
    """
    return content_hash(code_hashes(plugins))


def code_hashes(plugins: Mapping[str, str] = NONE) -> dict[str, str]:
    """Returns 12 hex digits of the SHA-256 of each source file that decides a trial's result, by its path.

    Args:
        plugins: Hashes of users' own methods, which are added (`pipeline.regularizers.plugin.plugin_hashes`).
    """
    root = Path(pipeline.__file__).parent
    left_out = tuple(root / name for name in UNHASHED_CODE)
    files = source_files(root, HASHED_CODE)
    own = (path for path in files if not any(path.is_relative_to(entry) for entry in left_out))
    return _hashes(root.parent, own) | dict(plugins)


def code_digest(root: Path = ROOT) -> str:
    """Returns 12 hex digits of the SHA-256 over all Python files below a folder, including their names.

    Args:
        root: The folder.
    """
    return content_hash(_hashes(root, source_files(root)))[:12]


def source_files(root: Path = ROOT, entries: Iterable[str] = (".",)) -> Iterator[Path]:
    """Yields the Python files of a folder, in an order that does not depend on the machine.

    Args:
        root: The folder.
        entries: Files and folders to include, as paths relative to `root`.
    """
    for path in (root / entry for entry in entries):
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _hashes(root: Path, files: Iterable[Path]) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): hash_file(path)[:12] for path in files}

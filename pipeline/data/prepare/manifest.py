"""Manifest of a prepared set: counts, classes, hashes, origin, versions, and remarks about files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from pipeline.data.decode.masks import ADVICE
from pipeline.data.prepared.prepared import FORMAT, Manifest, OddFiles
from pipeline.data.sources.image_source import ImageSource, UnreadableFile

LIBRARIES = ("numpy", "pillow", "torchvision", "scikit-learn")
"""Packages that pixels and labels depend on."""
NAMED = 20
"""Files that the manifest names for each remark."""


def count_remarks(found: dict[str, OddFiles], remarks: Sequence[tuple[str, str]]) -> None:
    """Counts remarks about files by kind.

    Args:
        found: Files with each remark, which is changed.
        remarks: Remark and file name.
    """
    for kind, name in remarks:
        if kind not in found:
            found[kind] = {"files": 0, "first": []}
            if kind in ADVICE:
                found[kind]["advice"] = ADVICE[kind]
        entry = found[kind]
        entry["files"] += 1
        if len(entry["first"]) < NAMED:
            entry["first"].append(name)


def make_manifest(
    source: ImageSource,
    keep: NDArray[np.bool_],
    broken: Sequence[UnreadableFile],
    hashes: Mapping[str, str],
    remarks: Mapping[str, OddFiles],
) -> Manifest:
    """Returns the manifest of the rows of a source that go into the prepared set.

    Args:
        source: The source.
        keep: Which rows go into the set, (N,).
        broken: Files that cannot be used, with their reasons.
        hashes: Hash of each array, by its name.
        remarks: Files with each remark.
    """
    counts = np.bincount(source.labels[keep], minlength=len(source.classes))
    height, width, channels = source.shape
    identity = json.dumps([hashes, list(source.classes)], sort_keys=True)
    manifest: Manifest = {
        "format": FORMAT,
        "dataset": source.name,
        "origin": source.origin,
        "licence": source.licence,
        "images": int(keep.sum()),
        "image_size": [height, width],
        "channels": channels,
        "classes": list(source.classes),
        "counts": {name: int(count) for name, count in zip(source.classes, counts, strict=True)},
        "has_masks": source.has_masks,
        "encoded": source.encoded,
        "sha256": dict(hashes),
        "data_hash": hashlib.sha256(identity.encode()).hexdigest(),
        "versions": {name: found for name in LIBRARIES if (found := _version(name))},
    }
    if source.test is not None:
        manifest["test_images"] = int(source.test[keep].sum())
    manifest = {**manifest, **source.details}
    if broken:
        manifest["skipped"] = {file.name: file.reason for file in broken}
    if remarks:
        manifest["remarks"] = dict(sorted(remarks.items()))
    return manifest


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

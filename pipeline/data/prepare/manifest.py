"""Manifest of a prepared set: counts, classes, hashes, origin, versions, and remarks about files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from pipeline.data.prepared.prepared import FORMAT, Manifest, OddFiles
from pipeline.data.sources.image_source import ImageSource, UnreadableFile

LIBRARIES = ("numpy", "pillow", "torchvision", "scikit-learn")
"""Packages that pixels and labels depend on."""
NAMED = 20
"""Files that the manifest names for each remark."""


@dataclass
class Warnings:
    """Remarks about files, by kind.

    Attributes:
        counts: Number of files with each remark.
        first: Names of the first files with each remark.
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)

    def add(self, remarks: Sequence[tuple[str, str]]) -> None:
        """Counts remarks.

        Args:
            remarks: Remark and file name.
        """
        for kind, name in remarks:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            names = self.first.setdefault(kind, [])
            if len(names) < NAMED:
                names.append(name)

    def entries(self) -> Mapping[str, OddFiles]:
        """Returns the remarks in the form of the manifest."""
        return {kind: {"files": self.counts[kind], "first": self.first[kind]} for kind in sorted(self.counts)}

    @classmethod
    def of(cls, entries: Mapping[str, OddFiles]) -> "Warnings":
        """Returns the remarks that such entries describe."""
        return cls(
            {kind: int(found["files"]) for kind, found in entries.items()},
            {kind: [str(name) for name in found["first"]] for kind, found in entries.items()},
        )


def make_manifest(
    source: ImageSource,
    keep: NDArray[np.bool_],
    broken: Sequence[UnreadableFile],
    hashes: Mapping[str, str],
    remarks: Warnings,
) -> Manifest:
    """Returns the manifest of the rows of a source that go into the prepared set.

    Args:
        source: The source.
        keep: Which rows go into the set, (N,).
        broken: Files that cannot be used, with their reasons.
        hashes: Hash of each array, by its name.
        remarks: Remarks about files.
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
    if remarks.counts:
        manifest["remarks"] = remarks.entries()
    return manifest


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

"""What a prepared set says of itself: counts, classes, hashes, origin, versions, and what was odd in its files."""

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
"""Those that pixels and labels come through."""
NAMED = 20


@dataclass
class Warnings:
    """What was odd, by kind: of how many files, and the names of the first."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)

    def add(self, remarks: Sequence[tuple[str, str]]) -> None:
        for kind, name in remarks:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            names = self.first.setdefault(kind, [])
            if len(names) < NAMED:
                names.append(name)

    def entries(self) -> Mapping[str, OddFiles]:
        """As the manifest has them."""
        return {kind: {"files": self.counts[kind], "first": self.first[kind]} for kind in sorted(self.counts)}

    @classmethod
    def of(cls, entries: Mapping[str, OddFiles]) -> "Warnings":
        """From such entries again."""
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
    """The manifest of the rows that are kept (N,). hashes: of each array, by its name."""
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

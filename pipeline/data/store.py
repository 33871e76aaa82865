"""The prepared form of an image set: a folder of arrays that numpy alone can read, and a manifest.

    images.npy     (N, H, W, C) uint8
    labels.npy     (N,) int64
    masks.npy      (N, H, W) uint8: 0 background, 1 object, 255 undecided; only for sets that have masks
    manifest.json  counts, classes, hashes, origin

The arrays are opened memory-mapped, so that the trials of a node share one copy in the page cache.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.sources import Source
from pipeline.errors import UserError

FORMAT = 1


@dataclass(frozen=True)
class Prepared:
    """An opened prepared set. images (N, H, W, C) uint8, labels (N,) int64, masks (N, H, W) uint8 or None."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: NDArray[np.uint8] | None
    manifest: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.manifest["classes"])

    @property
    def data_hash(self) -> str:
        """Hash over the content of every array and the class names; names the data everywhere."""
        return str(self.manifest["data_hash"])

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return int(self.images.shape[1]), int(self.images.shape[2])

    @property
    def channels(self) -> int:
        return int(self.images.shape[3])


def write_prepared(source: Source, folder: Path) -> dict[str, Any]:
    """Write a source in prepared form, whole or not at all, and return its manifest.

    Raises:
        UserError: the folder cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {"images": source.images, "labels": source.labels}
    if source.masks is not None:
        arrays["masks"] = source.masks
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        hashes = {}
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array)
            hashes[name] = _file_hash(partial / f"{name}.npy")
        manifest = _manifest(source, hashes)
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except OSError as error:
        raise UserError(f"{folder}: the prepared data cannot be written: {error.strerror or error}") from None
    return manifest


def open_prepared(folder: Path) -> Prepared:
    """Open a prepared set, memory-mapped.

    Raises:
        UserError: it is not there, incomplete, or of another format version.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            raise UserError(f"{folder}: prepared by another version (format {manifest['format']}); run `dvc repro`.")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in manifest["sha256"]}
        images, labels = arrays["images"], arrays["labels"]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: not there. Run `dvc repro prepare` first.") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: not a prepared set ({error}). Run `dvc repro --force prepare`.") from None
    return Prepared(images, labels, arrays.get("masks"), manifest)


def _manifest(source: Source, hashes: Mapping[str, str]) -> dict[str, Any]:
    counts = np.bincount(source.labels, minlength=len(source.classes))
    _, height, width, channels = source.images.shape
    identity = json.dumps([dict(hashes), list(source.classes)], sort_keys=True)
    return {
        "format": FORMAT,
        "dataset": source.name,
        "origin": source.origin,
        "licence": source.licence,
        "images": len(source.images),
        "image_size": [height, width],
        "channels": channels,
        "classes": list(source.classes),
        "counts": {name: int(count) for name, count in zip(source.classes, counts, strict=True)},
        "has_masks": source.masks is not None,
        "sha256": dict(hashes),
        "data_hash": hashlib.sha256(identity.encode()).hexdigest(),
    }


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

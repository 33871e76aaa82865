"""The prepared form of an image set: a folder of arrays that numpy alone can read, and a manifest.

    images.npy     (N, H, W, C) uint8
    labels.npy     (N,) int64
    masks.npy      (N, H, W) uint8: 0 background, 1 object, 255 undecided; only for sets that have masks
    test.npy       (N,) bool: the set's own test split; only for sets that have one
    files.json     the pictures' file names, by row; only for sets that were files
    manifest.json  counts, classes, hashes, origin

A set that is too large for arrays (prepare.array_limit_gb) has, in place of images.npy and of masks.npy, all encoded
files one after another and where each of them is; see `pipeline.data.prepared.encoded`:

    images.bin     JPEGs of H x W pixels; masks.bin: PNGs
    images.index.npy, masks.index.npy  (N, 2) int64: begin and length in bytes

`pipeline.data.prepare.writer` writes it. The arrays are opened memory-mapped, so that the trials of a node share one
copy in the page cache.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.prepared.encoded import EncodedRows, ImageRows
from pipeline.errors import UserError, single_item_command

FORMAT = 1
UNDECIDED = 255
"""Of a mask's pixels: nobody has said, or knows, what is there."""


@dataclass(frozen=True)
class Prepared:
    """An opened prepared set.

    images (N, H, W, C) uint8, labels (N,) int64, masks (N, H, W) uint8 or None, test (N,) bool: the set's own test
    split, or None. Images and masks are arrays, or decoded when they are indexed by rows.
    """

    images: ImageRows
    labels: NDArray[np.int64]
    masks: ImageRows | None
    manifest: Mapping[str, Any]
    test: NDArray[np.bool_] | None = None

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


def open_prepared(folder: Path) -> Prepared:
    """Open a prepared set, memory-mapped.

    Raises:
        UserError: it is not there, incomplete, or of another format version.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            raise UserError(f"{folder}: prepared by another version (format {manifest['format']}); run `dvc repro`.")
        shapes = _encoded_shapes(manifest)
        arrays: dict[str, Any] = {
            name: EncodedRows(folder, name, shapes[name])
            if name in shapes
            else np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in manifest["sha256"]
        }
        images, labels = arrays["images"], arrays["labels"]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: not there. Run `dvc repro prepare` first.") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: not a prepared set ({error}). Run `{single_item_command('prepare')}`.") from None
    return Prepared(images, labels, arrays.get("masks"), manifest, arrays.get("test"))


def _encoded_shapes(manifest: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of each row of what is kept encoded."""
    if not manifest.get("encoded"):
        return {}
    height, width = (int(side) for side in manifest["image_size"])
    return {"images": (height, width, int(manifest["channels"])), "masks": (height, width)}

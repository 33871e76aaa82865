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
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from pipeline.data.prepared.encoded import EncodedRows, ImageRows
from pipeline.errors import UserError, single_item_command

FORMAT = 1
UNDECIDED = 255
"""Of a mask's pixels: nobody has said, or knows, what is there."""


class OddFiles(TypedDict):
    """How many files were odd in one way, and the names of the first."""

    files: int
    first: list[str]


class Details(TypedDict, total=False):
    """What only some sources have to say of themselves. original_labels: the set's own, by label. masks_from: what they
    were made of.
    """

    original_labels: list[int | str]
    bit_depth: int
    masks_from: str


class Manifest(Details, total=False):
    """manifest.json. counts: images by class. sha256: of each array, by its name. data_hash: over all of them and the
    class names. skipped: why files were left out, by name. remarks: what was odd, by kind.
    """

    format: int
    dataset: str
    origin: str
    licence: str
    images: int
    image_size: list[int]
    channels: int
    classes: list[str]
    counts: Mapping[str, int]
    has_masks: bool
    encoded: bool
    sha256: Mapping[str, str]
    data_hash: str
    versions: Mapping[str, str]
    test_images: int
    skipped: Mapping[str, str]
    remarks: Mapping[str, OddFiles]


@dataclass(frozen=True)
class Prepared:
    """An opened prepared set.

    images (N, H, W, C) uint8, labels (N,) int64, masks (N, H, W) uint8 or None, test (N,) bool: the set's own test
    split, or None. Images and masks are arrays, or decoded when they are indexed by rows.
    """

    images: ImageRows
    labels: NDArray[np.int64]
    masks: ImageRows | None
    manifest: Manifest
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
        manifest: Manifest = json.loads((folder / "manifest.json").read_text())
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


def _encoded_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """The shape of each row of what is kept encoded."""
    if not manifest.get("encoded"):
        return {}
    height, width = (int(side) for side in manifest["image_size"])
    return {"images": (height, width, int(manifest["channels"])), "masks": (height, width)}

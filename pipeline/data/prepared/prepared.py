"""The prepared form of an image set: a folder of arrays that numpy alone can read, and a manifest.

    images.npy     (N, H, W, C) uint8
    labels.npy     (N,) int64
    masks.npy      (N, H, W) uint8: 0 background, 1 object, 255 undecided; only for sets with masks
    test.npy       (N,) bool: the set's own test split; only for sets with one
    files.json     file names of the pictures, by row; only for sets of files
    manifest.json  counts, classes, hashes, origin

For a set that is too large for arrays (prepare.array_limit_gb), images.npy and masks.npy are replaced by
concatenated encoded files, with their positions; see `pipeline.data.prepared.encoded`:

    images.bin     JPEGs of H x W pixels; masks.bin: PNGs
    images.index.npy, masks.index.npy  (N, 2) int64: begin and length in bytes

`pipeline.data.prepare.writer` writes the set. The arrays are opened memory-mapped, so that the trials of a
node share one copy in the page cache.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from pipeline.data.prepared.encoded import EncodedRows, ImageRows
from pipeline.errors import UserError, single_item_command

FORMAT = 1
"""Version of the format."""
FILES_SHOWN = 10
"""Files that were left out that are named at most."""
NAMES_SHOWN = 3
"""Files with the same remark that are named at most."""
UNDECIDED = 255
"""Value of mask pixels of which it is unknown whether they are object or background."""


class OddFiles(TypedDict):
    """Files with the same remark.

    Attributes:
        files: Their number.
        first: Names of the first ones.
        advice: What the remark means, and what to do; missing if there is nothing to say.
    """

    files: int
    first: list[str]
    advice: NotRequired[str]


class Details(TypedDict, total=False):
    """Entries of the manifest that only some sources have.

    Attributes:
        original_labels: The set's own label, by label.
        bit_depth: Bits of the grey pictures of more than 8 bits.
        masks_from: Origin of the masks: "masks", "trimaps" or "boxes".
    """

    original_labels: list[int | str]
    bit_depth: int
    masks_from: str


class Manifest(Details, total=False):
    """Content of manifest.json.

    Attributes:
        format: Version of the format.
        dataset: Name in prepare.dataset.
        origin: Where the images come from, in words.
        licence: Licence of the images, in words.
        images: Number of images.
        image_size: [H, W] in pixels.
        channels: 1 or 3.
        classes: Names by label.
        counts: Images by class name.
        has_masks: Whether there are masks.
        encoded: Whether images and masks are stored as encoded files.
        sha256: Hash of each array, by its name.
        data_hash: Hash over all arrays and the class names.
        versions: Versions of the packages that decoded the images.
        test_images: Images in the set's own test split; missing if there is none.
        skipped: Reasons why files were left out, by name; missing if there are none.
        remarks: Files with remarks, by remark; missing if there are none.
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


def describe_oddities(manifest: Manifest) -> Iterator[str]:
    """Yields lines on what is odd about the files of a prepared set, with the names of some of them.

    Args:
        manifest: Manifest of the set.
    """
    originals = manifest.get("original_labels")
    if originals is not None and originals != list(range(len(originals))):
        some = ", ".join(map(str, originals[:5])) + ", ..." * (len(originals) > 5)
        yield f"labels: the set's own labels {some} are numbered 0 to {len(originals) - 1} here"
    for kind, found in manifest.get("remarks", {}).items():
        count, some = found["files"], ", ".join(found["first"][:NAMES_SHOWN])
        named = f"{count:,} file{'s' * (count != 1)} ({some}{', ...' * (count > NAMES_SHOWN)})"
        yield f"{kind}: {named}" + (f". {found['advice']} (docs/own-images/decoding.md)" if "advice" in found else "")
    for name, reason in list(manifest.get("skipped", {}).items())[:FILES_SHOWN]:
        yield f"left out: {name}: {reason}"


@dataclass(frozen=True)
class Prepared:
    """An opened prepared set.

    Attributes:
        images: (N, H, W, C) uint8, as an array, or decoded when rows are indexed.
        labels: (N,) int64.
        masks: (N, H, W) uint8 in the form of the images, or None.
        manifest: Content of manifest.json.
        test: Membership in the set's own test split, (N,) bool, or None if it has none.
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
        """Hash over the content of every array and the class names, which identifies the data in all later files."""
        return str(self.manifest["data_hash"])

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return int(self.images.shape[1]), int(self.images.shape[2])

    @property
    def channels(self) -> int:
        return int(self.images.shape[3])


def open_prepared(folder: Path) -> Prepared:
    """Opens a prepared set, memory-mapped.

    Args:
        folder: Folder of the set.

    Raises:
        UserError: If the set is missing, incomplete, or of another format version.
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
    """Returns the shape of a row of images and of masks if they are stored encoded; otherwise nothing."""
    if not manifest.get("encoded"):
        return {}
    height, width = (int(side) for side in manifest["image_size"])
    return {"images": (height, width, int(manifest["channels"])), "masks": (height, width)}

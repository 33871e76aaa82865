"""Sources of images, and a preview of their content before any picture is decoded.

`pipeline.data.sources.named_dataset` reads the named sets, `pipeline.data.prepare.reader` decodes pictures of
files, and `pipeline.data.prepare.writer` writes a source in prepared form.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.archive import Listing, format_names, list_root
from pipeline.data.decode.bit_depth import BitDepth
from pipeline.data.prepared.prepared import Details
from pipeline.data.sources.dataset_registry import DATASETS
from pipeline.data.sources.download import can_be_made
from pipeline.data.sources.image_folder import Layout, arrange, describe_doubtful
from pipeline.data.sources.named_dataset import read_catalogue
from pipeline.data.sources.source_config import DatasetNotFound, count_trainable
from pipeline.data.sources.source_config import Preview as Preview
from pipeline.data.sources.source_config import SourceConfig as SourceConfig
from pipeline.data.system_files import describe_system_files
from pipeline.errors import UserError


@dataclass(frozen=True)
class UnreadableFile:
    """A file that could not be decoded.

    Attributes:
        row: Row of the picture, or of the picture that the mask belongs to.
        is_mask: Whether the file is a mask.
        name: File name, in printable form.
        reason: Why it could not be decoded.
    """

    row: int
    is_mask: bool
    name: str
    reason: str


@dataclass(frozen=True)
class DecodedBatch:
    """Some rows of a source, decoded.

    If the source yields encoded files, these are in `image_files` and `mask_files`, and the arrays are empty.

    Attributes:
        done: Number of the source's files that have been read, up to and including this block.
        image_rows: Rows of the images, (n,).
        images: (n, H, W, C) uint8.
        image_sizes: (H, W) before resizing, 0 if unknown, (n, 2).
        mask_rows: Rows of the masks, (m,).
        masks: (m, H, W) uint8.
        mask_sizes: (H, W) before resizing, 0 if unknown, (m, 2).
        broken: Files that could not be decoded.
        image_files: Encoded images (n), or none.
        mask_files: Encoded masks (m), or none.
        remarks: Remark and file name.
        depths: Depth and file name of pictures of more than 8 bits a channel.
    """

    done: int
    image_rows: NDArray[np.int64]
    images: NDArray[np.uint8]
    image_sizes: NDArray[np.int32]
    mask_rows: NDArray[np.int64]
    masks: NDArray[np.uint8]
    mask_sizes: NDArray[np.int32]
    broken: tuple[UnreadableFile, ...] = ()
    image_files: tuple[bytes, ...] = ()
    mask_files: tuple[bytes, ...] = ()
    remarks: tuple[tuple[str, str], ...] = ()
    depths: tuple[tuple[BitDepth, str], ...] = ()


class ImageSource(Protocol):
    """Source of images that can be prepared. Rows and labels are available before anything is decoded.

    Attributes:
        name: Name in prepare.dataset.
        origin: Where the images come from, in words.
        licence: Licence of the images, in words.
        classes: Names by label.
        labels: (N,) int64.
        shape: (H, W, C) of an image.
        test: Membership in the set's own test split, (N,) bool, or None if it has none.
        has_masks: Whether there are masks.
        names: File names by row, or None if the set has no files.
        steps: Number of files to read.
        identity: Equal for two sources that yield the same blocks.
        encoded: Whether blocks hold encoded files of the squares instead of arrays.
        details: Further entries of the manifest: with masks, `masks_from`, which is "masks", "trimaps" or
            "boxes"; if prepare.bit_depth is set, `bit_depth`.
    """

    name: str
    origin: str
    licence: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    shape: tuple[int, int, int]
    test: NDArray[np.bool_] | None
    has_masks: bool
    names: tuple[str, ...] | None
    steps: int
    identity: str
    encoded: bool
    details: Details

    def read(self, start: int) -> Iterator[DecodedBatch]:
        """Yields the blocks after the first `start` files, which have been read before."""
        ...


@dataclass
class ArraySource:
    """A labelled image set in memory. Its other fields are those of `ImageSource`.

    Attributes:
        name: Name in prepare.dataset.
        images: (N, H, W, C) uint8.
        labels: (N,) int64 in 0 .. len(classes) - 1.
        masks: (N, H, W) uint8 with 0 background, 1 object, 255 undecided, or None.
        classes: Names by label.
        origin: Where the images come from, for the manifest.
        licence: Licence of the images, for the manifest.
        test: Membership in the set's own test split, (N,) bool, or None if it has none.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: NDArray[np.uint8] | None
    classes: tuple[str, ...]
    origin: str
    licence: str
    test: NDArray[np.bool_] | None = None
    names: tuple[str, ...] | None = field(default=None, init=False)
    encoded: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        _, height, width, channels = self.images.shape
        self.shape, self.steps, self.has_masks = (height, width, channels), len(self.images), self.masks is not None
        self.identity = f"{self.name}: {self.origin}"
        self.details: Details = {"masks_from": "masks"} if self.has_masks else {}

    def read(self, start: int) -> Iterator[DecodedBatch]:
        """Yields all remaining images in one block."""
        rows = np.arange(start, len(self.images), dtype=np.int64)
        unknown = np.zeros((len(rows), 2), dtype=np.int32)
        height, width, _ = self.shape
        masks = self.masks[start:] if self.masks is not None else np.zeros((0, height, width), dtype=np.uint8)
        yield DecodedBatch(
            done=len(self.images),
            image_rows=rows,
            images=self.images[start:],
            image_sizes=unknown,
            mask_rows=rows[: len(masks)],
            masks=masks,
            mask_sizes=unknown[: len(masks)],
        )


def read_digits(image_size: int) -> ArraySource:
    """Returns scikit-learn's 1,797 scanned digits (8 x 8, 17 grey levels), enlarged bilinearly, with masks of
    the ink.

    The ink is where the enlarged scan is above a quarter of full black. Thin strokes stay whole at this
    level, and the object covers about as much of the picture as the scan's non-blank pixels do (0.45 against
    0.51).

    Args:
        image_size: Side of the images in pixels.
    """
    from sklearn.datasets import load_digits  # takes a second to import, and only this source needs it

    bundle = load_digits()
    full_black = 16.0
    scans = np.asarray(bundle.images, dtype=np.float32) / full_black * 255.0
    images = np.stack([_enlarged(scan, image_size) for scan in scans])
    return ArraySource(
        name="digits",
        images=images[..., None],
        labels=np.asarray(bundle.target, dtype=np.int64),
        masks=(images > 63).astype(np.uint8),
        classes=tuple(str(digit) for digit in range(10)),
        origin="scikit-learn's copy of the UCI ML hand-written digits test set (Alpaydin and Kaynak, 1998)",
        licence="CC BY 4.0",
    )


def _enlarged(scan: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    resized = Image.fromarray(scan).resize((side, side), Image.Resampling.BILINEAR)
    enlarged: NDArray[np.uint8] = np.clip(np.rint(np.asarray(resized)), 0, 255).astype(np.uint8)
    return enlarged


DIGITS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
"""Number of images of each digit, given here because importing scikit-learn takes a second."""

SOURCES: dict[str, Callable[[int], ArraySource]] = {"digits": read_digits}
"""Readers of the sources that fit in memory; each takes the side of the prepared images in pixels."""


def preview_dataset(config: SourceConfig) -> Preview:
    """Returns the content of a source, determined from names alone.

    For a named set that is still to be downloaded, it is the registry's description of the set.

    Args:
        config: The user's description of the source.

    Raises:
        UserError: If the root is not given, missing, or not laid out as required.
    """
    if config.class_list is not None and config.dataset not in DATASETS:
        raise UserError(
            f"params.yaml: prepare.class_list: cannot be used with prepare.dataset: {config.dataset}; set it to null."
        )
    if config.dataset in SOURCES:
        if config.root is not None:
            raise UserError(
                f"params.yaml: prepare.root: cannot be used with prepare.dataset: {config.dataset}, which comes with a "
                "library; set it to null."
            )
        return Preview(
            images=sum(DIGITS),
            classes=tuple(str(digit) for digit in range(10)),
            channels=1,
            identity="digits",
            class_counts=DIGITS,
            masks=sum(DIGITS),
        )
    if config.dataset in DATASETS:
        return _preview_named(config)
    listing, layout = list_image_folder(config)
    return Preview(
        images=len(layout.names),
        classes=layout.classes,
        channels=3,
        test_images=int(layout.test.sum()) if layout.test is not None else None,
        identity=listing.identity,
        notes=(describe_system_files(listing.leftovers),) if listing.leftovers else (),
        class_counts=count_trainable(layout.labels, layout.test, layout.classes),
        masks=len(layout.masks),
        boxes=bool(layout.boxes),
        doubts=describe_doubtful(listing, layout),
    )


def _preview_named(config: SourceConfig) -> Preview:
    try:
        found = read_catalogue(config)
    except DatasetNotFound:
        if not can_be_made(config):
            raise
        known = DATASETS[config.dataset]
        names = tuple(f"class {number}" for number in range(known.classes))
        return Preview(known.images, names, 3, known.test_images)
    test = int(found.test.sum()) if found.test is not None else None
    counts = count_trainable(found.labels, found.test, found.classes)
    return Preview(
        images=len(found.names),
        classes=found.classes,
        channels=3,
        test_images=test,
        identity=found.identity,
        class_counts=counts,
        masks=len(found.masks),
        boxes=found.boxes is not None,
    )


def list_image_folder(config: SourceConfig) -> tuple[Listing, Layout]:
    """Returns listing and layout of the user's own pictures.

    Args:
        config: The user's description of the source.

    Raises:
        UserError: If the root is not given, missing, or not laid out as required.
    """
    if config.root is None:
        raise UserError(
            "params.yaml: prepare.root: is null, but prepare.dataset is image_folder. Set it to the folder or archive "
            "of your pictures."
        )
    listing = list_root(config.root, config.cache)
    return listing, arrange(listing, format_names(config.root_shown or str(config.root)))

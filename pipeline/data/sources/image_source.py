"""Sources of images: which there are, and what each will give, before any picture is decoded.

`pipeline.data.sources.named_dataset` knows the named sets, `pipeline.data.prepare.reader` decodes pictures of files,
and `pipeline.data.prepare.writer` writes a source in prepared form.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.archive import Listing, format_names, list_root
from pipeline.data.decode.bit_depth import BitDepth
from pipeline.data.prepared.prepared import Details
from pipeline.data.sources.dataset_registry import DATASETS
from pipeline.data.sources.download import can_be_made
from pipeline.data.sources.image_folder import Layout, arrange
from pipeline.data.sources.named_dataset import read_catalogue
from pipeline.data.sources.source_config import DatasetNotFound, count_trainable
from pipeline.data.sources.source_config import Preview as Preview
from pipeline.data.sources.source_config import SourceConfig as SourceConfig
from pipeline.data.system_files import describe_system_files
from pipeline.errors import UserError


@dataclass(frozen=True)
class UnreadableFile:
    """A file that could not be decoded. row: of the picture that it is, or is the mask of."""

    row: int
    is_mask: bool
    name: str
    reason: str


@dataclass(frozen=True)
class DecodedBatch:
    """Some rows of a source. done: files that have been read once this block is written, counted from the first.

    images: (n, H, W, C) uint8 at image_rows (n,). masks: (m, H, W) uint8 at mask_rows (m,). image_sizes (n, 2) and
    mask_sizes (m, 2): (H, W) before resizing, 0 where that is not known. Of a source that gives encoded files,
    image_files (n) and mask_files (m) are those, and the arrays are empty. remarks: what is odd, and of which file.
    depths: of pictures of more than 8 bits a channel, and of which file.
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
    """What can be prepared. Rows and labels are known before anything is decoded.

    shape: (H, W, C) of an image. labels: (N,) int64. test: (N,) bool for sets with a test split of their own, else
    None. names: of the files, by row, or None. steps: how many files there are to read. identity: equal for two sources
    that give the same blocks. encoded: whether blocks hold files of the squares, not arrays. details: further entries
    of the manifest, among them, where there are masks, `masks_from`: what they were made of, "masks", "trimaps" or
    "boxes"; and, where it was given, the `bit_depth` of grey pictures.
    """

    @property
    def name(self) -> str: ...
    @property
    def origin(self) -> str: ...
    @property
    def licence(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> NDArray[np.int64]: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def test(self) -> NDArray[np.bool_] | None: ...
    @property
    def has_masks(self) -> bool: ...
    @property
    def names(self) -> tuple[str, ...] | None: ...
    @property
    def steps(self) -> int: ...
    @property
    def identity(self) -> str: ...
    @property
    def encoded(self) -> bool: ...
    @property
    def details(self) -> Details: ...

    def read(self, start: int) -> Iterator[DecodedBatch]:
        """The blocks after the first `start` files, which have been read before."""
        ...


@dataclass(frozen=True)
class ArraySource:
    """A labelled image set in memory.

    images: (N, H, W, C) uint8. labels: (N,) int64 in 0 .. len(classes) - 1. masks: (N, H, W) uint8 with 0 background,
    1 object, 255 undecided, or None. classes: names by label. origin, licence: where it came from, for the manifest.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: NDArray[np.uint8] | None
    classes: tuple[str, ...]
    origin: str
    licence: str
    test: NDArray[np.bool_] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        _, height, width, channels = self.images.shape
        return height, width, channels

    @property
    def has_masks(self) -> bool:
        return self.masks is not None

    @property
    def names(self) -> None:
        return None

    @property
    def steps(self) -> int:
        return len(self.images)

    @property
    def identity(self) -> str:
        return f"{self.name}: {self.origin}"

    @property
    def encoded(self) -> bool:
        return False

    @property
    def details(self) -> Details:
        return {"masks_from": "masks"} if self.has_masks else {}

    def read(self, start: int) -> Iterator[DecodedBatch]:
        """All that is left, in one block."""
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
    """scikit-learn's 1,797 scanned digits (8 x 8, 17 grey levels), enlarged bilinearly; the ink is the mask.

    The ink is where the enlarged scan is above a quarter of full black: thin strokes stay whole there, and the object
    covers about as much of the picture as the scan's non-blank pixels do (0.45 against 0.51).
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
"""How many there are of each, known without scikit-learn, which takes a second to import."""

SOURCES: dict[str, Callable[[int], ArraySource]] = {"digits": read_digits}
"""Readers of the sources that fit in memory; each takes the side of the prepared images in pixels."""


def preview_dataset(config: SourceConfig) -> Preview:
    """What a source will give, told from names alone. Of a named set that is to be fetched, what it is known for.

    Raises:
        UserError: the root is not given, not there, or not laid out as it must be.
    """
    if config.class_list is not None and config.dataset not in DATASETS:
        raise UserError(f"params.yaml: prepare.class_list: not for prepare.dataset: {config.dataset}; set it to null.")
    if config.dataset in SOURCES:
        if config.root is not None:
            raise UserError(
                f"params.yaml: prepare.root: not for prepare.dataset: {config.dataset}, which comes with a library; "
                "set it to null."
            )
        return Preview(
            images=sum(DIGITS),
            classes=tuple(str(digit) for digit in range(10)),
            channels=1,
            identity="digits",
            class_counts=DIGITS,
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
    return Preview(len(found.names), found.classes, 3, test, found.identity, class_counts=counts)


def list_image_folder(config: SourceConfig) -> tuple[Listing, Layout]:
    """Names and layout of the user's pictures.

    Raises:
        UserError: as `preview_dataset`.
    """
    if config.root is None:
        raise UserError(
            "params.yaml: prepare.root: is null, but prepare.dataset is image_folder. Set it to the folder or archive "
            "of your pictures."
        )
    listing = list_root(config.root, config.cache)
    return listing, arrange(listing, format_names(config.root_shown or str(config.root)))

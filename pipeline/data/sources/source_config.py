"""The user's description of a source, and a preview of its content."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError


class DatasetNotFound(UserError):
    """A named set that is not under its root."""


@dataclass(frozen=True)
class SourceConfig:
    """The user's description of a source of images.

    Attributes:
        dataset: Name in prepare.dataset.
        image_size: Side of the prepared squares in pixels.
        root: Folder or archive of the files; None for a source without files.
        root_shown: The root as the user wrote it.
        cache: Folder in which the listings of archives are cached; None: archives are listed each time.
        download: Whether a missing set may be downloaded.
        class_list: File with the ids of the classes to use; None: all classes, or those that define the set.
        array_limit: Bytes of arrays above which a set is stored as encoded files; None: never.
        bit_depth: Bits of grey pictures of more than 8 bits; None: each file's own depth.
    """

    dataset: str
    image_size: int
    root: Path | None = None
    root_shown: str = ""
    cache: Path | None = None
    download: bool = False
    class_list: Path | None = None
    array_limit: int | None = None
    bit_depth: int | None = None


@dataclass(frozen=True)
class Preview:
    """Content of a source, determined before it is read.

    Attributes:
        images: Number of images.
        classes: Names by label; numbered for a set that is still to be downloaded.
        channels: 1 or 3.
        test_images: How many of the images are the set's own test split; None if it has none.
        identity: Changes when the source does; empty if the source is not there yet.
        notes: Lines of text that the user should read.
        class_counts: Images by label, without the set's own test split; None for a set that is still to be
            downloaded.
        masks: How many of the images have a mask; 0 if that is unknown.
        boxes: Whether boxes show the objects.
        doubts: Lines of text on files that do not look like pictures, which `prepare` reports itself.
    """

    images: int
    classes: tuple[str, ...]
    channels: int
    test_images: int | None = None
    identity: str = ""
    notes: tuple[str, ...] = ()
    class_counts: tuple[int, ...] | None = None
    masks: int = 0
    boxes: bool = False
    doubts: tuple[str, ...] = ()

    @property
    def objects(self) -> str:
        """Description of what shows where the objects are; empty if nothing does."""
        return "with boxes" if self.boxes else f"{self.masks:,} with a mask" if self.masks else ""


def count_trainable(
    labels: NDArray[np.int64], test: NDArray[np.bool_] | None, classes: Sequence[str]
) -> tuple[int, ...]:
    """Returns the number of images by label, without the set's own test split.

    Args:
        labels: (N,).
        test: Membership in the set's own test split, (N,), or None if it has none.
        classes: Names by label.
    """
    free = labels if test is None else labels[~test]
    return tuple(np.bincount(free, minlength=len(classes)).tolist())

"""What a user says of a source, and what is known of it before it is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError


class DatasetNotFound(UserError):
    """A source that is not where it is looked for."""


@dataclass(frozen=True)
class SourceConfig:
    """Where images come from. image_size: side of the prepared squares, in pixels. root: folder or archive of the
    files, None for a source that has none.

    root_shown: the root as the user wrote it. cache: a folder that keeps listings of archives; None: listed each time.
    download: whether what is missing may be fetched. class_list: a file of the class ids to take; None: all, or those
    that the set is known for. array_limit: bytes above which a set is kept as encoded files; None: never. bit_depth: of
    grey pictures of more than 8 bits; None: what each file says.
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
    """What is known of a source before it is read.

    images: how many; classes: names by label; channels: 1 or 3; test_images: how many of the images are the set's own
    test split, None where it has none; identity: changes when the source does, empty where it is not there yet. notes:
    lines about what its user should know. class_counts: images by label that are not in the set's own test split; None
    of a set that is yet to be fetched, whose classes go by numbers until then.
    """

    images: int
    classes: tuple[str, ...]
    channels: int
    test_images: int | None = None
    identity: str = ""
    notes: tuple[str, ...] = ()
    class_counts: tuple[int, ...] | None = None


def count_trainable(
    labels: NDArray[np.int64], test: NDArray[np.bool_] | None, classes: Sequence[str]
) -> tuple[int, ...]:
    """Images by label (N,) that are not in the set's own test split (N,), if it has one."""
    free = labels if test is None else labels[~test]
    return tuple(np.bincount(free, minlength=len(classes)).tolist())

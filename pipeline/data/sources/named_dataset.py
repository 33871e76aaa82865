"""Rows of a named set, determined before any picture is decoded: labels from 0 on, files, masks and boxes.

The set is looked for under the root (which may also be the set's own folder, or hold it in one more folder),
or in an archive. From an archive only the files with labels and names are unpacked, into a temporary folder;
its pictures are read later as a stream.
"""

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.console.format import format_size
from pipeline.data.archive import Listing, format_names, list_root, read_files
from pipeline.data.decode.masks import Box, Meaning
from pipeline.data.names import Names
from pipeline.data.sources.dataset_registry import DATASETS
from pipeline.data.sources.image_folder import IMAGE_SUFFIXES
from pipeline.data.sources.imagenet100 import IDS
from pipeline.data.sources.source_config import DatasetNotFound, SourceConfig
from pipeline.data.sources.split_listing import Original, SplitListing
from pipeline.data.sources.torchvision_datasets import READERS
from pipeline.errors import UserError
from pipeline.files.text_tables import decode_text
from pipeline.files.user_files import read_user_file

LISTED = ("oxford_pets", "flowers102", "stanford_cars", "fgvc_aircraft", "dtd", "food101")
"""Sets whose label files should list every picture, so that pictures that are in none are worth a remark."""
MOST_UNLISTED = 200
"""Most unlisted pictures that are read for remarks."""
MEANINGS: dict[str, Meaning] = {"oxford_pets": "trimap", "voc2012": "classes"}
"""How the values of mask files are read; of sets that are not here, as "object"."""


@dataclass(frozen=True)
class NamedDataset:
    """Rows of a set of files or arrays, N in all; training pictures come before test pictures.

    Attributes:
        root: Folder or archive of the files.
        files: Names below the root and sizes in bytes (-1: unknown), in the order of reading; empty for a set
            without files.
        names: Names of the pictures, by row.
        classes: Names by label.
        labels: (N,) int64 in 0 .. len(classes) - 1.
        test: Membership in the set's own test split, (N,) bool, or None if it has none.
        identity: A hash that changes when the set does.
        masks: Row by the mask's name.
        boxes: Boxes by row; None for a set without boxes.
        originals: The set's own label, by label; None for the user's own pictures.
        meaning: How the values of mask files are read.
        pixels: Arrays (n, H, W, 3) uint8 of a set without files, consecutive by row.
        unlisted: Names of pictures, and of their masks, that lie beside the others but are in no split.
    """

    root: Path
    files: tuple[tuple[str, int], ...]
    names: tuple[str, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    test: NDArray[np.bool_] | None
    identity: str
    masks: Mapping[str, int]
    boxes: Mapping[int, tuple[Box, ...]] | None = None
    originals: tuple[Original, ...] | None = None
    meaning: Meaning = "object"
    pixels: tuple[NDArray[np.uint8], ...] = ()
    unlisted: tuple[str, ...] = ()


def locate_dataset(dataset: str, root: Path) -> Path | None:
    """Returns the folder that has a named set's markers: the root, its parent or a subfolder, or None if none
    has them.

    Args:
        dataset: Name in prepare.dataset.
        root: Folder given by the user.
    """
    markers = DATASETS[dataset].markers
    try:
        below = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        below = []
    # The parent counts only if the root is the set's own folder in it.
    above = [root.parent] if markers[0].split("/")[0] == root.name else []
    return next((place for place in (root, *above, *below) if all((place / name).exists() for name in markers)), None)


def read_catalogue(config: SourceConfig) -> NamedDataset:
    """Returns the rows of the named set that the configuration asks for.

    Args:
        config: The user's description of the source.

    Raises:
        DatasetNotFound: If the set is not under the root.
        UserError: If the set is damaged or laid out differently, or test has classes that train does not
            have.
    """
    root = config.root
    assert root is not None
    if root.is_file():
        listing = list_root(root, config.cache)
        with _skeleton(root, listing) as folder:
            return _catalogue(config, _read(config, _located(config, folder)), folder, listing)
    place = _located(config, root)
    return _catalogue(config, _read(config, place), place, None)


def _located(config: SourceConfig, folder: Path) -> Path:
    place = locate_dataset(config.dataset, folder)
    if place is None:
        raise _not_there(config)
    return place


def _read(config: SourceConfig, place: Path) -> list[SplitListing]:
    known = DATASETS[config.dataset]
    try:
        parts = READERS[config.dataset](place, False)
    except Exception as error:  # label files have many formats, and their readers raise errors of any type
        said = f"{type(error).__name__}: {format_names(str(error))}".replace("\n", " ")[:300]
        where = format_names(config.root_shown or str(config.root))
        raise UserError(
            f"{where}: {known.title} is there, but cannot be read ({said}). Is it complete? Needed: {known.layout}"
        ) from None
    return _chosen(parts, config)


def _not_there(config: SourceConfig) -> DatasetNotFound:
    known, where = DATASETS[config.dataset], format_names(config.root_shown or str(config.root))
    lines = [f"{where}: {config.dataset} ({known.title}) is not there. Needed under it: {known.layout}."]
    if known.host:
        lines.append(
            f"Put it there, or set prepare.download: true in params.yaml to fetch {format_size(known.bytes)} from "
            f"{known.host} when `prepare` runs. Elsewhere already? Name the folder or archive in prepare.root."
        )
    else:
        lines.append(f"Where to get it: {known.get}. Elsewhere already? Name the folder or archive in prepare.root.")
    return DatasetNotFound("\n".join(lines))


@contextmanager
def _skeleton(root: Path, listing: Listing) -> Iterator[Path]:
    """Yields a temporary folder with the archive's other files, and with empty files in place of its pictures."""
    with tempfile.TemporaryDirectory(prefix="sar-search-") as made:
        folder = Path(made)
        told = {name for name, _ in listing.files if not name.lower().endswith(IMAGE_SUFFIXES)}
        for name in listing.folders:
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name, _ in listing.files:
            if name not in told:
                (folder / name).touch()
        for name, payload in read_files(root, told):
            (folder / name).write_bytes(payload if isinstance(payload, bytes) else b"")
        yield folder


def _chosen(parts: list[SplitListing], config: SourceConfig) -> list[SplitListing]:
    """Returns the splits with only the rows of the classes that a list names, if there is a list."""
    wanted: list[str] | None = IDS.split() if config.dataset == "imagenet100" else None
    if config.class_list is not None:
        wanted = _listed(config.class_list)
    if wanted is None:
        return parts
    by_name = {name: label for part in parts for label, name in part.classes.items()}
    there = Names(by_name | {str(label): label for part in parts for label in part.classes})
    if lacking := [name for name in wanted if there.find(name) is None]:
        some = ", ".join(map(format_names, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
        if config.class_list is None:
            raise UserError(
                f"{format_names(config.root_shown or str(config.root))}: {len(lacking):,} of the {len(wanted):,} "
                f"classes of {config.dataset} are not there: {some}. Complete the set, or list other classes in a file "
                "and name it in prepare.class_list."
            )
        raise UserError(
            f"params.yaml: prepare.class_list: {format_names(str(config.class_list))}: {len(lacking):,} of "
            f"{len(wanted):,} listed classes are not in the set ({config.dataset}): {some}. Correct their names, or "
            "leave them out."
        )
    labels = {there[name] for name in wanted}
    return [_rows_of(part, [row for row, label in enumerate(part.labels) if label in labels]) for part in parts]


def _listed(path: Path) -> list[str]:
    """Returns the classes that a file lists, one per line."""
    try:
        lines = [line.partition("#")[0].strip(" \t\r\"',;") for line in decode_text(read_user_file(path)).splitlines()]
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"params.yaml: prepare.class_list: {format_names(str(path))}: cannot be read ({said})."
        ) from None
    wanted = [line for line in dict.fromkeys(lines) if line]
    if len(wanted) < 2:
        raise UserError(f"params.yaml: prepare.class_list: {format_names(str(path))}: names fewer than two classes.")
    return wanted


def _rows_of(part: SplitListing, rows: list[int]) -> SplitListing:
    """Returns a split with only some of its rows."""
    pictures = part.pictures[rows] if isinstance(part.pictures, np.ndarray) else [part.pictures[row] for row in rows]
    return SplitListing(
        part.is_test,
        pictures,
        [part.labels[row] for row in rows],
        part.classes,
        masks=None if part.masks is None else [part.masks[row] for row in rows],
        boxes=None if part.boxes is None else [part.boxes[row] for row in rows],
    )


def _catalogue(config: SourceConfig, parts: list[SplitListing], folder: Path, listing: Listing | None) -> NamedDataset:
    """Returns the rows of a set from its splits.

    Args:
        config: The user's description of the source.
        parts: The splits as read.
        folder: Folder that paths in the splits start with.
        listing: Listing of the archive; None for a folder.
    """
    parts = sorted(parts, key=lambda part: part.is_test)
    where = format_names(config.root_shown or str(config.root))
    originals = _originals(parts, where)
    label = {original: index for index, original in enumerate(originals)}
    classes = {original: name for part in parts for original, name in part.classes.items()}
    labels = np.array([label[original] for part in parts for original in part.labels], dtype=np.int64)
    is_test = np.repeat([part.is_test for part in parts], [len(part.labels) for part in parts])
    pixels = tuple(part.pictures for part in parts if isinstance(part.pictures, np.ndarray))
    start = len(str(folder)) + 1
    if pixels:
        names = tuple(
            f"{'test' if part.is_test else 'train'}/{row}" for part in parts for row in range(len(part.labels))
        )
    else:
        names = tuple(str(path)[start:] for part in parts for path in part.pictures)
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(
            f"{where}: lists {format_names(twice)} more than once, in one split or in two. Is it the original set?"
        )
    masks: dict[str, int] = {}
    boxes: dict[int, tuple[Box, ...]] = {}
    row = 0
    for part in parts:
        masks |= {path[start:]: row + index for index, path in enumerate(part.masks or ())}
        boxes |= {row + index: each for index, each in enumerate(part.boxes or ()) if each is not None}
        row += len(part.labels)
    unlisted = _unlisted(names, masks, folder) if config.dataset in LISTED and config.class_list is None else ()
    files = () if pixels else _files((*names, *unlisted), masks, listing)
    told = repr(
        (config.dataset, str(config.root), listing and listing.identity, originals, [classes[o] for o in originals])
    )
    digest = hashlib.sha256(told.encode("utf-8", "surrogateescape"))
    digest.update(labels.tobytes() + is_test.tobytes())
    for piece in pixels:
        digest.update(piece[:: max(1, len(piece) // 1000)].tobytes())
    if not pixels and listing is None:
        for name, _ in files:
            digest.update(_stamp(folder / name).encode("utf-8", "surrogateescape"))
    digest.update(repr(sorted(boxes.items())).encode() if boxes else b"")
    return NamedDataset(
        root=folder if listing is None else config.root or folder,
        files=files,
        names=names,
        classes=tuple(classes[original] for original in originals),
        labels=labels,
        test=is_test if is_test.any() else None,
        identity=digest.hexdigest(),
        masks=masks,
        boxes=boxes if any(part.boxes is not None for part in parts) else None,
        originals=originals,
        meaning=MEANINGS.get(config.dataset, "object"),
        pixels=pixels,
        unlisted=unlisted,
    )


def _originals(parts: list[SplitListing], where: str) -> tuple[Original, ...]:
    """Returns the set's own labels that occur, sorted, after checking that each class has enough pictures."""
    trained = Counter(label for part in parts if not part.is_test for label in part.labels)
    names = {label: name for part in parts for label, name in part.classes.items()}
    own_test = any(part.is_test and len(part.labels) for part in parts)
    unseen = sorted(
        {str(names[label]) for part in parts if part.is_test for label in part.labels if label not in trained}
    )
    if unseen:
        raise UserError(f"{where}: test has classes that train does not have: {', '.join(unseen[:5])}.")
    if len(trained) < 2:
        raise UserError(f"{where}: there are pictures of {len(trained)} classes; two or more are needed.")
    needed = 2 if own_test else 3
    if few := [f"{names[label]} has {count}" for label, count in trained.items() if count < needed]:
        some = ", ".join(few[:5]) + (", ..." if len(few) > 5 else "")
        outside = " outside the set's own test split" if own_test else ""
        raise UserError(
            f"{where}: too few pictures of some classes{outside}: {some}; each class needs {needed} or more. Complete "
            "the set, or name a file with the other classes in prepare.class_list."
        )
    return tuple(sorted(trained, key=lambda label: (isinstance(label, str), label)))


def _files(names: tuple[str, ...], masks: Mapping[str, int], listing: Listing | None) -> tuple[tuple[str, int], ...]:
    """Returns names and sizes of all files in the order of reading.

    For an archive it is the archive's own order; otherwise each picture is followed by its mask.

    Args:
        names: Names of the pictures.
        masks: Row by the mask's name.
        listing: Listing of the archive; None for a folder.
    """
    if listing is not None:
        wanted = {*names, *masks}
        there = tuple(file for file in listing.files if file[0] in wanted)
        # Files that the label files name but the archive lacks come last, and are reported as broken when read.
        return there + tuple((name, -1) for name in sorted(wanted - {name for name, _ in there}))
    mask_of = {row: [mask] for mask, row in masks.items()}
    return tuple((each, -1) for row, name in enumerate(names) for each in (name, *mask_of.get(row, ())))


def _unlisted(names: tuple[str, ...], masks: Mapping[str, int], folder: Path) -> tuple[str, ...]:
    """Returns pictures beside those of the set that are in no split, and their masks; `MOST_UNLISTED` each at most.

    Args:
        names: Names of the pictures.
        masks: Row by the mask's name.
        folder: Folder of the set.
    """
    listed = set(names)
    found: list[str] = []
    for inner in sorted({name.rpartition("/")[0] for name in names}):
        there = sorted(entry for entry in os.listdir(folder / inner) if entry.lower().endswith(IMAGE_SUFFIXES))
        found += [f"{inner}/{entry}" for entry in there if f"{inner}/{entry}" not in listed]
    place, _, example = next(iter(masks), "").rpartition("/")
    beside = [f"{place}/{Path(name).stem}{Path(example).suffix}" for name in found] if masks else []
    return tuple(found[:MOST_UNLISTED] + [name for name in beside[:MOST_UNLISTED] if (folder / name).is_file()])


def _stamp(path: Path) -> str:
    """Returns size and modification time of a file as text."""
    try:
        there = os.stat(path)
        return f"{there.st_size} {there.st_mtime_ns};"
    except OSError:
        return "-;"

"""Assigns pictures to classes by their paths; no file is opened.

    <root>/<class>/*                      the test role is drawn by split.test_fraction
    <root>/{train,test}/<class>/*         the set's own test split
    <root>/masks/<the same path>.png      optional: a mask for the picture of the same name
    <root>/boxes.csv                      or: boxes in the pictures that it names (see pipeline.data.sources.boxes)

A single folder around all of this, as archives often have, is skipped.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from pipeline.console.format import format_count
from pipeline.data.archive import Listing, format_names
from pipeline.data.names import Names, class_key, name_key, normalize_name, spelled_twice
from pipeline.errors import UserError, list_first

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Suffixes of picture files."""
OTHER_SUFFIXES = (".jfif", ".jpe", ".mpo", ".dib", ".apng", ".pnm", ".pbm")
"""Further suffixes of files that can be read as pictures."""
BOXES = "boxes.csv"
MASK_WORDS = ("masks", "mask", "segmentation", "segmentations", "annotation", "annotations", "trimap", "trimaps")
"""Names of folders that may hold masks, of which the first is read as such."""
_WANTED = "Put each class's pictures into a folder of its own, <root>/<class>/, named after the class."
VALIDATION_NAMES = ("val", "valid", "validation")
"""Folder names that mean a validation split, which users cannot set by folders."""


@dataclass(frozen=True)
class Layout:
    """Pictures, classes and masks of a folder, in the order of the prepared set's rows.

    Training pictures come before test pictures; within these they are sorted by class, then by name.

    Attributes:
        classes: Names by label, sorted.
        names: Path of each picture relative to the root, by row.
        labels: (N,) int64 in 0 .. len(classes) - 1.
        test: Membership in the set's own test split, (N,) bool, or None if it has none.
        masks: Row of the picture to which a mask belongs, by the mask's path relative to the root.
        boxes: Path of the file of boxes relative to the root, or "".
        wrapper: Folder in the root that holds all of this, as a path relative to the root; "" if it is the root itself.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    test: NDArray[np.bool_] | None
    masks: dict[str, int]
    boxes: str = ""
    wrapper: str = ""


def arrange(listing: Listing, root: str) -> Layout:
    """Returns classes, roles and masks of a listing.

    Args:
        listing: Files below the root.
        root: The root as messages name it.

    Raises:
        UserError: If there are no class folders, or only one class; if a class has too few pictures, pictures
            or masks are misplaced, or test has classes that train does not have.
    """
    tree = _Tree(listing)
    base, outer = "", []
    while len(tops := tree.folders(base)) == 1 and tree.folders(tops[0]):
        _check_loose(tree, base, root)
        outer.append(base)
        base = tops[0]
    masks = next((top for top in tops if _plain(top) == "masks"), "")
    has_masks = bool(masks) and bool(tree.folders(masks))
    tops = [top for top in tops if not (has_masks and top == masks)]
    if masks and not has_masks:
        _check_no_masks(tree, masks, [top for top in tops if top != masks], root)
    tables = [name for folder in (base, *outer) for name in tree.files(folder) if _plain(name) == BOXES]
    boxes = tables[0] if tables else ""
    if len(sayings := [*tables, f"{masks}/"] if has_masks else tables) > 1:
        raise UserError(
            f"{root}: has {' and '.join(map(format_names, sayings))}, each of which says where the objects are. Keep "
            "only one of them."
        )
    _check_loose(tree, base, root)
    if not tops:
        raise UserError(f"{root}: holds no class folders. {_WANTED}")
    _check_spellings(tops, root)
    roles = _roles(tree, tops, root)
    folders = [(is_test, folder) for is_test, found in roles for folder in found]
    _check_class_folders(tree, [folder for _, folder in folders], root)
    for _, found in roles:
        _check_spellings(found, root)
    # The folders of a class in train and test may be spelled differently.
    spelled: dict[str, str] = {}
    for _, folder in folders:
        spelled.setdefault(class_key(_class_name(folder)), _class_name(folder))
    class_of = {folder: spelled[class_key(_class_name(folder))] for _, folder in folders}
    rows = sorted((is_test, class_of[folder], name) for is_test, folder in folders for name in tree.files(folder))
    # A class folder without pictures is still a class; `_check_counts` reports it.
    classes = tuple(sorted(set(class_of.values())))
    own_test = len(roles) > 1
    _check_counts(classes, rows, own_test, root)
    label = {name: index for index, name in enumerate(classes)}
    names = tuple(name for _, _, name in rows)
    return Layout(
        classes=classes,
        names=names,
        labels=np.array([label[name] for _, name, _ in rows], dtype=np.int64),
        test=np.array([is_test for is_test, _, _ in rows], dtype=np.bool_) if own_test else None,
        masks=_mask_rows(tree, base, masks, names, root) if has_masks else {},
        boxes=boxes,
        wrapper=base,
    )


def describe_doubtful(listing: Listing, layout: Layout) -> tuple[str, ...]:
    """Returns lines on class folders that may hold masks, and on files in them that are no pictures by name or size.

    Args:
        listing: Files below the root.
        layout: Layout of the listing.
    """
    sizes, tree = dict(listing.files), _Tree(listing)
    found, lines = [], []
    folders = sorted({name.rpartition("/")[0] for name in layout.names})
    for folder in folders:
        if _may_be_masks(folder) and (same := _same_stems(tree, folder, [each for each in folders if each != folder])):
            lines.append(
                f"{format_names(folder)}/ is read as a class. Does it hold masks of the other pictures "
                f"({_some(same, 2)})? Then put them at masks/<class>/<name>.png"
            )
    for name in (*layout.names, *layout.masks):
        _, dot, suffix = _last(name).rpartition(".")
        if sizes[name] == 0:
            found.append(f"{format_names(name)} (empty)")
        elif dot and suffix.isalnum() and not name.lower().endswith(IMAGE_SUFFIXES + OTHER_SUFFIXES):
            found.append(f"{format_names(name)} (no picture by its name)")
    if found:
        lines.append(f"{format_count(len(found), 'file')} of these, most likely no pictures: {list_first(found, 3)}")
        lines.append(
            "`prepare` opens all files, and refuses the set if one cannot be used: remove such files, or set "
            "prepare.skip_broken: true"
        )
    return tuple(lines)


class _Tree:
    """The listing by folder; "" is the root."""

    def __init__(self, listing: Listing) -> None:
        self._files: dict[str, list[str]] = {}
        self._folders: dict[str, list[str]] = {}
        for name, _ in listing.files:
            self._files.setdefault(name.rpartition("/")[0], []).append(name)
        for name in listing.folders:
            self._folders.setdefault(name.rpartition("/")[0], []).append(name)

    def files(self, folder: str) -> list[str]:
        return self._files.get(folder, [])

    def folders(self, folder: str) -> list[str]:
        return self._folders.get(folder, [])

    def files_below(self, folder: str) -> list[str]:
        below = [name for inner in self.folders(folder) for name in self.files_below(inner)]
        return self.files(folder) + below


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _class_name(folder: str) -> str:
    return normalize_name(format_names(_last(folder)))


def _plain(path: str) -> str:
    """Returns the last part of a path in a form that is compared with the folder and file names of this module."""
    return name_key(_last(path))


def _some(names: Iterable[str], most: int = 5) -> str:
    return list_first(map(format_names, names), most)


def _check_loose(tree: _Tree, folder: str, root: str) -> None:
    """Checks that no pictures are outside of class folders.

    Args:
        tree: The listing.
        folder: Folder of the class folders.
        root: The root as messages name it.
    """
    if loose := [name for name in tree.files(folder) if _is_picture(name)]:
        raise UserError(f"{root}: pictures that lie in no class folder: {len(loose):,} ({_some(loose, 3)}). {_WANTED}")


def _is_picture(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _may_be_masks(folder: str) -> bool:
    """Returns whether a folder's name is one that folders of masks have, or nearly `masks`."""
    name = _plain(folder)
    return name in MASK_WORDS or bool(get_close_matches(name, MASK_WORDS[:1], cutoff=0.8))


def _check_no_masks(tree: _Tree, masks: str, classes: list[str], root: str) -> None:
    """Raises an error if a folder named masks may be a class, but may also hold the masks of the classes' pictures.

    Args:
        tree: The listing.
        masks: The folder.
        classes: The other folders beside it.
        root: The root as messages name it.
    """
    if same := _same_stems(tree, masks, classes):
        raise UserError(
            f"{root}: {format_names(masks)}/ has pictures of the same names as the classes' pictures: {len(same):,} "
            f"({_some(same, 3)}). If they are masks, put each into a folder named after its picture's class "
            "(masks/<class>/<name>.png). If the folder is a class, give it another name."
        )


def _same_stems(tree: _Tree, folder: str, others: list[str]) -> list[str]:
    """Returns the pictures in a folder that have the names of pictures below other folders, except for the suffix.

    Args:
        tree: The listing.
        folder: The folder.
        others: The other folders.
    """
    stems = {_stem(name) for other in others for name in tree.files_below(other)}
    return [name for name in tree.files(folder) if _is_picture(name) and _stem(name) in stems]


def _stem(name: str) -> str:
    last = _plain(name)
    return last.rpartition(".")[0] or last


def _roles(tree: _Tree, tops: list[str], root: str) -> list[tuple[bool, list[str]]]:
    """Returns class folders by role, each with whether its pictures are test pictures.

    Args:
        tree: The listing.
        tops: Folders beside each other: class folders, or train and test.
        root: The root as messages name it.

    Raises:
        UserError: If there are other folders beside train and test, or pictures in no class folder.
    """
    by_name = {_plain(top): top for top in tops}
    if "train" in by_name and tree.folders(by_name["train"]):
        others = [name for name in by_name if name not in ("train", "test")]
        if any(name in VALIDATION_NAMES for name in others):
            raise UserError(
                f"{root}: has {_some(by_name)}. Validation pictures are drawn from train (split.val_fraction): move "
                f"those of {_some(others)} there, or rename the folder to test if they are to be the test set."
            )
        if "test" in by_name and others:
            raise UserError(
                f"{root}: has {_some(others)} beside train and test. Move classes into these, and remove other folders."
            )
        if "test" in by_name:
            for role in ("train", "test"):
                if loose := tree.files(by_name[role]):
                    raise UserError(f"{root}: {_some(loose, 3)}: in no class folder; move it to {role}/<class>/.")
            return [(role == "test", tree.folders(by_name[role])) for role in ("train", "test")]
    return [(False, tops)]


def _check_class_folders(tree: _Tree, folders: list[str], root: str) -> None:
    """Checks that class folders hold no folders.

    Args:
        tree: The listing.
        folders: Class folders.
        root: The root as messages name it.
    """
    for folder in folders:
        if inner := tree.folders(folder):
            masks = f" If {format_names(folder)}/ holds masks, name it masks." if _may_be_masks(folder) else ""
            raise UserError(
                f"{root}: {_some(inner, 3)}: a folder in a class folder. Pictures lie in <class>/ itself, or in "
                f"train/<class>/ and test/<class>/.{masks}"
            )


def _check_spellings(folders: list[str], root: str) -> None:
    """Checks that no two class folders beside each other have names that look the same to a person."""
    if doubled := spelled_twice(format_names(_last(folder)) for folder in folders):
        some = "; ".join(" and ".join(repr(name) for name in group) for group in doubled[:3])
        raise UserError(
            f"{root}: class folders whose names differ only in letter case, in the encoding of accents, or in spaces "
            f"and dots at the end: {some}. Put the pictures of each such class into one folder, or give the folders "
            "clearly different names."
        )


def _check_counts(classes: tuple[str, ...], rows: list[tuple[bool, str, str]], own_test: bool, root: str) -> None:
    """Checks that there are two classes, and enough pictures of each.

    Args:
        classes: Names by label.
        rows: (is_test, class, name) of each picture.
        own_test: Whether there is a test folder.
        root: The root as messages name it.
    """
    if len(classes) < 2:
        raise UserError(
            f"{root}: has one class only ({_some(classes)}). At least two are needed, each a folder of its pictures. "
            "If the other class folders lie elsewhere, set prepare.root to the folder that holds all of them."
        )
    trained = Counter(name for is_test, name, _ in rows if not is_test)
    needed, uses = (2, "train and validate on") if own_test else (3, "train, validate and test on")
    unseen = sorted({name for is_test, name, _ in rows if is_test} - set(trained))
    if unseen:
        raise UserError(f"{root}: test has classes that train does not have: {_some(unseen)}.")
    if few := [name for name in classes if trained[name] < needed]:
        some = list_first((f"{name} has {trained[name] or 'no picture'}" for name in few), 5)
        where = " in train" if own_test else ""
        raise UserError(
            f"{root}: too few pictures of some classes{where}: {some}. Each class needs {needed} or more, one each to "
            f"{uses}. Add pictures to these class folders, or remove the folders."
        )


def _mask_rows(tree: _Tree, base: str, masks: str, names: tuple[str, ...], root: str) -> dict[str, int]:
    """Returns the row of each mask: that of the picture with the same path, except for `masks/` and the suffix.

    Args:
        tree: The listing.
        base: Folder of the class folders, or of train and test.
        masks: Folder of the masks.
        names: Names of the pictures, by row.
        root: The root as messages name it.

    Raises:
        UserError: If a mask belongs to no picture or to several, or a picture has several masks.
    """
    start = len(base) + 1 if base else 0
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name[start:].rpartition(".")[0] or name[start:], []).append(row)
    stems = Names(rows)
    found: dict[str, int] = {}
    masked: set[int] = set()
    lost = []
    notes = {name for name in tree.files(masks) if not _is_picture(name)}
    for mask in tree.files_below(masks):
        if mask in notes:
            continue
        stem, _, suffix = mask[len(masks) + 1 :].rpartition(".")
        owners = rows.get(stems.find(stem) or "", [])
        if suffix.lower() != "png" or not owners:
            lost.append(mask)
        elif len(owners) > 1:
            both = _some(names[row] for row in owners)
            raise UserError(
                f"{root}: {format_names(mask)}: belongs to more than one picture ({both}); rename one of them."
            )
        elif owners[0] in masked:
            raise UserError(
                f"{root}: {format_names(mask)}: another mask of {format_names(names[owners[0]])}; take one of them out."
            )
        else:
            found[mask] = owners[0]
            masked.add(owners[0])
    if lost:
        raise UserError(
            f"{root}: masks that belong to no picture: {len(lost):,} ({_some(lost, 3)}). A mask is "
            "masks/<the picture's path, with its suffix replaced by .png>."
        )
    return found

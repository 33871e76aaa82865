"""Reads Tiny ImageNet in its own layout, since torchvision has no class for it.

Its `test` has no labels, so `val` is its test split. Its boxes are given by first and last column and row.
"""

from pathlib import Path

from pipeline.data.decode.masks import Box
from pipeline.data.sources.split_listing import Original, SplitListing


def read_tiny_imagenet(root: Path, download: bool) -> list[SplitListing]:
    """Returns its two labelled splits, with a box for each picture.

    Args:
        root: Folder that holds tiny-imagenet-200.
        download: Not used, since the set cannot be downloaded.

    Raises:
        OSError: If a file of names or boxes is missing.
        ValueError: If a line of these files cannot be read.
    """
    folder = root / "tiny-imagenet-200"
    ids = (folder / "wnids.txt").read_text().split()
    words = dict(line.split("\t", 1) for line in (folder / "words.txt").read_text().splitlines() if "\t" in line)
    classes: dict[Original, str] = {wnid: f"{wnid} {words.get(wnid, '').split(',')[0]}".strip() for wnid in ids}
    train: list[tuple[str, Original, tuple[Box, ...]]] = []
    for wnid in ids:
        inner = folder / "train" / wnid
        train += [(str(inner / "images" / name), wnid, (box,)) for name, box in _boxes(inner / f"{wnid}_boxes.txt")]
    val: list[tuple[str, Original, tuple[Box, ...]]] = []
    labelled = folder / "val" / "val_annotations.txt"
    for line, (name, box) in zip(labelled.read_text().splitlines(), _boxes(labelled), strict=True):
        val.append((str(folder / "val" / "images" / name), line.split("\t")[1], (box,)))
    if unknown := sorted({str(label) for _, label, _ in val} - set(ids)):
        raise ValueError(f"val_annotations.txt: {unknown[0]} is not in wnids.txt")
    return [_part(False, train, classes), _part(True, val, classes)]


def _part(
    is_test: bool, rows: list[tuple[str, Original, tuple[Box, ...]]], classes: dict[Original, str]
) -> SplitListing:
    """Returns a split.

    Args:
        is_test: Whether it is the test split.
        rows: Path, label and boxes of each picture.
        classes: Names by label.
    """
    return SplitListing(is_test, [path for path, _, _ in rows], [label for _, label, _ in rows], classes,
                boxes=[boxes for _, _, boxes in rows])  # fmt: skip


def _boxes(path: Path) -> list[tuple[str, Box]]:
    """Returns name and box of each line: fields are separated by tabs, and the last four are the box."""
    found: list[tuple[str, Box]] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        name, *_, left, top, right, bottom = line.split("\t") if line.count("\t") >= 4 else [""] * 5
        try:
            found.append((name, (float(left), float(top), float(right) + 1, float(bottom) + 1)))
        except ValueError:
            raise ValueError(f"{path.name}, line {number}: not a name and four numbers") from None
    return found

"""Reads named sets with torchvision's own classes, which define layouts, label files, downloads and checksums.

A reader takes the root, and whether torchvision may download missing files. It opens no picture file.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from pipeline.data.sources.split_listing import Original, SplitListing
from pipeline.data.sources.tiny_imagenet import read_tiny_imagenet

Reader = Callable[[Path, bool], list[SplitListing]]
"""Function of the root and of whether missing files may be downloaded, which returns the splits."""


def _datasets() -> Any:
    from torchvision import datasets  # takes seconds to import, and only named sets need it

    return datasets


def _numbered(names: Sequence[str]) -> dict[Original, str]:
    return dict(enumerate(str(name) for name in names))


def _cifar(kind: str) -> Reader:
    def read(root: Path, download: bool) -> list[SplitListing]:
        found = [getattr(_datasets(), kind)(root, train=train, download=download) for train in (True, False)]
        return [SplitListing(not part.train, part.data, part.targets, _numbered(part.classes)) for part in found]

    return read


def _arrays(kind: str) -> Reader:
    def read(root: Path, download: bool) -> list[SplitListing]:
        found = {split: getattr(_datasets(), kind)(root, split=split, download=download) for split in ("train", "test")}
        return [SplitListing(split == "test", part.data.transpose(0, 2, 3, 1), part.labels.tolist(),
                             _numbered(getattr(part, "classes", "0123456789")))
                for split, part in found.items()]  # fmt: skip

    return read


def _files(kind: str, *splits: str) -> Reader:
    def read(root: Path, download: bool) -> list[SplitListing]:
        found = {split: getattr(_datasets(), kind)(root, split=split, download=download) for split in splits}
        return [SplitListing(split == "test", _paths(part._image_files), part._labels, _numbered(part.classes))
                for split, part in found.items()]  # fmt: skip

    return read


def _oxford_pets(root: Path, download: bool) -> list[SplitListing]:
    parts = []
    for split in ("trainval", "test"):
        found = _datasets().OxfordIIITPet(root, split=split, target_types="segmentation", download=download)
        # torchvision lists the names of the labels that occur in the split, sorted by label.
        classes: dict[Original, str] = dict(zip(sorted(set(found._labels)), found.classes, strict=True))
        parts.append(
            SplitListing(split == "test", _paths(found._images), found._labels, classes, masks=_paths(found._segs))
        )
    return parts


def _stanford_cars(root: Path, download: bool) -> list[SplitListing]:
    parts = []
    for split in ("train", "test"):
        found = _datasets().StanfordCars(root, split=split)
        paths, labels = zip(*found._samples, strict=True)
        parts.append(SplitListing(split == "test", paths, [int(label) for label in labels], _numbered(found.classes)))
    return parts


def _dtd(root: Path, download: bool) -> list[SplitListing]:
    parts = []
    for split in ("train", "val", "test"):
        found = _datasets().DTD(root, split=split, download=download)
        # torchvision numbers the classes of each split separately; only their names are the same in all splits.
        names = [found.classes[label] for label in found._labels]
        parts.append(
            SplitListing(split == "test", _paths(found._image_files), names, {name: name for name in found.classes})
        )
    return parts


def _eurosat(root: Path, download: bool) -> list[SplitListing]:
    found = _datasets().EuroSAT(root, download=download)
    paths, labels = zip(*found.samples, strict=True)
    return [SplitListing(False, paths, labels, _numbered(found.classes))]


def _imagenet(root: Path, download: bool) -> list[SplitListing]:
    """Returns the splits with WordNet ids as labels. If the folders are missing, torchvision unpacks the
    archives in the root.
    """
    parts = []
    for split in ("train", "val"):
        found = _datasets().ImageNet(root, split=split)
        classes: dict[Original, str] = {
            wnid: f"{wnid} {names[0]}" for wnid, names in zip(found.wnids, found.classes, strict=True)
        }
        labels = [found.wnids[label] for _, label in found.samples]
        parts.append(SplitListing(split == "val", [path for path, _ in found.samples], labels, classes))
    return parts


def _voc2012(root: Path, download: bool) -> list[SplitListing]:
    """Returns the images with segmentations; the class of an image is that of the largest box in it."""
    parts = []
    for split in ("train", "val"):
        # torchvision would download again without checking; one download has both splits.
        found = _datasets().VOCSegmentation(root, image_set=split, download=download and split == "train")
        folder = Path(found.root) / "VOCdevkit" / "VOC2012" / "Annotations"
        labels: list[Original] = [_largest_object(folder / f"{Path(path).stem}.xml") for path in found.images]
        classes: dict[Original, str] = {name: str(name) for name in labels}
        parts.append(SplitListing(split == "val", found.images, labels, classes, masks=found.masks))
    return parts


def _largest_object(annotation: Path) -> str:
    """Returns the class of the largest box in an annotation file.

    Raises:
        ValueError: If there is no object, or one without name or box.
    """
    areas: list[tuple[float, str]] = []
    for found in ElementTree.parse(annotation).iterfind("object"):
        left, top, right, bottom = (
            float(found.findtext(f"bndbox/{end}", "nan")) for end in ("xmin", "ymin", "xmax", "ymax")
        )
        areas.append(((right - left) * (bottom - top), found.findtext("name", "")))
    if not areas or not all(name and np.isfinite(area) for area, name in areas):
        raise ValueError(f"{annotation.name}: names no object, or one without a box")
    return max(areas, key=lambda pair: pair[0])[1]


def _paths(paths: Sequence[str | Path]) -> list[str]:
    return [os.fspath(path) for path in paths]


READERS: dict[str, Reader] = {
    "cifar10": _cifar("CIFAR10"),
    "cifar100": _cifar("CIFAR100"),
    "flowers102": _files("Flowers102", "train", "val", "test"),
    "oxford_pets": _oxford_pets,
    "stanford_cars": _stanford_cars,
    "fgvc_aircraft": _files("FGVCAircraft", "trainval", "test"),
    "dtd": _dtd,
    "food101": _files("Food101", "train", "test"),
    "eurosat": _eurosat,
    "stl10": _arrays("STL10"),
    "svhn": _arrays("SVHN"),
    "imagenet": _imagenet,
    "imagenet100": _imagenet,
    "voc2012": _voc2012,
    "tiny_imagenet": read_tiny_imagenet,
}
"""Readers by the name in prepare.dataset."""

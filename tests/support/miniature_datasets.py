"""Named image sets in their real layouts on disk, with a few tiny pictures of two classes."""

import hashlib
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from support.picture_sets import encoded, picture

TRAIN, TEST = 4, 2
"""Pictures of each class."""


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def jpeg(seed: int) -> bytes:
    return picture(seed, (12, 10), "JPEG")


def mask(*values: int) -> bytes:
    """12 x 10 pixels, in stripes of the values."""
    return encoded(Image.fromarray(np.tile(np.repeat(values, 12 // len(values)).astype(np.uint8), (10, 1))))


def _cifar(root: Path, patch: pytest.MonkeyPatch, kind: str) -> None:
    from torchvision import datasets

    known = getattr(datasets, kind)
    key, names = ("labels", ["cat", "dog"]) if kind == "CIFAR10" else ("fine_labels", ["oak", "rose"])
    folder, rng = root / known.base_folder, np.random.default_rng(0)

    def batch(name: str, each: int) -> list[str]:
        data = rng.integers(0, 256, size=(2 * each, 3072), dtype=np.uint8)
        return [name, md5(put(folder / name, pickle.dumps({"data": data, key: [0, 1] * each})))]

    train = [batch(name, TRAIN // len(known.train_list) or 1) for name, _ in known.train_list[:TRAIN]]
    meta = put(folder / known.meta["filename"], pickle.dumps({known.meta["key"]: names}))
    patch.setattr(known, "train_list", train)
    patch.setattr(known, "test_list", [batch(known.test_list[0][0], TEST)])
    patch.setattr(known, "meta", {**known.meta, "md5": md5(meta)})


def _flowers102(root: Path, patch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import Flowers102

    folder, count = root / "flowers-102", 2 * (TRAIN + TEST)
    for number in range(1, count + 1):
        put(folder / "jpg" / f"image_{number:05d}.jpg", jpeg(number))
    # Classes 3 and 77 of the real set.
    savemat(folder / "imagelabels.mat", {"labels": np.array([[3, 77] * (count // 2)])})
    ids = np.arange(1, count + 1)
    savemat(folder / "setid.mat", {"trnid": [ids[:4]], "valid": [ids[4 : 2 * TRAIN]], "tstid": [ids[2 * TRAIN :]]})
    names = {"label": "imagelabels.mat", "setid": "setid.mat", "image": ""}
    sums = {key: (name, md5(folder / name) if name else "") for key, name in names.items()}
    patch.setattr(Flowers102, "_file_dict", sums)


def _oxford_pets(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "oxford-iiit-pet"
    seed = 0
    for split, each in (("trainval", TRAIN), ("test", TEST)):
        lines = []
        for name, label in (("Abyssinian", 1), ("american_bulldog", 6)):
            for number in range(each):
                image_id, seed = f"{name}_{split}{number}", seed + 1
                put(folder / "images" / f"{image_id}.jpg", jpeg(seed))
                put(folder / "annotations" / "trimaps" / f"{image_id}.png", mask(2, 3, 1, 1))
                lines.append(f"{image_id} {label} 1 1")
        put(folder / "annotations" / f"{split}.txt", "\n".join(lines) + "\n")


def _stanford_cars(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder, seed = root / "stanford_cars", 0
    kind = np.dtype([("class", "O"), ("fname", "O")])
    for split, each in (("train", TRAIN), ("test", TEST)):
        rows = []
        for number in range(2 * each):
            seed += 1
            put(folder / f"cars_{split}" / f"{number:05d}.jpg", jpeg(seed))
            rows.append((1 + number % 2, f"{number:05d}.jpg"))
        (folder / "devkit").mkdir(exist_ok=True)
        name = "devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
        savemat(folder / name, {"annotations": np.array(rows, dtype=kind)})
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(["Audi", "BMW"], dtype=object)})


def _fgvc_aircraft(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder, seed = root / "fgvc-aircraft-2013b" / "data", 0
    put(folder / "variants.txt", "707-320\n737-200\nunused\n")
    for split, each in (("trainval", TRAIN), ("test", TEST)):
        lines = []
        for number in range(2 * each):
            seed += 1
            put(folder / "images" / f"{seed:07d}.jpg", jpeg(seed))
            lines.append(f"{seed:07d} {('707-320', '737-200')[number % 2]}")
        put(folder / f"images_variant_{split}.txt", "\n".join(lines) + "\n")


def _dtd(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder, seed = root / "dtd" / "dtd", 0
    for split, each in (("train", TRAIN // 2), ("val", TRAIN // 2), ("test", TEST)):
        lines = []
        for name in ("banded", "zigzagged"):
            for _ in range(each):
                seed += 1
                put(folder / "images" / name / f"{name}_{seed:04d}.jpg", jpeg(seed))
                lines.append(f"{name}/{name}_{seed:04d}.jpg")
        put(folder / "labels" / f"{split}1.txt", "\n".join(lines) + "\n")


def _food101(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder, seed = root / "food-101", 0
    for split, each in (("train", TRAIN), ("test", TEST)):
        listed: dict[str, list[str]] = {"pizza": [], "waffles": []}
        for name, entries in listed.items():
            for _ in range(each):
                seed += 1
                put(folder / "images" / name / f"{seed}.jpg", jpeg(seed))
                entries.append(f"{name}/{seed}")
        put(folder / "meta" / f"{split}.json", json.dumps(listed))


def _eurosat(root: Path, patch: pytest.MonkeyPatch) -> None:
    for name in ("Forest", "River"):
        for number in range(TRAIN + TEST):
            put(root / "eurosat" / "2750" / name / f"{name}_{number}.jpg", jpeg(number))


def _stl10(root: Path, patch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import STL10

    folder, rng = root / "stl10_binary", np.random.default_rng(0)
    put(folder / "class_names.txt", "airplane\nbird\n")
    for split, each in (("train", TRAIN), ("test", TEST)):
        put(folder / f"{split}_X.bin", rng.integers(0, 256, size=2 * each * 3 * 96 * 96, dtype=np.uint8).tobytes())
        put(folder / f"{split}_y.bin", bytes([1, 2] * each))
    put(folder / "unlabeled_X.bin", b"")
    for key in ("train_list", "test_list"):
        patch.setattr(STL10, key, [[name, md5(folder / name)] for name, _ in getattr(STL10, key)])


def _svhn(root: Path, patch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import SVHN

    rng, sums = np.random.default_rng(0), {}
    for split, each in (("train", TRAIN), ("test", TEST)):
        pixels = rng.integers(0, 256, size=(32, 32, 3, 2 * each), dtype=np.uint8)
        name = f"{split}_32x32.mat"
        root.mkdir(exist_ok=True)
        savemat(root / name, {"X": pixels, "y": np.array([[10], [7]] * each, dtype=np.uint8)})
        sums[split] = ["", name, md5(root / name)]
    patch.setattr(SVHN, "split_list", sums)


def _imagenet(root: Path, patch: pytest.MonkeyPatch) -> None:
    import torch

    names = {"n01440764": ("tench", "Tinca tinca"), "n02869837": ("bonnet",), "n01749939": ("green mamba",)}
    root.mkdir(exist_ok=True)
    torch.save((names, []), root / "meta.bin")
    for split, each in (("train", TRAIN), ("val", TEST)):
        for wnid in names:
            for number in range(each):
                put(root / split / wnid / f"{wnid}_{number}.JPEG", jpeg(number))


def _voc2012(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder, seed = root / "VOCdevkit" / "VOC2012", 0
    for split, each in (("train", TRAIN), ("val", TEST)):
        ids = []
        for number in range(2 * each):
            seed += 1
            ids.append(image_id := f"2007_{seed:06d}")
            put(folder / "JPEGImages" / f"{image_id}.jpg", jpeg(seed))
            put(folder / "SegmentationClass" / f"{image_id}.png", mask(0, 255, 15, 15))
            large, small = (("dog", "person"), ("person", "dog"))[number % 2]
            put(folder / "Annotations" / f"{image_id}.xml", "<annotation>" + "".join(
                f"<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{side}</xmax><ymax>{side}</ymax>"
                "</bndbox></object>" for name, side in ((small, 4), (large, 9))) + "</annotation>")  # fmt: skip
        put(folder / "ImageSets" / "Segmentation" / f"{split}.txt", "\n".join(ids) + "\n")


def _tiny_imagenet(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder, ids, seed = root / "tiny-imagenet-200", ("n01443537", "n01629819"), 0
    put(folder / "wnids.txt", "\n".join(ids) + "\n")
    put(folder / "words.txt", "n01443537\tgoldfish, Carassius auratus\nn01629819\tsalamander\nn99999999\tother\n")
    for wnid in ids:
        lines = []
        for number in range(TRAIN):
            seed += 1
            put(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", picture(seed, (64, 64), "JPEG"))
            lines.append(f"{wnid}_{number}.JPEG\t0\t16\t31\t63")
        put(folder / "train" / wnid / f"{wnid}_boxes.txt", "\n".join(lines) + "\n")
    lines = []
    for number in range(2 * TEST):
        put(folder / "val" / "images" / f"val_{number}.JPEG", picture(number, (64, 64), "JPEG"))
        lines.append(f"val_{number}.JPEG\t{ids[number % 2]}\t0\t0\t63\t31")
    put(folder / "val" / "val_annotations.txt", "\n".join(lines) + "\n")


MINIATURES: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "cifar10": lambda root, patch: _cifar(root, patch, "CIFAR10"),
    "cifar100": lambda root, patch: _cifar(root, patch, "CIFAR100"),
    "flowers102": _flowers102,
    "oxford_pets": _oxford_pets,
    "stanford_cars": _stanford_cars,
    "fgvc_aircraft": _fgvc_aircraft,
    "dtd": _dtd,
    "food101": _food101,
    "eurosat": _eurosat,
    "stl10": _stl10,
    "svhn": _svhn,
    "imagenet": _imagenet,
    "voc2012": _voc2012,
    "tiny_imagenet": _tiny_imagenet,
}
"""Makers by the set's name: they write below the root, and put the miniature's checksums into torchvision's classes."""


def pack(root: Path, path: Path) -> Path:
    """All of a folder as a .tar."""
    with tarfile.open(path, "w") as archive:
        for entry in sorted(root.iterdir()):
            archive.add(entry, entry.name)
    return path

"""Claims about named sets, each on a miniature in its real layout: rows, labels, masks, and what cannot be used."""

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.miniature_datasets import MINIATURES, TEST, TRAIN, jpeg, mask, pack, put
from support.picture_sets import encoded, picture

from pipeline.data.decode.decode import decode_image
from pipeline.data.prepare import reader
from pipeline.data.prepare.reader import open_source
from pipeline.data.prepare.writer import write_prepared
from pipeline.data.prepared.prepared import Prepared, open_prepared
from pipeline.data.sources.dataset_registry import DATASETS
from pipeline.data.sources.image_source import preview_dataset
from pipeline.data.sources.imagenet100 import IDS
from pipeline.data.sources.named_dataset import locate_dataset
from pipeline.data.sources.source_config import DatasetNotFound, SourceConfig
from pipeline.errors import UserError

SIDE = 8
CLASSES = {
    "cifar10": ("cat", "dog"),
    "cifar100": ("oak", "rose"),
    "flowers102": ("canterbury bells", "passion flower"),
    "oxford_pets": ("Abyssinian", "American Bulldog"),
    "stanford_cars": ("Audi", "BMW"),
    "fgvc_aircraft": ("707-320", "737-200"),
    "dtd": ("banded", "zigzagged"),
    "food101": ("pizza", "waffles"),
    "eurosat": ("Forest", "River"),
    "stl10": ("airplane", "bird"),
    "svhn": ("0", "7"),
    "imagenet": ("n01440764 tench", "n01749939 green mamba", "n02869837 bonnet"),
    "voc2012": ("dog", "person"),
    "tiny_imagenet": ("n01443537 goldfish", "n01629819 salamander"),
}
ORIGINALS: dict[str, list[Any]] = {
    "flowers102": [2, 76],
    "oxford_pets": [0, 5],
    "svhn": [0, 7],
    "dtd": ["banded", "zigzagged"],
    "voc2012": ["dog", "person"],
    "imagenet": ["n01440764", "n01749939", "n02869837"],
    "tiny_imagenet": ["n01443537", "n01629819"],
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def settings(dataset: str, root: Path, **more: Any) -> SourceConfig:
    return SourceConfig(dataset, SIDE, root, root.name, **more)


def prepared(chosen: SourceConfig, tmp_path: Path, *, skip_broken: bool = False) -> Prepared:
    folder = tmp_path / "prepared"
    write_prepared(open_source(chosen, workers=1), folder, work=tmp_path / "work", skip_broken=skip_broken)
    return open_prepared(folder)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "sets"


@pytest.mark.parametrize("dataset", MINIATURES)
def test_set_is_prepared_in_its_own_layout(
    dataset: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MINIATURES[dataset](root, monkeypatch)
    chosen = settings(dataset, root)
    told, found = preview_dataset(chosen), prepared(chosen, tmp_path)
    kinds = len(CLASSES[dataset])
    assert found.classes == told.classes == CLASSES[dataset]
    assert len(found.images) == told.images == kinds * (TRAIN + TEST)
    assert np.bincount(found.labels).tolist() == [TRAIN + TEST] * kinds
    assert told.class_counts == (TRAIN + TEST * (dataset == "eurosat"),) * kinds
    assert found.manifest["original_labels"] == ORIGINALS.get(dataset, list(range(kinds)))
    assert found.manifest["dataset"] == dataset
    assert found.manifest["licence"] == DATASETS[dataset].licence
    assert "torchvision" in found.manifest["versions"]
    if dataset == "eurosat":
        assert found.test is None
        assert told.test_images is None
    else:
        assert found.test is not None
        assert told.test_images == found.manifest["test_images"] == kinds * TEST
        assert found.test.tolist() == [False] * kinds * TRAIN + [True] * kinds * TEST
    assert (found.masks is not None) == bool(DATASETS[dataset].objects)
    assert found.manifest.get("masks_from", "") == DATASETS[dataset].objects
    assert "skipped" not in found.manifest
    names = json.loads((tmp_path / "prepared" / "files.json").read_text())
    if (root / names[0]).is_file():
        for row, name in enumerate(names):
            np.testing.assert_array_equal(found.images[row], decode_image(str(root / name), SIDE)[0])


@pytest.mark.parametrize("dataset", ["cifar10", "svhn", "stl10"])
def test_pixels_of_sets_without_files_are_torchvisions(
    dataset: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    MINIATURES[dataset](root, monkeypatch)
    kind = {"cifar10": datasets.CIFAR10, "svhn": datasets.SVHN, "stl10": datasets.STL10}[dataset]
    side = 96 if dataset == "stl10" else 32
    found = prepared(SourceConfig(dataset, side, root, "sets"), tmp_path)
    theirs = (
        [kind(root, train=train) for train in (True, False)]
        if dataset == "cifar10"
        else [kind(root, split=split) for split in ("train", "test")]
    )
    for row, (image, label) in enumerate(pair for part in theirs for pair in (part[i] for i in range(len(part)))):
        np.testing.assert_array_equal(found.images[row], np.asarray(image))
        assert found.manifest["original_labels"][found.labels[row]] == label


@pytest.mark.parametrize("dataset", [name for name in MINIATURES if name != "svhn"])
def test_archive_of_a_set_gives_the_same_data(
    dataset: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MINIATURES[dataset](root, monkeypatch)
    expected = prepared(settings(dataset, root), tmp_path).data_hash
    archive = pack(root, tmp_path / "set.tar")
    assert preview_dataset(settings(dataset, archive)).classes == CLASSES[dataset]
    assert prepared(settings(dataset, archive), tmp_path).data_hash == expected


@pytest.mark.parametrize(
    ("dataset", "expected"), [("oxford_pets", [0, 0, 255, 255, 1, 1]), ("voc2012", [0, 0, 255, 255, 1, 1])]
)
def test_undecided_pixels_of_masks_stay_undecided(
    dataset: str, expected: list[int], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MINIATURES[dataset](root, monkeypatch)
    found = prepared(SourceConfig(dataset, 10, root, "sets"), tmp_path)
    assert found.masks is not None
    # Of 12 columns, the first and the last are cut off.
    assert found.masks[0][0].tolist() == [0, 0, 255, 255, 255, 1, 1, 1, 1, 1]
    assert (np.asarray(found.masks) == found.masks[0]).all()


def test_boxes_are_drawn_as_masks(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MINIATURES["tiny_imagenet"](root, monkeypatch)
    found = prepared(settings("tiny_imagenet", root), tmp_path)
    assert found.masks is not None
    expected = np.zeros((SIDE, SIDE), dtype=np.uint8)
    expected[2:, :4] = 1
    np.testing.assert_array_equal(found.masks[0], expected)
    np.testing.assert_array_equal(found.masks[-1], (np.indices((SIDE, SIDE))[0] < 4).astype(np.uint8))


def test_warts_of_real_pets_are_prepared_and_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MINIATURES["oxford_pets"](root, monkeypatch)
    images, trimaps = root / "oxford-iiit-pet/images", root / "oxford-iiit-pet/annotations/trimaps"
    put(images / "Abyssinian_trainval0.jpg", picture(1, (12, 10), "GIF"))
    put(trimaps / "Abyssinian_trainval0.png", mask(2, 2))
    put(images / "Abyssinian_trainval1.jpg", encoded(Image.new("RGBA", (12, 10), (255, 0, 0, 0))))
    put(images / "Abyssinian_trainval2.jpg", encoded(Image.new("CMYK", (12, 10)), "JPEG"))
    put(images / "Abyssinian_99.jpg", jpeg(99))
    found = prepared(settings("oxford_pets", root), tmp_path)
    assert len(found.images) == 12
    assert (found.images[1] == 255).all()
    assert found.masks is not None
    assert not found.masks[0].any()
    remarks = {kind: entry["first"] for kind, entry in found.manifest["remarks"].items()}
    place = "oxford-iiit-pet/images/Abyssinian_"
    assert remarks == {
        "a GIF named .jpg": [f"{place}trainval0.jpg"],
        "a PNG named .jpg": [f"{place}trainval1.jpg"],
        "a mask without object": ["oxford-iiit-pet/annotations/trimaps/Abyssinian_trainval0.png"],
        "in no split, left out": [f"{place}99.jpg"],
        "made RGB from CMYK": [f"{place}trainval2.jpg"],
        "made RGB from RGBA": [f"{place}trainval1.jpg"],
        "made RGB from a palette": [f"{place}trainval0.jpg"],
        "transparency laid on white": [f"{place}trainval1.jpg"],
    }


def test_root_may_be_the_sets_own_folder_or_hold_it_in_another(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MINIATURES["oxford_pets"](root / "more", monkeypatch)
    for named in (root, root / "more", root / "more" / "oxford-iiit-pet"):
        assert locate_dataset("oxford_pets", named) == root / "more"
    assert locate_dataset("oxford_pets", root / "more" / "oxford-iiit-pet" / "images") is None


def test_imagenet100_takes_the_published_classes_or_those_of_a_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MINIATURES["imagenet"](root, monkeypatch)
    ids = IDS.split()
    assert len(set(ids)) == len(ids) == 100
    built_in = (
        r"^sets: 98 of the 100 classes of imagenet100 are not there: n02488291, .*, \.\.\.\. Complete the set, or"
    )
    with pytest.raises(UserError, match=built_in) as refusal:
        preview_dataset(settings("imagenet100", root))
    assert "params.yaml" not in str(refusal.value)
    chosen = put(tmp_path / "classes.txt", "n02869837\nn01440764 tench\nn00000000\n")
    for dataset in ("imagenet", "imagenet100"):
        listed = (
            rf"^params\.yaml: prepare\.class_list: .*classes\.txt: 1 of 3 listed classes .* \({dataset}\): n00000000\."
        )
        with pytest.raises(UserError, match=listed):
            preview_dataset(settings(dataset, root, class_list=chosen))
    put(chosen, "# two of them\nn02869837\nn01440764 tench\n")
    found = prepared(settings("imagenet100", root, class_list=chosen), tmp_path)
    assert found.manifest["original_labels"] == ["n01440764", "n02869837"]
    assert len(found.images) == 2 * (TRAIN + TEST)
    for content, said in (("n02869837\n", "fewer than two"), (b"n01440764 caf\xe9\n", "cannot be read")):
        put(chosen, content)
        with pytest.raises(UserError, match=rf"prepare\.class_list: .*{said}"):
            preview_dataset(settings("imagenet100", root, class_list=chosen))


@pytest.mark.parametrize("dataset", DATASETS)
def test_set_that_is_not_there_is_told_with_its_layout_and_where_to_get_it(dataset: str, root: Path) -> None:
    with pytest.raises(DatasetNotFound) as refusal:
        preview_dataset(settings(dataset, root))
    said = str(refusal.value)
    assert refusal.value.exit_code == 2
    assert f"sets: {dataset} (" in said
    assert DATASETS[dataset].layout in said
    assert "prepare.root" in said
    assert ("prepare.download: true" in said) == bool(DATASETS[dataset].host)
    assert DATASETS[dataset].host in said
    assert DATASETS[dataset].get in said


def test_set_that_is_damaged_is_told_in_a_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MINIATURES["cifar10"](root, monkeypatch)
    put(root / "cifar-10-batches-py" / "data_batch_1", b"torn")
    with pytest.raises(
        UserError, match=r"sets: CIFAR-10 is there, but cannot be read \(RuntimeError: .*corrupted.*Is it complete"
    ):
        preview_dataset(settings("cifar10", root))


def test_class_in_test_that_train_lacks_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MINIATURES["oxford_pets"](root, monkeypatch)
    test = root / "oxford-iiit-pet/annotations/test.txt"
    test.write_text(test.read_text() + "Bengal_1 2 1 1\n")
    with pytest.raises(UserError, match="test has classes that train does not have: Bengal"):
        preview_dataset(settings("oxford_pets", root))


@pytest.mark.parametrize("split", ["trainval", "test"])
def test_picture_that_is_listed_twice_is_told(split: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MINIATURES["oxford_pets"](root, monkeypatch)
    listed = root / f"oxford-iiit-pet/annotations/{split}.txt"
    listed.write_text(listed.read_text() + "Abyssinian_trainval1 1 1 1\n")
    with pytest.raises(UserError, match=r"lists oxford-iiit-pet/images/Abyssinian_trainval1\.jpg more than once"):
        preview_dataset(settings("oxford_pets", root))


def test_broken_pictures_and_trimaps_are_refused_or_left_out(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MINIATURES["oxford_pets"](root, monkeypatch)
    images, trimaps = root / "oxford-iiit-pet/images", root / "oxford-iiit-pet/annotations/trimaps"
    put(images / "Abyssinian_trainval0.jpg", jpeg(0)[:200])
    (images / "Abyssinian_trainval1.jpg").unlink()
    put(trimaps / "Abyssinian_trainval2.png", mask(0, 1, 2))
    put(trimaps / "Abyssinian_trainval3.png", encoded(Image.new("L", (10, 12), 1)))
    with pytest.raises(UserError, match="4 of 24 files cannot be used") as refusal:
        prepared(settings("oxford_pets", root), tmp_path)
    for said in (
        "trainval0.jpg: damaged",
        "trainval1.jpg: No such file",
        "trainval2.png: has values other than 1, 2 and 3",
        "10 x 12, but the picture is 12 x 10",
    ):
        assert said in str(refusal.value)
    found = prepared(settings("oxford_pets", root), tmp_path, skip_broken=True)
    assert len(found.images) == 10
    assert found.masks is not None
    assert (found.masks[:2] == 255).all()


def test_killed_preparation_of_a_set_goes_on(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MINIATURES["oxford_pets"](root, monkeypatch)
    monkeypatch.setattr(reader, "CHUNK_FILES", 5)
    for limit in (None, 0):
        chosen = settings("oxford_pets", root, array_limit=limit)
        expected = prepared(chosen, tmp_path / "once").data_hash
        began: list[int] = []
        read = reader.ImageFiles.read

        def dying(self: Any, start: int, read: Any = read, began: list[int] = began) -> Any:
            began.append(start)
            for index, block in enumerate(read(self, start)):
                if index == 2:
                    raise KeyboardInterrupt
                yield block

        with monkeypatch.context() as patch:
            patch.setattr(reader.ImageFiles, "read", dying)
            for _ in range(2):
                with pytest.raises(KeyboardInterrupt):
                    prepared(chosen, tmp_path)
                assert not (tmp_path / "prepared").exists()
            assert prepared(chosen, tmp_path).data_hash == expected
        assert began == [0, 10, 20]
        (tmp_path / "prepared").rename(tmp_path / f"done{limit}")

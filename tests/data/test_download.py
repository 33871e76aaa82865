"""Claims about fetching and unpacking named sets: whole or not at all, and told in words where it cannot be done."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.miniature_datasets import MINIATURES, md5, pack, put
from support.offline import refuse_network

from pipeline.data.sources import download
from pipeline.data.sources.dataset_registry import DATASETS
from pipeline.data.sources.download import fetch
from pipeline.data.sources.image_source import preview_dataset
from pipeline.data.sources.named_dataset import locate_dataset
from pipeline.data.sources.source_config import SourceConfig
from pipeline.errors import UserError

FETCHED = [name for name, known in DATASETS.items() if known.host]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_network(monkeypatch)


def settings(dataset: str, root: Path, *, download: bool = True) -> SourceConfig:
    return SourceConfig(dataset, 8, root, root.name, download=download)


def packed(dataset: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root with the archive of a miniature, and nothing else."""
    made = root.with_name("made")
    MINIATURES[dataset](made, monkeypatch)
    (name,) = DATASETS[dataset].archives
    place = made / Path(name).parent
    archive = pack(place, made.with_name("archive.tar"))
    put(root / name, archive.read_bytes())


@pytest.mark.parametrize("dataset", FETCHED)
def test_set_that_is_to_be_fetched_without_a_network_is_told_and_leaves_nothing(dataset: str, tmp_path: Path) -> None:
    root = tmp_path / "sets"
    assert preview_dataset(settings(dataset, root)).images == DATASETS[dataset].images
    assert preview_dataset(settings(dataset, root)).class_counts is None
    with pytest.raises(UserError, match=f"cannot be fetched from {DATASETS[dataset].host}") as refusal:
        fetch(settings(dataset, root))
    assert refusal.value.exit_code == 2
    assert "Network is unreachable" in str(refusal.value)
    assert "without a network?" in str(refusal.value)
    assert not list(root.iterdir())


@pytest.mark.parametrize("dataset", ["cifar10", "stanford_cars", "tiny_imagenet", "imagenet"])
def test_nothing_is_fetched_that_may_not_or_cannot_be(dataset: str, tmp_path: Path) -> None:
    fetch(settings(dataset, tmp_path, download=DATASETS[dataset].host == ""))
    fetch(SourceConfig("digits", 8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dataset", ["food101", "cifar10", "voc2012"])
def test_archives_that_lie_there_are_unpacked_without_a_network(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "sets"
    monkeypatch.setitem(DATASETS, dataset, _with_tar(dataset))
    packed(dataset, root, monkeypatch)
    chosen = settings(dataset, root, download=False)
    assert preview_dataset(chosen).identity == ""
    fetch(chosen)
    assert locate_dataset(dataset, root) == root
    assert preview_dataset(chosen).images == 12 or dataset == "cifar10"
    assert sorted(path.name for path in root.iterdir()) == sorted(
        {DATASETS[dataset].archives[0], DATASETS[dataset].markers[0].split("/")[0]}
    )


def _with_tar(dataset: str) -> Any:
    from dataclasses import replace

    return replace(DATASETS[dataset], archives=("all.tar",))


@pytest.mark.parametrize("damage", [200, 4000])
def test_archive_that_is_cut_short_is_told_and_leaves_nothing(
    damage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "sets"
    monkeypatch.setitem(DATASETS, "food101", _with_tar("food101"))
    packed("food101", root, monkeypatch)
    put(root / "all.tar", (root / "all.tar").read_bytes()[:damage])
    with pytest.raises(UserError, match=r"food101 .*cannot be made from .*cut short: remove it \(all\.tar\)"):
        fetch(settings("food101", root, download=False))
    assert [path.name for path in root.iterdir()] == ["all.tar"]


def test_fetch_that_was_killed_is_not_taken_for_complete_and_is_done_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "sets"
    monkeypatch.setitem(DATASETS, "food101", _with_tar("food101"))
    packed("food101", root, monkeypatch)
    chosen = settings("food101", root, download=False)

    def killed(found: dict[str, Path], place: Path) -> None:
        put(place / "food-101" / "meta" / "train.json", "{")
        put(place / "food-101" / "images" / "half.jpg", "x")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "_unpack", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(chosen)
    assert locate_dataset("food101", root) is None
    assert preview_dataset(chosen).identity == ""
    fetch(chosen)
    assert preview_dataset(chosen).images == 12
    assert not (root / "food-101" / "images" / "half.jpg").exists()
    assert not (root / ".food101.partial").exists()


def test_what_torchvision_fetches_is_moved_into_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import utils

    made, root = tmp_path / "made", tmp_path / "sets"
    MINIATURES["eurosat"](made, monkeypatch)
    zipped = Path(shutil.make_archive(str(tmp_path / "EuroSAT"), "zip", made / "eurosat"))

    def fetched(url: str, to: str, *args: object) -> None:
        shutil.copy(zipped, to)

    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, **kwargs: url)
    monkeypatch.setattr(utils, "_urlretrieve", fetched)
    monkeypatch.setattr(
        utils,
        "calculate_md5",
        lambda path, **kwargs: "c8fa014336c82ac7804f0398fcb19387" if md5(Path(path)) == md5(zipped) else "other",
    )
    fetch(settings("eurosat", root))
    assert preview_dataset(settings("eurosat", root)).images == 12
    assert [path.name for path in root.iterdir()] == ["eurosat"]
    assert os.listdir(root / "eurosat") == ["2750"]


def test_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(UserError, match=r"cannot be written there .*prepare\.root"):
        fetch(settings("cifar10", tmp_path / "sets"))

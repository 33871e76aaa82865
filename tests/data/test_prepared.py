"""Claims about prepared sets: whole or not at all, readable with numpy alone, told apart by their content."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.prepare.writer import write_prepared
from pipeline.data.prepared.prepared import open_prepared
from pipeline.data.sources.image_source import ArraySource
from pipeline.errors import UserError


def source() -> ArraySource:
    """Six 4 x 5 colour images of three classes."""
    rng = np.random.default_rng(0)
    return ArraySource(
        name="made up",
        images=rng.integers(0, 256, size=(6, 4, 5, 3), dtype=np.uint8),
        labels=np.array([0, 1, 2, 0, 1, 0], dtype=np.int64),
        masks=rng.integers(0, 2, size=(6, 4, 5), dtype=np.uint8),
        classes=("cat", "dog", "bird"),
        origin="drawn at random",
        licence="none",
    )


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "prepared"
    write_prepared(source(), folder)
    return folder


def test_prepared_set_is_readable_with_numpy_alone(prepared: Path) -> None:
    np.testing.assert_array_equal(np.load(prepared / "images.npy"), source().images)
    np.testing.assert_array_equal(np.load(prepared / "labels.npy"), source().labels)
    np.testing.assert_array_equal(np.load(prepared / "masks.npy"), np.asarray(source().masks))
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert manifest["images"] == 6
    assert manifest["image_size"] == [4, 5]
    assert manifest["channels"] == 3
    assert manifest["counts"] == {"cat": 3, "dog": 2, "bird": 1}
    assert manifest["has_masks"] is True
    assert manifest["masks_from"] == "masks"
    assert manifest["origin"] == "drawn at random"


def test_opened_set_is_what_was_written(prepared: Path) -> None:
    opened = open_prepared(prepared)
    np.testing.assert_array_equal(opened.images, source().images)
    np.testing.assert_array_equal(opened.labels, source().labels)
    assert opened.masks is not None
    np.testing.assert_array_equal(opened.masks, np.asarray(source().masks))
    assert opened.classes == ("cat", "dog", "bird")
    assert opened.image_size == (4, 5)
    assert opened.channels == 3


def test_opened_arrays_are_memory_mapped_and_cannot_be_written(prepared: Path) -> None:
    opened = open_prepared(prepared)
    assert isinstance(opened.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        opened.images[0] = 0


def test_set_without_masks_has_none(tmp_path: Path) -> None:
    write_prepared(replace(source(), masks=None), tmp_path / "prepared")
    assert open_prepared(tmp_path / "prepared").masks is None
    assert not (tmp_path / "prepared" / "masks.npy").exists()


def test_classes_without_images_are_counted_as_0(tmp_path: Path) -> None:
    manifest = write_prepared(replace(source(), classes=("cat", "dog", "bird", "fish")), tmp_path / "prepared")
    assert manifest["counts"]["fish"] == 0


def test_same_content_has_the_same_hash_wherever_it_lies(prepared: Path, tmp_path: Path) -> None:
    again = write_prepared(replace(source(), name="another", origin="elsewhere"), tmp_path / "again")
    assert again["data_hash"] == open_prepared(prepared).data_hash
    assert len(again["data_hash"]) == 64


def test_any_change_of_content_changes_the_hash(prepared: Path, tmp_path: Path) -> None:
    pixels, labels, masks = (array.copy() for array in (source().images, source().labels, np.asarray(source().masks)))
    pixels[5, 3, 4, 2] ^= 1
    labels[0] = 1
    masks[0, 0, 0] ^= 1
    changed = [
        replace(source(), images=pixels),
        replace(source(), labels=labels),
        replace(source(), masks=masks),
        replace(source(), masks=None),
        replace(source(), classes=("cat", "dog", "birds")),
    ]
    hashes = {write_prepared(other, tmp_path / str(i))["data_hash"] for i, other in enumerate(changed)}
    assert len(hashes | {open_prepared(prepared).data_hash}) == 6


def test_preparing_again_replaces_what_was_there(prepared: Path) -> None:
    write_prepared(replace(source(), masks=None, licence="other"), prepared)
    assert sorted(path.name for path in prepared.iterdir()) == ["images.npy", "labels.npy", "manifest.json"]
    assert open_prepared(prepared).manifest["licence"] == "other"


def test_preparing_that_fails_leaves_the_old_set_as_it_was(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_prepared(prepared).data_hash
    save = np.save

    def full_disk(path: Path, array: object) -> None:
        if path.name == "labels.npy":
            raise OSError(28, "No space left on device")
        save(path, array)

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        write_prepared(replace(source(), licence="other"), prepared)
    assert open_prepared(prepared).data_hash == before
    assert open_prepared(prepared).manifest["licence"] == "none"


def test_what_an_interrupted_preparation_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "prepared.partial").mkdir()
    (tmp_path / "prepared.partial" / "images.npy").write_bytes(b"torn")
    write_prepared(source(), tmp_path / "prepared")
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]


def test_set_that_is_not_there_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json: not there\. Run `dvc repro prepare` first"):
        open_prepared(tmp_path / "prepared")


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "masks.npy"])
def test_set_that_lacks_an_array_is_told_by_its_name(prepared: Path, name: str) -> None:
    (prepared / name).unlink()
    with pytest.raises(UserError, match=rf"{name}: not there"):
        open_prepared(prepared)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", b""),
        ("manifest.json", b"{"),
        ("manifest.json", b"[]"),
        ("manifest.json", b"{}"),
        ("manifest.json", b"\xff\xfe"),
        ("images.npy", b"these are no numbers"),
        ("images.npy", b"\x93NUMPY\x01\x00"),
    ],
)
def test_broken_file_is_told_with_the_command_that_mends_it(prepared: Path, name: str, content: bytes) -> None:
    (prepared / name).write_bytes(content)
    with pytest.raises(UserError, match=r"not a prepared set .*Run `dvc repro --single-item --force prepare`"):
        open_prepared(prepared)


def test_array_of_no_bytes_is_told_with_the_command_that_mends_it(prepared: Path) -> None:
    (prepared / "images.npy").write_bytes(b"")
    with pytest.raises(UserError, match="not a prepared set"):
        open_prepared(prepared)


def test_manifest_that_lists_no_images_is_told_with_the_command_that_mends_it(prepared: Path) -> None:
    (prepared / "manifest.json").write_text('{"format": 1, "sha256": {}}')
    with pytest.raises(UserError, match="not a prepared set"):
        open_prepared(prepared)


def test_array_that_is_cut_short_is_told(prepared: Path) -> None:
    whole = (prepared / "images.npy").read_bytes()
    (prepared / "images.npy").write_bytes(whole[:-1])
    with pytest.raises(UserError, match="not a prepared set"):
        open_prepared(prepared)


def test_set_of_another_format_is_told(prepared: Path) -> None:
    manifest = json.loads((prepared / "manifest.json").read_text())
    (prepared / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(UserError, match=r"prepared by another version \(format 2\)"):
        open_prepared(prepared)


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="the prepared data cannot be written"):
        write_prepared(source(), tmp_path / "data" / "prepared")

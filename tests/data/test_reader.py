"""Claims about the user's own pictures from root to prepared set: the same from any packing, in any number of goes."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.picture_sets import encoded, picture, pictures, write_archive, write_folder

from pipeline.data.decode.decode import decode_image
from pipeline.data.prepare import reader
from pipeline.data.prepare.reader import ImageFiles, open_source
from pipeline.data.prepare.writer import write_prepared
from pipeline.data.prepared.prepared import Prepared, open_prepared
from pipeline.data.sources.image_source import DecodedBatch, SourceConfig, preview_dataset
from pipeline.errors import UserError

SIDE = 8
FILES = pictures({"cat": 4, "dog": 3})
SPLIT = pictures({"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/dog": 1})


def settings(root: Path) -> SourceConfig:
    return SourceConfig("image_folder", SIDE, root, root.name)


def prepared(root: Path, *, workers: int = 1, skip_broken: bool = False) -> Prepared:
    folder = root.with_name(root.name + "-prepared")
    work = root.with_name("work")
    write_prepared(open_source(settings(root), workers=workers), folder, work=work, skip_broken=skip_broken)
    return open_prepared(folder)


def grey(value: int, size: tuple[int, int] = (10, 8)) -> bytes:
    return encoded(Image.new("L", size, value))


def test_folder_is_prepared_row_by_row(tmp_path: Path) -> None:
    found = prepared(write_folder(tmp_path / "set", FILES))
    assert found.classes == ("cat", "dog")
    assert found.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert found.images.shape == (7, SIDE, SIDE, 3)
    for row, name in enumerate(sorted(FILES)):
        np.testing.assert_array_equal(found.images[row], decode_image(FILES[name], SIDE)[0])
    assert found.masks is None
    assert found.test is None
    assert found.manifest["counts"] == {"cat": 4, "dog": 3}
    assert json.loads((tmp_path / "set-prepared" / "files.json").read_text()) == sorted(FILES)
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize("files", [FILES, SPLIT, FILES | {"masks/cat/1.png": grey(1)}], ids=["plain", "split", "masks"])
def test_every_packing_of_a_set_gives_the_same_data(tmp_path: Path, files: dict[str, bytes]) -> None:
    hashes = {prepared(write_folder(tmp_path / "set", files)).data_hash}
    mixed = list(files.items())
    np.random.default_rng(0).shuffle(mixed)  # type: ignore[arg-type]
    for kind in ("a.tar", "b.tar.xz", "c.tar.gz", "d.tgz", "e.zip"):
        hashes.add(prepared(write_archive(tmp_path / kind, mixed)).data_hash)
    wrapped = {f"around/{name}": content for name, content in files.items()}
    hashes.add(prepared(write_archive(tmp_path / "f.tar", wrapped)).data_hash)
    assert len(hashes) == 1


def test_worker_processes_give_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = prepared(write_folder(tmp_path / "alone", FILES))
    monkeypatch.setattr(reader, "SMALL_FILES", 0)
    monkeypatch.setattr(reader, "CHUNK_FILES", 2)
    together = prepared(write_archive(tmp_path / "together.tar.xz", FILES), workers=2)
    assert together.data_hash == alone.data_hash


def test_preview_tells_what_is_prepared(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", SPLIT)
    told, found = preview_dataset(settings(root)), prepared(root)
    assert told.images == len(found.images) == 9
    assert told.classes == found.classes
    assert told.channels == found.channels
    assert told.test_images == found.manifest["test_images"] == 3
    assert told.class_counts == (3, 3)


def test_own_test_split_is_kept(tmp_path: Path) -> None:
    found = prepared(write_folder(tmp_path / "set", SPLIT))
    assert found.test is not None
    assert found.test.tolist() == [False] * 6 + [True] * 3
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("kind", ["set", "set.tar"])
def test_pictures_without_a_mask_are_undecided_all_over(tmp_path: Path, kind: str) -> None:
    files = {"masks/cat/1.png": grey(1), "masks/dog/0.png": grey(0)} | FILES
    found = prepared((write_folder if kind == "set" else write_archive)(tmp_path / kind, files))
    assert found.masks is not None
    assert [np.unique(mask).tolist() for mask in found.masks] == [[255], [1], [255], [255], [0], [255], [255]]


BROKEN = {"cat/0.png": b"", "cat/note.txt": b"words", "dog/9.jpg": picture(0, (64, 64), "JPEG")[:700]}


@pytest.mark.parametrize("kind", ["set", "set.tar.gz", "set.zip"])
def test_broken_files_are_named_counted_and_refused(tmp_path: Path, kind: str) -> None:
    root = (write_folder if kind == "set" else write_archive)(tmp_path / kind, FILES | BROKEN)
    with pytest.raises(UserError, match="3 of 9 files cannot be used") as refusal:
        prepared(root)
    for words in ("cat/0.png: an empty file", "cat/note.txt: not a picture", "dog/9.jpg: damaged", "skip_broken: true"):
        assert words in str(refusal.value)
    assert not (tmp_path / f"{kind}-prepared").exists()


def test_many_broken_files_are_told_in_a_few_lines(tmp_path: Path) -> None:
    files = FILES | {f"cat/bad{number}.jpg": b"x" for number in range(300)}
    with pytest.raises(UserError, match="and 290 more") as refusal:
        prepared(write_folder(tmp_path / "set", files))
    assert len(str(refusal.value).splitlines()) <= 13


def test_broken_files_are_left_out_where_the_user_says_so(tmp_path: Path) -> None:
    found = prepared(write_folder(tmp_path / "set", FILES | BROKEN), skip_broken=True)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    kept = [name for name in sorted(FILES) if name != "cat/0.png"]
    for row, name in enumerate(kept):
        np.testing.assert_array_equal(found.images[row], decode_image(FILES[name], SIDE)[0])
    assert set(found.manifest["skipped"]) == set(BROKEN)
    assert json.loads((tmp_path / "set-prepared" / "files.json").read_text()) == kept


def test_files_that_were_refused_are_not_decoded_again_once_they_may_be_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path / "set", FILES | BROKEN)
    with pytest.raises(UserError):
        prepared(root)
    monkeypatch.setattr(ImageFiles, "read", lambda self, start: pytest.fail("read again"))
    assert len(prepared(root, skip_broken=True).images) == 6


def test_set_without_one_good_picture_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", dict.fromkeys(FILES, b"x"))
    with pytest.raises(UserError, match="not one of 7 pictures could be decoded"):
        prepared(root, skip_broken=True)


@pytest.mark.parametrize("kind", ["set", "set.tar"])
@pytest.mark.parametrize(("content", "said"), [(b"x", "masks/cat/1.png: not a picture"), (grey(1, (8, 10)), "the mask of cat/1.png: 8 x 10, but the picture is 10 x 8")])  # fmt: skip
def test_mask_that_cannot_be_used_is_refused_or_taken_as_undecided(
    tmp_path: Path, kind: str, content: bytes, said: str
) -> None:
    files = {"masks/cat/1.png": content, "masks/cat/2.png": grey(1)} | FILES
    root = (write_folder if kind == "set" else write_archive)(tmp_path / kind, files)
    with pytest.raises(UserError, match=f"1 of 9 files cannot be used:\n  {said}"):
        prepared(root)
    found = prepared(root, skip_broken=True)
    assert found.masks is not None
    assert len(found.images) == 7
    assert [int(mask[0, 0]) for mask in found.masks[:3]] == [255, 255, 1]


class Killed(BaseException):
    """Stands for whatever ends a preparation midway."""


def killed_after(monkeypatch: pytest.MonkeyPatch, blocks: int) -> list[int]:
    """Make reading die after so many blocks; returns where readings began."""
    began: list[int] = []
    read = ImageFiles.read

    def dying(self: ImageFiles, start: int) -> Iterator[DecodedBatch]:
        began.append(start)
        for index, block in enumerate(read(self, start)):
            if index == blocks:
                raise Killed
            yield block

    monkeypatch.setattr(ImageFiles, "read", dying)
    return began


@pytest.mark.parametrize("kind", ["set", "set.tar.xz", "set.zip"])
def test_killed_preparation_goes_on_where_it_was(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"masks/cat/1.png": grey(1), "masks/dog/0.png": grey(1)} | FILES | BROKEN
    expected = prepared(write_folder(tmp_path / "once", files), skip_broken=True).data_hash
    root = (write_folder if kind == "set" else write_archive)(tmp_path / kind, files)
    monkeypatch.setattr(reader, "CHUNK_FILES", 2)
    began = killed_after(monkeypatch, 2)
    for _ in range(2):
        with pytest.raises(Killed):
            prepared(root, skip_broken=True)
        assert not (tmp_path / f"{kind}-prepared").exists()
    found = prepared(root, skip_broken=True)
    assert began == [0, 4, 8]
    assert found.data_hash == expected
    assert set(found.manifest["skipped"]) == set(BROKEN)


def test_half_made_set_of_other_pictures_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "set", FILES)
    monkeypatch.setattr(reader, "CHUNK_FILES", 2)
    with monkeypatch.context() as patch:
        killed_after(patch, 2)
        with pytest.raises(Killed):
            prepared(root)
    write_folder(root, {"cat/0.png": picture(99, (20, 20))})
    expected = decode_image(picture(99, (20, 20)), SIDE)[0]
    np.testing.assert_array_equal(prepared(root).images[0], expected)
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize("damage", ["progress.json", "images.npy"])
def test_half_made_set_that_is_damaged_is_begun_anew(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path / "set", FILES)
    monkeypatch.setattr(reader, "CHUNK_FILES", 2)
    began = killed_after(monkeypatch, 2)
    with pytest.raises(Killed):
        prepared(root)
    (half,) = (tmp_path / "work").iterdir()
    (half / damage).write_bytes(b"torn")
    with pytest.raises(Killed):
        prepared(root)
    assert began == [0, 0]


def test_archive_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    root = write_archive(tmp_path / "set.tar", FILES)
    source = open_source(settings(root))
    write_archive(root, dict(reversed(FILES.items())))
    with pytest.raises(UserError, match="has changed while it was read"):
        list(source.read(0))


def test_picture_that_goes_away_is_told_as_broken(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", FILES)
    source = open_source(settings(root))
    (root / "cat" / "2.png").unlink()
    with pytest.raises(UserError, match=r"cat/2\.png: No such file or directory"):
        write_prepared(source, tmp_path / "prepared")


def test_file_names_that_are_not_utf_8_are_prepared_and_shown_escaped(tmp_path: Path) -> None:
    files = FILES | {"cat/caf\udce9.png": picture(50), "dog/\udcff.jpg": b"bad"}
    for root in (write_folder(tmp_path / "set", files), write_archive(tmp_path / "set.tar", files)):
        with pytest.raises(UserError, match=r"dog/\\xff\.jpg: not a picture"):
            prepared(root)
        assert len(prepared(root, skip_broken=True).images) == 8
        assert r"cat/caf\xe9.png" in json.loads(
            root.with_name(f"{root.name}-prepared").joinpath("files.json").read_text()
        )


def test_progress_is_told_up_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CHUNK_FILES", 3)
    told: list[tuple[int, int]] = []
    source = open_source(settings(write_folder(tmp_path / "set", FILES)))
    write_prepared(source, tmp_path / "prepared", on_progress=lambda done, total: told.append((done, total)))
    assert told == [(3, 7), (6, 7), (7, 7)]


def test_chunks_are_small_where_pictures_are_large(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", FILES)
    source = open_source(SourceConfig("image_folder", 1024, root, "set"))
    assert [len(block.images) for block in source.read(0)] == [2, 2, 2, 1]


def test_files_that_are_none_are_named_as_what_they_are_and_can_be_skipped(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", pictures({"cat": 3, "dog": 3}))
    (root / "cat" / "gone.png").symlink_to("nowhere.png")
    (root / "cat" / "self.png").symlink_to("self.png")
    os.mkfifo(root / "dog" / "pipe.png")
    with pytest.raises(UserError) as refusal:
        prepared(root)
    assert "cat/gone.png: a link whose target does not exist" in str(refusal.value)
    assert "cat/self.png: a link that leads back to itself" in str(refusal.value)
    assert "dog/pipe.png: a pipe, not a file" in str(refusal.value)
    assert prepared(root, skip_broken=True).manifest["images"] == 6

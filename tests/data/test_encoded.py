"""Claims about sets that are too large for arrays: kept as encoded squares, read by rows as arrays are."""

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.picture_sets import encoded, pictures, write_archive, write_folder

from pipeline.data.prepare import reader
from pipeline.data.prepare.reader import open_source
from pipeline.data.prepare.writer import write_prepared
from pipeline.data.prepared.encoded import EncodedRows
from pipeline.data.prepared.prepared import Prepared, open_prepared
from pipeline.data.sources.source_config import SourceConfig
from pipeline.errors import UserError

SIDE = 8
MASK = encoded(Image.fromarray(np.tile(np.array([0, 0, 0, 7, 7, 7, 255, 255, 255, 255], dtype=np.uint8), (8, 1))))
FILES = pictures({"train/cat": 4, "train/dog": 3, "test/cat": 2}) | {"masks/train/cat/1.png": MASK}
BYTES = 9 * SIDE * SIDE * 4
"""Of the arrays of such a set: three channels and a mask."""


def prepared(root: Path, limit: int | None = 0, *, skip_broken: bool = False) -> Prepared:
    folder = root.with_name(root.name + f"-{limit}")
    source = open_source(SourceConfig("image_folder", SIDE, root, root.name, array_limit=limit), workers=1)
    write_prepared(source, folder, work=root.with_name("work"), skip_broken=skip_broken)
    return open_prepared(folder)


@pytest.fixture
def both(tmp_path: Path) -> tuple[Prepared, Prepared]:
    """The same pictures in arrays and encoded."""
    root = write_folder(tmp_path / "set", FILES)
    return prepared(root, None), prepared(root)


def test_encoded_rows_are_the_arrays_up_to_jpeg(both: tuple[Prepared, Prepared]) -> None:
    arrays, files = both
    assert isinstance(files.images, EncodedRows)
    assert isinstance(files.masks, EncodedRows)
    assert arrays.masks is not None
    assert files.images.shape == arrays.images.shape == (9, SIDE, SIDE, 3)
    assert (files.images.dtype, files.images.ndim, len(files.images)) == (np.uint8, 4, 9)
    assert (files.image_size, files.channels) == (arrays.image_size, arrays.channels)
    # Pictures of noise are the hardest for JPEG.
    assert np.abs(np.asarray(files.images).astype(int) - arrays.images).mean() < 6
    np.testing.assert_array_equal(np.asarray(files.masks), arrays.masks)
    np.testing.assert_array_equal(files.labels, arrays.labels)
    assert files.manifest["encoded"] is True
    assert arrays.manifest["encoded"] is False
    assert files.data_hash != arrays.data_hash


def test_rows_are_chosen_as_those_of_an_array(both: tuple[Prepared, Prepared]) -> None:
    images, masks = both[1].images, both[1].masks
    assert isinstance(images, EncodedRows)
    assert masks is not None
    whole = np.asarray(images)
    flags = np.arange(9) % 2 == 0
    for rows in (slice(2, 5), slice(None, None, -3), np.array([7, 0, 0]), flags, [1, -1], np.array([], dtype=np.int64)):
        np.testing.assert_array_equal(images[rows], whole[rows])
        assert images[rows].shape == whole[rows].shape
    np.testing.assert_array_equal(images[-1], whole[-1])
    np.testing.assert_array_equal(images[np.int64(3)], whole[3])
    assert masks[1].shape == (SIDE, SIDE)
    for row in (9, -10, np.array([9])):
        with pytest.raises(IndexError):
            images[row]


def test_files_can_be_had_as_they_are_for_other_decoders(both: tuple[Prepared, Prepared]) -> None:
    images, masks = both[1].images, both[1].masks
    assert isinstance(images, EncodedRows)
    assert isinstance(masks, EncodedRows)
    with Image.open(io.BytesIO(images.encoded(4).tobytes())) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (SIDE, SIDE), "RGB")
        np.testing.assert_array_equal(np.asarray(image), images[4])
    assert len(masks.encoded(0)) == 0
    assert (masks[0] == 255).all()


def test_rows_can_be_sent_to_other_processes(both: tuple[Prepared, Prepared]) -> None:
    sent = pickle.dumps(both[1].images)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)[:], both[1].images[:])


@pytest.mark.parametrize(("limit", "kept"), [(BYTES - 1, True), (BYTES, False), (None, False)])
def test_limit_decides_on_the_form(tmp_path: Path, limit: int | None, kept: bool) -> None:
    found = prepared(write_folder(tmp_path / "set", FILES), limit)
    assert isinstance(found.images, EncodedRows) == kept
    assert (tmp_path / f"set-{limit}" / "images.bin").exists() == kept
    assert (tmp_path / f"set-{limit}" / "images.npy").exists() != kept


def test_every_packing_gives_the_same_data(tmp_path: Path) -> None:
    mixed = list(FILES.items())
    np.random.default_rng(0).shuffle(mixed)  # type: ignore[arg-type]
    roots = [
        write_folder(tmp_path / "set", FILES),
        write_archive(tmp_path / "a.tar", mixed),
        write_archive(tmp_path / "b.zip", FILES),
    ]
    assert len({prepared(root).data_hash for root in roots}) == 1


def test_broken_files_are_left_out(tmp_path: Path) -> None:
    files = FILES | {"train/cat/0.png": b"x", "masks/train/cat/2.png": encoded(Image.new("L", (8, 8), 1))}
    root = write_folder(tmp_path / "set", files)
    with pytest.raises(UserError, match="2 of 11 files cannot be used"):
        prepared(root)
    found, arrays = prepared(root, skip_broken=True), prepared(root, None, skip_broken=True)
    assert arrays.masks is not None
    assert found.masks is not None
    assert found.images.shape == arrays.images.shape == (8, SIDE, SIDE, 3)
    np.testing.assert_array_equal(found.labels, arrays.labels)
    np.testing.assert_array_equal(found.masks[:], arrays.masks)
    assert np.abs(found.images[:].astype(int) - arrays.images).mean() < 6


@pytest.mark.parametrize("name", ["images.bin", "images.index.npy", "masks.bin"])
def test_file_that_is_missing_or_cut_short_is_told(both: tuple[Prepared, Prepared], name: str, tmp_path: Path) -> None:
    path = tmp_path / "set-0" / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"not a prepared set .*Run `dvc repro --single-item --force prepare`"):
        open_prepared(tmp_path / "set-0")
    path.unlink()
    with pytest.raises(UserError, match=rf"{name}: not there"):
        open_prepared(tmp_path / "set-0")


def test_row_that_is_damaged_is_told_when_it_is_read(both: tuple[Prepared, Prepared], tmp_path: Path) -> None:
    path = tmp_path / "set-0" / "images.bin"
    path.write_bytes(bytes(path.stat().st_size))
    found = open_prepared(tmp_path / "set-0")
    with pytest.raises(UserError, match=r"images\.bin: row 3 is damaged .*dvc repro --single-item --force prepare"):
        found.images[np.array([3])]


def test_executor_that_is_handed_in_decodes_and_is_left_running(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", FILES)
    expected = prepared(root).data_hash
    with ThreadPoolExecutor(2) as executor:
        chosen = SourceConfig("image_folder", SIDE, root, "set", array_limit=0)
        made = write_prepared(open_source(chosen, executor=executor, workers=2), tmp_path / "other")
        assert made["data_hash"] == expected
        assert executor.submit(lambda: 5).result() == 5


def test_chunks_in_flight_stay_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "set", pictures({"cat": 60, "dog": 60}))
    monkeypatch.setattr(reader, "CHUNK_FILES", 2)
    waiting, most = 0, 0

    class Counting(ThreadPoolExecutor):
        def submit(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal waiting, most
            waiting += 1
            most = max(most, waiting)
            return super().submit(*args, **kwargs)

    with Counting(2) as executor:
        for _ in open_source(SourceConfig("image_folder", SIDE, root, "set"), executor=executor, workers=2).read(0):
            waiting -= 1
    assert 2 < most <= 2 * reader.LOOK_AHEAD + 1

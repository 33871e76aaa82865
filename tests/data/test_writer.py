"""Claims about writing a prepared set: on a full disk or across file systems, it is there whole or not at all."""

import errno
import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.prepare import row_files
from pipeline.data.prepare.writer import write_prepared
from pipeline.data.prepared.prepared import open_prepared
from pipeline.data.sources.image_source import ArraySource
from pipeline.errors import UserError


def source(value: int = 0) -> ArraySource:
    rng = np.random.default_rng(value)
    return ArraySource(
        name="made up",
        images=rng.integers(0, 256, size=(5, 4, 4, 3), dtype=np.uint8),
        labels=np.array([0, 1, 0, 1, 1], dtype=np.int64),
        masks=rng.integers(0, 2, size=(5, 4, 4), dtype=np.uint8),
        classes=("cat", "dog"),
        origin="drawn at random",
        licence="none",
        test=np.array([False, False, False, True, True]),
    )


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A prepared set that is there before."""
    write_prepared(source(), tmp_path / "data" / "prepared", work=tmp_path / "work")
    return tmp_path / "data" / "prepared"


def test_arrays_are_the_files_that_numpy_saves(earlier: Path, tmp_path: Path) -> None:
    made = source()
    for name, array in (("images", made.images), ("masks", made.masks), ("labels", made.labels), ("test", made.test)):
        np.save(tmp_path / "saved.npy", np.asarray(array))
        assert (earlier / f"{name}.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()


def test_own_test_split_is_part_of_the_data(earlier: Path, tmp_path: Path) -> None:
    made = source()
    opened = open_prepared(earlier)
    assert opened.test is not None
    assert opened.test.tolist() == [False, False, False, True, True]
    without = write_prepared(replace(made, test=None), tmp_path / "other")
    assert without["data_hash"] != opened.data_hash
    assert open_prepared(tmp_path / "other").test is None


def _full(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    if where == "rows":
        monkeypatch.setattr(row_files.NpyRowWriter, "write", lambda *a: (_ for _ in ()).throw(error))
    elif where == "sync":
        monkeypatch.setattr(os, "fsync", lambda *a: (_ for _ in ()).throw(error))
    else:
        real = Path.write_text

        def write_text(self: Path, *args: Any, **kwargs: Any) -> int:
            if self.name == where:
                raise error
            return real(self, *args, **kwargs)

        monkeypatch.setattr(Path, "write_text", write_text)


@pytest.mark.parametrize("where", ["rows", "sync", "progress.json.partial", "manifest.json"])
def test_full_disk_is_told_and_the_earlier_set_stays(
    earlier: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_prepared(earlier).data_hash
    with monkeypatch.context() as patch:
        _full(patch, where)
        with pytest.raises(UserError, match=r"cannot be written: No space left on device\. Free some") as refusal:
            write_prepared(source(1), earlier, work=tmp_path / "work")
    assert len(str(refusal.value).splitlines()) == 1
    assert open_prepared(earlier).data_hash == before
    assert [path.name for path in earlier.parent.iterdir()] == ["prepared"]
    assert write_prepared(source(1), earlier, work=tmp_path / "work")["data_hash"] != before


def test_lack_of_space_is_told_before_anything_is_decoded(
    earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    large = np.broadcast_to(np.uint8(0), (5, 10_000, 13_333, 3))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40, 400_000))
    monkeypatch.setattr(ArraySource, "read", lambda self, start: pytest.fail("read"))
    with pytest.raises(UserError, match=r"the prepared images need 2\.0 GB, and 400 kB are free there"):
        write_prepared(replace(source(1), images=large, masks=None), earlier, work=tmp_path / "work")
    assert not (tmp_path / "work").exists() or not list((tmp_path / "work").glob("*/images.npy"))


def test_work_folder_on_another_file_system_is_copied_from(
    earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = os.rename

    def across(here: Path, there: Path) -> None:
        if Path(here).parent.name == "whole":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        move(here, there)

    monkeypatch.setattr(os, "rename", across)
    manifest = write_prepared(source(1), earlier, work=tmp_path / "work")
    assert open_prepared(earlier).data_hash == manifest["data_hash"]
    assert [path.name for path in earlier.parent.iterdir()] == ["prepared"]
    assert not list((tmp_path / "work").iterdir())


def test_what_a_killed_move_left_is_no_hindrance(earlier: Path, tmp_path: Path) -> None:
    for name in ("prepared.new/new", "prepared.new/old"):
        (earlier.parent / name).mkdir(parents=True)
        (earlier.parent / name / "images.npy").write_bytes(b"torn")
    write_prepared(source(1), earlier, work=tmp_path / "work")
    assert [path.name for path in earlier.parent.iterdir()] == ["prepared"]

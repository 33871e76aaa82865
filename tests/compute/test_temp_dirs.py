"""Sockets have room whatever TMPDIR is, and a TMPDIR that will not do is refused in a sentence."""

import multiprocessing.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.compute.temp_dirs import (
    BELOW_RAY,
    ROOM,
    check_temporary,
    set_socket_folder,
    short_folder,
    short_socket_path,
)
from pipeline.errors import UserError


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    def be(folder: Path) -> None:
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)

    return be


@pytest.fixture
def long_folder() -> Iterator[Callable[[int], Path]]:
    """A folder whose path has so many bytes, whatever the tests' own folder is."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:

        def make(size: int) -> Path:
            folder = Path(place) / "é"
            folder /= "l" * (size - len(os.fsencode(folder)) - 1)
            folder.mkdir(parents=True)
            assert len(os.fsencode(folder)) == size
            return folder

        yield make


@pytest.mark.parametrize("size", [76, 126, 200])
def test_own_folder_is_short_private_and_goes(
    long_folder: Callable[[int], Path], temporary: Callable[[Path], None], size: int
) -> None:
    temporary(long_folder(size))
    with short_folder() as folder:
        assert len(os.fsencode(folder)) + BELOW_RAY <= ROOM
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_uid == os.getuid()
        (folder / "left").touch()
    assert not folder.exists()


def test_short_tmpdir_is_the_place(temporary: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        temporary(Path(folder))
        assert short_socket_path() == folder
        os.chmod(folder, 0o777)  # others could take away what is made there
        assert short_socket_path() != folder


def test_multiprocessing_gets_room_for_its_sockets(tmp_path: Path, long_folder: Callable[[int], Path]) -> None:
    """A tensor handed over by a worker goes by way of a socket; by a process of its own, since the folder is kept."""
    script = """
import numpy as np, os, tempfile
from pathlib import Path
from pipeline.data.batches.prefetch import prefetch_batches

class Rows:
    shape = (4, 2, 2, 3)
    def __getitem__(self, rows):
        return np.ones((len(rows), 2, 2, 3), dtype=np.uint8)

batches = [np.arange(2), np.arange(2)]
print(sum(int(batch.sum()) for batch in prefetch_batches(Rows(), batches, workers=1)), tempfile.gettempdir())
"""
    folder = long_folder(100)
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.split() == ["48", str(folder)]


def test_multiprocessing_is_left_alone_where_it_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.util, "get_temp_dir", lambda: pytest.fail("was asked"))
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    set_socket_folder()


def test_tmpdir_that_can_be_written_passes(tmp_path: Path, temporary: Callable[[Path], None]) -> None:
    temporary(tmp_path)
    check_temporary()
    assert list(tmp_path.iterdir()) == []


def test_tmpdir_that_will_not_do_is_refused(
    tmp_path: Path, temporary: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary(tmp_path / "missing")
    with pytest.raises(UserError, match=r"TMPDIR: .*missing: cannot be written \(No such file.*unset it"):
        check_temporary()
    (tmp_path / "file").touch()
    temporary(tmp_path / "file")
    with pytest.raises(UserError, match=r"TMPDIR: .*file: cannot be written \(Not a directory"):
        check_temporary()
    monkeypatch.setenv("TMPDIR", "here")
    with pytest.raises(UserError, match="is relative"):
        check_temporary()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_full_tmpdir_is_told(
    tmp_path: Path, temporary: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary(tmp_path)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "wb", buffering=0))  # noqa: SIM115
    with pytest.raises(UserError, match=r"TMPDIR: .*: is full. Free some space"):
        check_temporary()

"""Claims about replacing files and folders: what is cut off, at whatever step, leaves the old or the new."""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.files.atomic import replace_file, replace_folder, write_whole


def _cut_offs(folder: Path, work: Callable[[], None]) -> Iterator[None]:
    """Do a piece of work again and again in a child process that is ended at its first, second, ... access to files."""
    for step in range(1, 100):
        child = os.fork()
        if child == 0:
            left = step

            def count(event: str, arguments: tuple[object, ...]) -> None:
                nonlocal left
                if event.split(".")[0] in ("os", "open", "shutil") and str(folder) in str(arguments):
                    left -= 1
                    if left == 0:
                        os._exit(1)

            sys.addaudithook(count)
            work()
            os._exit(0)
        whole = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        yield
        if whole:
            assert step > 2, "no step has been cut off"
            return
    pytest.fail("the work never came to its end")


def _write(folder: Path) -> None:
    with replace_folder(folder) as whole:
        for name in ("a", "b", "c"):
            (whole / name).write_text("new")


def _content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())} if folder.exists() else {}


def test_file_that_is_cut_off_is_the_old_or_the_new(tmp_path: Path) -> None:
    file, seen = tmp_path / "notes.json", set()
    file.write_text("old")
    for _ in _cut_offs(tmp_path, lambda: write_whole(file, "new")):
        seen.add(file.read_text())
    assert seen == {"old", "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["notes.json"]


def test_new_file_that_is_cut_off_is_whole_or_not_there(tmp_path: Path) -> None:
    file, seen = tmp_path / "below" / "notes.json", set()
    for _ in _cut_offs(tmp_path, lambda: write_whole(file, "new")):
        seen.add(file.read_text() if file.exists() else None)
    assert seen == {None, "new"}


def test_folder_that_is_cut_off_is_the_old_or_the_new_or_for_a_moment_none_but_never_part_of_one(
    tmp_path: Path,
) -> None:
    folder, old, new = tmp_path / "run", dict.fromkeys("ad", "old"), dict.fromkeys("abc", "new")
    folder.mkdir()
    for name in old:
        (folder / name).write_text("old")
    seen = []
    for _ in _cut_offs(tmp_path, lambda: _write(folder)):
        seen.append(_content(folder))
    assert seen[0] == old
    assert seen[-1] == new
    assert all(each in (old, new, {}) for each in seen)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_old_folder_comes_back_where_a_process_was_killed_between_the_two_steps(tmp_path: Path) -> None:
    (tmp_path / "run.partial" / "old").mkdir(parents=True)
    (tmp_path / "run.partial" / "old" / "a").write_text("old")
    with pytest.raises(OSError, match="disk full"), replace_folder(tmp_path / "run"):
        raise OSError("disk full")
    assert _content(tmp_path / "run") == {"a": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_block_that_fails_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old")
    folder.mkdir()
    (folder / "a").write_text("old")
    for replace, to_path in ((replace_file, file), (replace_folder, folder)):
        with suppress(KeyboardInterrupt), replace(to_path) as partial:
            (partial if to_path == file else partial / "b").write_text("half")
            raise KeyboardInterrupt
    assert (file.read_text(), _content(folder)) == ("old", {"a": "old"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_what_is_written_lies_beside_its_target_and_what_a_killed_process_left_is_not_in_it(tmp_path: Path) -> None:
    (tmp_path / "file.partial").write_text("torn")
    (tmp_path / "folder.partial" / "new").mkdir(parents=True)
    (tmp_path / "folder.partial" / "new" / "torn").write_text("torn")
    with replace_file(tmp_path / "file") as partial:
        assert partial.parent == tmp_path
        assert not partial.exists()
        partial.write_text("new")
    _write(tmp_path / "folder")
    assert _content(tmp_path / "folder") == dict.fromkeys("abc", "new")


def test_processes_that_write_the_same_file_at_a_time_do_not_share_what_they_write_to(tmp_path: Path) -> None:
    with replace_file(tmp_path / "file", concurrent=True) as partial:
        assert str(os.getpid()) in partial.name
        partial.write_text("new")
    assert (tmp_path / "file").read_text() == "new"


def test_permissions_are_those_of_a_file_made_anew(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    (tmp_path / "kept").write_text("old")
    (tmp_path / "kept").chmod(0o600)
    write_whole(tmp_path / "kept", "é")
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert (tmp_path / "kept").read_bytes() == "é".encode()

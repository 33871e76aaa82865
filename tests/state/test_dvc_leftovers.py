"""Files that a killed DVC leaves half-written, cut at every length, are none that the next one stops at."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.state import dvc_leftovers
from pipeline.state.dvc_leftovers import is_database, is_entry, remove_leftovers
from pipeline.workspace import Workspace

STAGES = {
    "first": {"cmd": "mkdir out && cp in.txt out/a", "deps": ["in.txt"], "params": ["x"], "outs": ["out"]},
    "second": {"cmd": "cp out/a end.txt", "deps": ["out"], "outs": ["end.txt"]},
}


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvc_leftovers, "PAUSE_S", 0.0)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))


def _dvc(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which DVC has run two stages."""
    root = tmp_path_factory.mktemp("ran")
    (root / "in.txt").write_text("something\n")
    (root / "params.yaml").write_text("x: 1\n")
    (root / "dvc.yaml").write_text(json.dumps({"stages": STAGES}))
    for command in (["init", "--no-scm", "--quiet"], ["repro", "--quiet"]):
        done = _dvc(root, *command)
        assert done.returncode == 0, done.stderr
    return root


def _entries(root: Path) -> list[Path]:
    return sorted((root / ".dvc" / "cache" / "runs").glob("*/*/*"))


def test_what_dvc_has_written_is_left_alone(ran: Path) -> None:
    files = [path for path in sorted((ran / ".dvc").rglob("*")) if path.is_file() and path.suffix != ".lock"]
    before = {path: path.read_bytes() for path in files}
    assert len(_entries(ran)) == 2
    assert remove_leftovers(Workspace(ran, ran)) == []
    assert {path: path.read_bytes() for path in files} == before


def test_entry_of_the_cache_of_runs_is_none_at_any_length_but_its_own(ran: Path, tmp_path: Path) -> None:
    entry = _entries(ran)[0]
    content, cut = entry.read_bytes(), tmp_path / entry.name
    for length in range(content.rindex(b"\n  size:")):  # which is no part of what names an entry
        cut.write_bytes(content[:length])
        assert not is_entry(cut), content[:length]
    cut.write_bytes(content)
    assert is_entry(cut)
    assert not is_entry(cut.rename(tmp_path / ".abc.tmp"))


@pytest.mark.parametrize(
    ("name", "cut"), [(".pD9c.tmp", 0), (".pD9c.tmp", 40), (".pD9c.tmp", None), ("its own", 0), ("its own", 40)]
)
def test_dvc_goes_on_after_it_was_killed_while_writing_its_cache_of_runs(ran: Path, name: str, cut: int | None) -> None:
    entry = _entries(ran)[0]
    content = entry.read_bytes()
    left = entry if name == "its own" else entry.with_name(name)
    left.write_bytes(content[:cut])
    try:
        said = remove_leftovers(Workspace(ran, ran))
        assert said == ["half-written entries in DVC's cache of runs: 1 removed; their stages run again"]
        assert not left.exists()
    finally:
        entry.write_bytes(content)


def test_real_dvc_stops_at_a_half_written_entry_and_goes_on_once_it_is_mended(ran: Path) -> None:
    (ran / "dvc.lock").unlink()  # so that DVC looks for what has run
    entry = next(path for path in _entries(ran) if "in.txt" in path.read_text())
    entry.with_name(".pD9c.tmp").write_bytes(entry.read_bytes().partition(b"outs:")[0])
    os.utime(entry, (1, 1))  # DVC reads the newest
    broken = _dvc(ran, "repro")
    assert broken.returncode != 0
    assert "failed to reproduce 'first': 'outs'" in broken.stderr
    assert remove_leftovers(Workspace(ran, ran))
    mended = _dvc(ran, "repro")
    assert mended.returncode == 0, mended.stderr
    assert "is cached" in mended.stdout + mended.stderr


def _holder(pid: int) -> dict[str, object]:
    return {"pid": pid, "cmd": "dvc repro"}


def test_file_of_locks_is_mended_at_every_length(tmp_path: Path) -> None:
    from dvc.fs import localfs
    from dvc.rwlock import rwlock

    lock = tmp_path / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(parents=True)
    content = json.dumps({"write": {"/a": _holder(2**22 + 1)}, "read": {"/b": [_holder(2**22 + 1)]}})
    for length in range(len(content) + 1):
        lock.write_text(content[:length])
        assert remove_leftovers(Workspace(tmp_path, tmp_path)) == [
            ".dvc/tmp/rwlock: locks removed that a killed DVC had left"
        ]
        with rwlock(str(lock.parent), localfs, "dvc repro", ["/b"], ["/a"], False):
            pass


def test_locks_of_living_processes_stay(tmp_path: Path) -> None:
    lock = tmp_path / ".dvc" / "tmp" / "exps" / "rwlock"
    lock.parent.mkdir(parents=True)
    content = json.dumps({"read": {}, "write": {"/a": _holder(os.getpid())}})
    lock.write_text(content)
    assert remove_leftovers(Workspace(tmp_path, tmp_path)) == []
    assert lock.read_text() == content


def test_lock_whose_holders_number_is_another_processs_by_now_is_freed(tmp_path: Path) -> None:
    """As in a container that was killed and started again."""
    lock = tmp_path / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(parents=True)
    mine = _holder(os.getpid())
    lock.write_text(json.dumps({"read": {"/b": [mine]}, "write": {"/a": mine}}))
    before = psutil.Process().create_time() - 60
    os.utime(lock, (before, before))
    assert remove_leftovers(Workspace(tmp_path, tmp_path))
    assert json.loads(lock.read_text()) == {"read": {}, "write": {}}


def test_file_of_locks_that_a_dvc_is_writing_is_left_to_it(tmp_path: Path) -> None:
    from dvc.lock import make_lock

    lock = tmp_path / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(parents=True)
    lock.write_text("{")
    with make_lock(str(lock) + ".lock"):
        assert remove_leftovers(Workspace(tmp_path, tmp_path)) == []
    assert lock.read_text() == "{"


@pytest.mark.parametrize(
    "path", ["run/abc/abc.run", "standalone/run/abc/abc.run", "celery/broker/in/1.celery.msg", "celery/result/task-1"]
)
def test_records_of_experiments_are_removed_where_they_are_cut_off(path: str, tmp_path: Path) -> None:
    record = tmp_path / ".dvc" / "tmp" / "exps" / path
    record.parent.mkdir(parents=True)
    content = json.dumps({"git_url": "file:///a", "status": 1, "name": None})
    record.write_text(content)
    assert remove_leftovers(Workspace(tmp_path, tmp_path)) == []
    for length in range(len(content)):
        record.write_text(content[:length])
        assert remove_leftovers(Workspace(tmp_path, tmp_path)) == [
            "half-written records of DVC's experiments: 1 removed"
        ]
        assert not record.exists()


def test_folder_without_dvc_is_no_fault(tmp_path: Path) -> None:
    assert remove_leftovers(Workspace(tmp_path, tmp_path)) == []


def test_databases_that_were_cut_off_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "site" / "repo" / "abc" / "hashes" / "local" / "cache.db"
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as database:
        database.execute("create table one (a text)")
        database.executemany("insert into one values (?)", [("a" * 100,)] * 200)
    database.close()
    (tmp_path / ".dvc").mkdir()
    content = path.read_bytes()
    assert remove_leftovers(Workspace(tmp_path, tmp_path)) == []
    for length in [*range(1, 200, 7), *range(200, len(content), 799)]:
        path.write_bytes(content[:length])
        assert not is_database(path), length
    path.with_name("cache.db-wal").touch()
    assert remove_leftovers(Workspace(tmp_path, tmp_path)) == [
        "cut off databases of DVC's hashes: 1 removed; DVC hashes the files anew"
    ]
    assert list(path.parent.glob("*.db")) == []
    path.touch()
    assert remove_leftovers(Workspace(tmp_path, tmp_path)) == []

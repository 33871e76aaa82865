"""How entry points end, by processes of their own."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from copied import ROOT

from pipeline.entry import note_status
from pipeline.workspace import Workspace

BEGUN = "import sys; sys.argv = ['-m']; import pipeline.stages; "


def _ends(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_interruption_while_a_stage_is_imported_is_told_in_a_sentence() -> None:
    ended = _ends(BEGUN + "raise KeyboardInterrupt")
    assert ended.stderr == "interrupted; what had finished is kept, run the same command again to go on\n"
    assert ended.returncode in (130, -signal.SIGINT)


def test_other_errors_while_a_stage_is_imported_keep_their_traceback() -> None:
    ended = _ends(BEGUN + "raise RuntimeError('a bug')")
    assert "Traceback" in ended.stderr
    assert "RuntimeError: a bug" in ended.stderr


def test_who_only_imports_the_stages_keeps_pythons_own_ways() -> None:
    assert "Traceback" in _ends("import pipeline.stages; raise KeyboardInterrupt").stderr


def test_status_of_a_stage_is_noted_where_the_disk_has_no_room_left(tmp_path: Path) -> None:
    """`sar-search repro` has written as many bytes before, and writing over them takes no further room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=64k none {disk} 2>/dev/null"):
        pytest.skip("a small disk can be made by root alone")
    try:
        workspace = Workspace(disk, disk)
        workspace.stage_status.parent.mkdir()
        workspace.stage_status.write_text("    ")
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        note_status(workspace, 2)
        assert int(workspace.stage_status.read_text()) == 2
    finally:
        os.system(f"umount {disk}")

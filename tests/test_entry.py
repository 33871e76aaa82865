"""How entry points end, by processes of their own."""

import signal
import subprocess
import sys

from copied import ROOT

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

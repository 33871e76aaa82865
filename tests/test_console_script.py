"""The `sar-search` command runs the code of the checkout in which it is typed, whose environment it may not be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMAND = "import sys; sys.path.pop(0); from pipeline.console_script import main; main()"
OTHER_CLI = "import sys; print(__file__, sys.argv[1:])"


def _run(folder: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *args],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A checkout whose `sar-search` prints where its code is, and what it was given."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "docs").mkdir()
    for name, text in {
        "dvc.yaml": "",
        "params.yaml": "",
        "pipeline/__init__.py": "",
        "pipeline/cli.py": OTHER_CLI,
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("below", [".", "docs"])
def test_code_of_another_checkout_runs_there(other: Path, below: str) -> None:
    done = _run(other / below, "train", "--set", "a=b c")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{other / 'pipeline' / 'cli.py'} ['train', '--set', 'a=b c']\n"


def test_code_of_the_environment_runs_in_its_own_checkout() -> None:
    done = _run(ROOT / "docs", "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout
    assert "compare" in done.stdout

"""The command of dvc.yaml runs a stage by the Python of the environment that DVC runs in."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from copied import ROOT

from pipeline.config.yaml import read_yaml

SCRIPT = ROOT / "pipeline" / "stages" / "run.sh"

DVC = """
import subprocess, sys
sys.exit(subprocess.run([sys.argv[1], "-c", sys.argv[2]]).returncode)
"""
"""What DVC does."""


def _environment(folder: Path, *, ours: bool = True) -> Path:
    """A folder of programs whose python says who it is, unless it is to play DVC."""
    folder.mkdir(parents=True)
    python = folder / "python"
    real = shlex.quote(sys.executable)
    python.write_text(f'#!/bin/sh\nif [ "$1" = -m ]; then echo "$0 $*"; else exec {real} "$@"; fi\n')
    python.chmod(0o755)
    if ours:
        (folder / "sar-search").touch(0o755)
    return python


def _started_by(python: Path, path: str, shell: str = "/bin/sh") -> "subprocess.CompletedProcess[str]":
    """Run the command from a process whose interpreter, as the system tells it, is this one."""
    command = f"sh {shlex.quote(str(SCRIPT))} split"
    return subprocess.run(
        [str(python), "-c", DVC, shell, command],
        executable=sys.executable,
        env={"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_stage_is_run_by_it() -> None:
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    assert {name: stage["cmd"] for name, stage in stages.items()} == {
        name: f"sh pipeline/stages/run.sh {name}" for name in stages
    }


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_environment_of_dvc_is_taken_though_it_is_not_activated(shell: str, tmp_path: Path) -> None:
    if not os.access(shell, os.X_OK):
        pytest.skip(f"no {shell}")
    own, other = _environment(tmp_path / "a b" / "bin"), _environment(tmp_path / "other")
    ended = _started_by(own, f"{other.parent}:/usr/bin:/bin", shell)
    assert ended.stdout == f"{own} -m pipeline.stages.split\n"


def test_dvc_of_another_environment_leaves_the_choice_to_the_path(tmp_path: Path) -> None:
    pipx, active = _environment(tmp_path / "pipx", ours=False), _environment(tmp_path / "active")
    ended = _started_by(pipx, f"{active.parent}:/usr/bin:/bin")
    assert ended.stdout == f"{active} -m pipeline.stages.split\n"


def test_where_no_python_is_found_it_is_told_what_to_do(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "tr", "head", "sed", "ps"):
        there = next((Path(folder, name) for folder in ("/usr/bin", "/bin") if Path(folder, name).exists()), None)
        if there:
            (tools / name).symlink_to(there)
    ended = _started_by(_environment(tmp_path / "pipx", ours=False), str(tools))
    assert ended.returncode == 2
    assert "activate the environment" in ended.stderr

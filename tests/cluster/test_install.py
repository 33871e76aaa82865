"""The Dockerfile's own steps, but for Debian's packages, run in order in a fresh environment."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)  # some GB, which pytest would keep


def test_steps_of_the_dockerfile_give_a_working_command(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(folder / "environment")], check=True)
    place = folder / "opt"
    place.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment = kept | {
        "PATH": f"{folder}/environment/bin:{os.environ['PATH']}",
        "DEVICE": "gpu",
        "TORCH_INDEX": "",
    }
    for kind, rest in _steps():
        if kind == "COPY":
            *sources, target = rest.split()
            for source in sources:
                _copy(ROOT / source, place / target)
        elif kind == "RUN" and "apt-get" not in rest:
            done = subprocess.run(["sh", "-c", rest], cwd=place, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for command in (["sar-search", "--version"], ["ray", "--version"], ["mlflow", "--version"], ["dvc", "--version"]):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]


def _steps() -> list[tuple[str, str]]:
    lines = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    pairs = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    return [(kind, rest) for kind, rest in pairs]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)

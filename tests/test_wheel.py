"""The wheel and the source distribution, without their dependencies: a library beside torch, timm, numba and numpy."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bare_environment import make_environment

ROOT = Path(__file__).parents[1]
LIBRARY = ("torch", "timm", "numba", "numpy")
UV = Path(sys.executable).parent / "uv"
NO_CLONE = (
    r"error: .*: no dvc.yaml and params.yaml here or above; run this in a clone of the project's repository, .*\n"
)
NO_PACKAGE = r"error: the package {} is not installed, which .* a clone of .*; in the clone, `make environment` .*\n"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

Installed = Callable[[str, tuple[str, ...]], Path]


def run(*command: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    # UV_PYTHON and the like must not lead elsewhere.
    kept = {name: text for name, text in os.environ.items() if not re.match("PYTHON|UV_|VIRTUAL_ENV", name)}
    kept |= {"UV_OFFLINE": "1", "UV_NO_CACHE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([str(part) for part in command], cwd=cwd, env=kept, capture_output=True, text=True)


def succeed(*command: str | Path, cwd: Path) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of the checkout, and one that is built from the source distribution, as pip does."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    shutil.copytree(ROOT / "pipeline", source / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = (UV, "build", "--no-build-isolation", "--python", sys.executable)
    succeed(*build, "--wheel", "--out-dir", folder / "wheel", ".", cwd=source)
    succeed(*build, "--sdist", "--out-dir", folder / "sdist", ".", cwd=source)
    (archive,) = (folder / "sdist").glob("*.tar.gz")
    succeed(*build, "--wheel", "--out-dir", folder / "from-sdist", archive, cwd=folder)
    return {kind: next((folder / where).glob("*.whl")) for kind, where in (("wheel", "wheel"), ("sdist", "from-sdist"))}


@pytest.fixture
def installed(built: dict[str, Path], tmp_path: Path) -> Installed:
    """Installs one of them without dependencies beside some packages, and returns the environment's folder."""

    def install(kind: str, packages: tuple[str, ...]) -> Path:
        place = tmp_path / "environment"
        python = make_environment(place, packages)
        succeed(UV, "pip", "install", "--python", python, "--no-deps", built[kind], cwd=tmp_path)
        return place

    return install


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_lines_of_the_docs_run_beside_four_packages(installed: Installed, tmp_path: Path, kind: str) -> None:
    place = installed(kind, LIBRARY)
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert "epochs = 100\n" in code
    program = tmp_path / "mine.py"
    program.write_text(
        "import torch\n"
        "loader = [(torch.randn(2, 3, 224, 224), torch.tensor([0, 1]))]\n"
        + code.replace("epochs = 100\n", "epochs = 2\n")
        + "model(images)\nassert sar.measure().monitors['value'].isfinite()\n"
        + "import sys, pipeline\nprint(loss.item(), pipeline.__file__)\n"
        + "print([name for name in ('ray', 'optuna', 'mlflow', 'dvc', 'pydantic', 'click') if name in sys.modules])\n"
    )
    said = succeed(place / "bin" / "python", program, cwd=tmp_path)
    assert str(place) in said
    assert said.endswith("[]\n")


def dependencies() -> set[str]:
    listed = re.search(
        r"^dependencies = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M | re.S
    )
    assert listed is not None
    return set(re.findall(r'^    "([\w.-]+)', listed[1], re.M))


@pytest.mark.parametrize("packages", [LIBRARY, ("numpy",), ("click", "psutil", "filelock")], ids=" ".join)
def test_command_without_its_packages_says_so(installed: Installed, tmp_path: Path, packages: tuple[str, ...]) -> None:
    done = run(installed("wheel", packages) / "bin" / "sar-search", "check", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(NO_PACKAGE.format(r"\w+"), done.stderr)


@pytest.mark.parametrize("missing", [None, "ray", "mlflow", "optuna", "click", "pydantic"])
def test_command_outside_a_clone_says_so(installed: Installed, tmp_path: Path, missing: str | None) -> None:
    place = installed("wheel", tuple(sorted(dependencies() - {missing})))
    for entry in place.glob(f"lib/python3*/site-packages/{missing}"):
        entry.unlink()  # another package requires it
    done = run(place / "bin" / "sar-search", "check", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(f"{NO_CLONE}|{NO_PACKAGE.format(missing)}", done.stderr)

"""A container engine, where one is: the project's image, built once per hash of what it is made of; stand-ins for others.

Base images that cannot be pulled are replaced by variables of their own: PYTHON_IMAGE for the Dockerfile's, POSTGRES_IMAGE
and S3_IMAGE for the services'. Where the latter two are not given and not there, stand-ins are built from Debian's
packages and PyPI (stand_ins/).
"""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STAND_INS = Path(__file__).with_name("stand_ins")
MADE_OF = (".dockerignore", "docker/Dockerfile", "docker/install.sh", "docker/serve_mlflow.py", "requirements.lock")
"""What decides the image; the checkout that is mounted brings the code."""

NEEDED_GB = 30
POSTGRES, S3 = "docker.io/library/postgres:17", "docker.io/versity/versitygw:v1.8.0"


def program() -> str | None:
    """Docker or podman, whichever answers."""
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    return None


@cache
def what_lacks() -> str:
    """Why the image cannot be built here; empty if it can."""
    found = program()
    if found is None:
        return "needs a container engine that answers (docker or podman)"
    if engine("image", "inspect", image_name(), check=False).returncode == 0:
        return ""
    field = "{{.DockerRootDir}}" if found == "docker" else "{{.Store.GraphRoot}}"
    place = engine("info", "-f", field).stdout.strip()
    free = shutil.disk_usage(place).free / 1e9
    return "" if free >= NEEDED_GB else f"needs {NEEDED_GB} GB at {place}, where {free:.0f} are free"


def engine(
    *arguments: str, check: bool = True, seconds: float = 600, **more: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a command of the engine."""
    found = program_there()
    done = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=seconds, **more)
    assert not check or done.returncode == 0, (
        f"{found} {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    )
    return done


@cache
def program_there() -> str:
    found = program()
    assert found is not None
    return found


@cache
def image_name() -> str:
    """The image's name, by the hash of what it is made of."""
    digest = hashlib.sha256()
    for name in MADE_OF:
        digest.update((ROOT / name).read_bytes())
    digest.update(os.environ.get("PYTHON_IMAGE", "").encode())
    return f"localhost/sar-search-test:{digest.hexdigest()[:16]}"


@cache
def project_image() -> str:
    """The name of the project's image, which is built where it is not there yet: minutes."""
    if engine("image", "inspect", image_name(), check=False).returncode:
        build(image_name(), ROOT, ROOT / "docker" / "Dockerfile", ["REVISION=tests"])
    return image_name()


def build(name: str, context: Path, file: Path, arguments: Sequence[str] = ()) -> None:
    """Build an image."""
    flags = ["--layers=false"] if program_there() == "podman" else []
    if "PYTHON_IMAGE" in os.environ:
        arguments = [*arguments, f"PYTHON_IMAGE={os.environ['PYTHON_IMAGE']}"]
    flags += [part for argument in arguments for part in ("--build-arg", argument)]
    engine("build", *flags, "-t", name, "-f", str(file), str(context), seconds=3600)


def image_of(variable: str, real: str) -> str:
    """The image of a service: that of a variable, the real one, or a stand-in where that cannot be had.

    Which one it is, the test that uses it prints.
    """
    if variable in os.environ:
        return os.environ[variable]
    if engine("image", "inspect", real, check=False).returncode == 0:
        return real
    if engine("pull", "-q", real, check=False, seconds=900).returncode == 0:
        return real
    kind = "postgres" if real == POSTGRES else "s3"
    name = f"localhost/sar-search-test-{kind}:{hashlib.sha256(_content(kind)).hexdigest()[:16]}"
    if engine("image", "inspect", name, check=False).returncode:
        build(name, STAND_INS, STAND_INS / f"{kind}.Dockerfile")
    return name


def _content(kind: str) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(STAND_INS.glob(f"{kind}.*")))


def inspect(name: str) -> dict[str, Any]:
    """What the engine knows of a container or an image."""
    (found,) = json.loads(engine("inspect", name).stdout)
    return dict(found)


def until(holds: Callable[[], Any], what: str, seconds: float = 300, pause: float = 1.0) -> Any:
    """Ask until the answer is true."""
    end = time.monotonic() + seconds
    while not (answer := holds()):
        assert time.monotonic() < end, f"{what} did not come to be within {seconds:.0f} s"
        time.sleep(pause)
    return answer

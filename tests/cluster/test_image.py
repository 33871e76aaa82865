"""The image, built by docker/Dockerfile, and the pipeline in it as users run it: offline, not as root, nothing to write to
but the checkout and /tmp."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.checkout import TINY, Checkout
from support.engine import engine, inspect, program_there, project_image, what_lacks

pytestmark = [pytest.mark.services, pytest.mark.containers, pytest.mark.timeout(5400)]

ROOT = Path(__file__).parents[2]
OWNER = 4321
"""A number that no user of the image or of this machine has."""


@pytest.fixture(scope="module")
def image() -> str:
    if lacks := what_lacks():
        pytest.skip(lacks)
    return project_image()


@pytest.fixture(scope="module")
def checkout() -> Iterator[Checkout]:
    """A checkout that belongs to somebody whom the image does not know."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a checkout to another user")
    folder = Path(tempfile.mkdtemp(prefix="sar-image-", dir="/var/tmp"))
    try:
        made = Checkout(folder / "checkout", TINY)
        folder.chmod(0o755)
        _give(made.root, OWNER)
        yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _give(root: Path, owner: int) -> None:
    subprocess.run(["chown", "-R", f"{owner}:{owner}", str(root)], check=True)


def _run(image: str, *command: str, user: str, root: Path | None = None, seconds: float = 1800) -> Any:
    """Run in the image: read-only, offline, without capabilities, /tmp in memory."""
    flags = ["--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    flags += ["--tmpfs", "/tmp:rw,exec,size=4g", "--shm-size=1g", f"--user={user}"]
    if program_there() == "podman":
        flags.append(
            "--read-only-tmpfs=false"
        )  # else /run and /var/tmp could be written too, as with Docker they cannot
    if root is not None:
        flags += ["-v", f"{root}:/work"]
    return engine("run", *flags, image, *command, check=False, seconds=seconds)


def test_image_says_what_it_is_and_belongs_to_no_root(image: str) -> None:
    found = inspect(image)
    labels = found["Config"]["Labels"]
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None
    assert labels["org.opencontainers.image.version"] == version[1]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.revision"] == "tests"
    assert found["Config"]["User"] == "1000"
    print(f"size of the image: {found['Size'] / 1e9:.2f} GB")


def test_packages_are_those_of_the_lock_without_development_and_lack_nothing(image: str) -> None:
    """`pip inspect` is the list of what is in the image: names, versions, licences."""
    done = _run(image, "python", "-m", "pip", "inspect", "--local", user="1000")
    assert done.returncode == 0, done.stderr
    there = {each["metadata"]["name"].lower().replace("_", "-"): each for each in json.loads(done.stdout)["installed"]}
    listed = subprocess.run(
        ["bash", "docker/install.sh", "list"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    wanted = dict(
        re.findall(r"^([A-Za-z0-9.-]+?)(?:\[[^]]*\])?==(\S+)(?![^\\]*(?:win32|darwin|Windows))", listed, re.M)
    )
    for name, version in wanted.items():
        found = there.get(name.lower())
        assert found is None or found["metadata"]["version"] == version, name
    assert {"torch", "ray", "mlflow", "dvc", "optuna", "boto3", "psycopg2-binary", "sar-search"} <= set(there)
    assert not {"pytest", "mypy", "moto", "ruff", "hypothesis"} & set(there)
    checked = _run(image, "python", "-m", "pip", "check", user="1000")
    assert checked.returncode == 0, checked.stdout


def test_whole_pipeline_as_a_user_without_a_name_on_a_checkout_of_its_own(image: str, checkout: Checkout) -> None:
    done = _run(image, "sar-search", "repro", user=f"{OWNER}:{OWNER}", root=checkout.root)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "another user" not in done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    assert (checkout.root / "results" / "report" / "index.html").stat().st_uid == OWNER
    commit = subprocess.run(
        ["git", "-c", "safe.directory=*", "rev-parse", "HEAD"],
        cwd=checkout.root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert commit[:7] in (checkout.root / "results" / "report" / "index.html").read_text()


def test_checkout_of_another_owner_is_read_by_git_and_dvc(image: str, checkout: Checkout) -> None:
    """Where everybody may write in it, as on shared disks."""
    subprocess.run(["chmod", "-R", "a+rwX", str(checkout.root)], check=True)
    for command in (["git", "rev-parse", "HEAD"], ["dvc", "status"], ["sar-search", "check"]):
        done = _run(image, *command, user="1000", root=checkout.root)
        assert done.returncode == 0, (command, done.stdout[-2000:] + done.stderr[-2000:])
        assert "another user" not in done.stdout + done.stderr
        assert "not owned" not in done.stdout + done.stderr


def test_code_is_that_of_the_checkout_which_is_mounted(image: str, checkout: Checkout) -> None:
    (file := checkout.root / "pipeline" / "errors.py").write_text(f"{file.read_text()}\nprint('of the checkout')\n")
    assert "of the checkout" in _run(image, "sar-search", "--version", user="1000", root=checkout.root).stdout
    without = _run(image, "sar-search", "--version", user="1000")
    assert without.returncode == 0, without.stderr


def test_folder_that_cannot_be_written_is_told_in_a_sentence(image: str, checkout: Checkout) -> None:
    subprocess.run(["chmod", "-R", "go-w", str(checkout.root)], check=True)
    done = _run(image, "sar-search", "repro", user="1000", root=checkout.root)
    assert done.returncode not in (0, 1), done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "/work" in done.stderr
    print(done.stderr)

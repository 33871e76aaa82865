"""A user without a name, and homes that cannot be used: by processes that really run as such a user."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from copied import ROOT

NOBODY = 54321
"""A number that no user has."""

SCRIPT = """
import os, sys
from pipeline.compute.user import CACHES, settle_user
settle_user()
import getpass, pathlib
import matplotlib
print(getpass.getuser(), pathlib.Path.home(), matplotlib.get_cachedir(), *(os.environ.get(name, "-") for name in CACHES), sep="|")
"""


# As a user of that number, who may write nowhere but in its own folders, yet read a Python that lies in root's home.
BECOME = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
BECOME += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


def settled(environment: Mapping[str, str], become: Sequence[str] = ()) -> list[str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "LOGNAME", "USER"))}
    given |= {"PYTHONPATH": str(ROOT), **environment}
    given = {name: value for name, value in given.items() if value != "unset"}
    command = [*become, sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=given, cwd="/", capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.strip().split("|")


@pytest.fixture
def temporary() -> Iterator[Path]:
    if subprocess.run([*BECOME, sys.executable, "-c", ""], capture_output=True).returncode:
        pytest.skip("this machine lets us start no process as another user")
    with tempfile.TemporaryDirectory(prefix="sar-user-", dir="/tmp") as folder:
        os.chmod(folder, 0o1777)
        yield Path(folder)


def test_usual_user_is_left_alone(tmp_path: Path) -> None:
    name, home, _, *caches = settled({"HOME": str(tmp_path), "LOGNAME": "me", "MPLCONFIGDIR": "unset"})
    assert (name, home, caches) == ("me", str(tmp_path), ["-"] * 4)


needs_setpriv = pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv of util-linux")


@needs_setpriv
@pytest.mark.parametrize("home", ["/", "/nowhere", "unset"])
def test_user_without_a_name_and_a_home(temporary: Path, home: str) -> None:
    name, found, figures, *caches = settled({"HOME": home, "TMPDIR": str(temporary), "MPLCONFIGDIR": "unset"}, BECOME)
    own = temporary / f"sar-search-{NOBODY}-caches"
    assert name == f"user-{NOBODY}"
    assert found == (str(own) if home == "unset" else home)
    assert figures == str(own / "matplotlib")
    assert caches == [str(own), *(str(own / below) for below in ("matplotlib", "triton", "dvc"))]
    assert own.stat().st_mode & 0o777 == 0o700
    assert own.stat().st_uid == NOBODY


@needs_setpriv
def test_folder_that_somebody_else_has_made_is_not_used(temporary: Path) -> None:
    (temporary / f"sar-search-{NOBODY}-caches").symlink_to("/tmp")
    given = {"HOME": "/nowhere", "TMPDIR": str(temporary), "MPLCONFIGDIR": "unset"}
    _, _, _, first, *_ = settled(given, BECOME)
    assert Path(first).parent == temporary
    assert Path(first).name.startswith("sar-caches-")

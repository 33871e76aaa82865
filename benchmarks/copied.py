"""A copy of this checkout in a folder of its own, with its own parameters, for commands that may not disturb this one.

Used by benchmarks and by the tests that run the real command.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]


def copy_checkout(folder: Path) -> None:
    """Copy this checkout's files as they are now, the tests and results left out, and commit them there."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if not name.startswith("tests/") and name != "dvc.lock" and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "copy"]):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *command], cwd=folder, check=True)


def set_parameters(path: Path, settings: Mapping[str, Any]) -> None:
    """Change a parameter file by dotted path; also to values that are not allowed."""
    yaml = YAML()
    tree = yaml.load(path.read_text())
    for name, value in settings.items():
        node = tree
        *parents, leaf = name.split(".")
        for key in parents:
            node = node[key]
        node[leaf] = value
    with path.open("w") as file:
        yaml.dump(tree, file)


def environment_of(root: Path) -> dict[str, str]:
    """The environment of commands in a copy: this one's programs, the copy's own code, nobody's tracking store."""
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    path = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    return {**kept, "PATH": path, "PYTHONPATH": str(root)}


def take_interrupts() -> None:
    """For `preexec_fn`: a shell's background jobs ignore interruptions, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
